"""A corpus of Authorization headers: good ones, and bad ones that JWT libraries have accepted.

RFC 8725 lists most of the attacks. The signatures are computed here, not by the code under test.
"""

import base64
import json
from collections.abc import Iterator

from service.identity.keys import KeyRing
from service.identity.verification import TokenTerms
from tests.platform import corpus_claims, corpus_headers, corpus_structures
from tests.platform.corpus_forge import ORG_ID, Case, Forge, NamedTokens, quote, to_json


def build(
    keys: KeyRing,
    terms: TokenTerms,
    *,
    now: float,
    subject: str = "guest-0001",
    org_id: str = ORG_ID,
) -> list[Case]:
    """Return all cases, for tokens signed at `now` (epoch) with the active key of `keys`.

    They stay correct for the next minute, so that they can be sent to a running service.
    """
    kid, key = keys.signing()
    issued_at = int(now)
    forge = Forge(
        kid,
        key,
        {"alg": '"HS256"', "kid": quote(kid), "typ": '"JWT"'},
        {
            "iss": quote(terms.issuer),
            "aud": quote(terms.audience),
            "sub": quote(subject),
            "org_id": quote(org_id),
            "iat": str(issued_at),
            "nbf": str(issued_at),
            "exp": str(issued_at + terms.lifetime),
        },
        issued_at,
        terms.lifetime,
    )
    return [
        *_controls(forge),
        *_rejected("alg", corpus_headers.algorithms(forge)),
        *_rejected("signature", corpus_structures.signatures(forge)),
        *_rejected("time", corpus_claims.times(forge)),
        *_rejected("audience and issuer", corpus_claims.issuers_and_audiences(forge)),
        *_rejected("sub", corpus_claims.subjects(forge)),
        *_rejected("org_id", corpus_claims.org_ids(forge)),
        *_rejected("kid", corpus_headers.kids(forge)),
        *_rejected("header", corpus_headers.header_members(forge)),
        *_rejected("json", corpus_structures.json_texts(forge)),
        *_rejected("structure", corpus_structures.structures(forge)),
        *(Case("scheme", name, header, False) for name, header in _schemes(forge.token())),
    ]


def _rejected(group: str, tokens: NamedTokens) -> Iterator[Case]:
    return (Case(group, name, f"Bearer {token}", False) for name, token in tokens)


def _controls(forge: Forge) -> Iterator[Case]:
    good = forge.token()
    audience, subject = forge.claims["aud"], json.loads(forge.claims["sub"] or "")
    exp = str(forge.now + max(forge.lifetime // 2, 60))
    tokens = {
        "plain": good,
        "extra claim": forge.token({"jti": '"5f1c"'}),
        "extra nested claim": forge.token({"act": '{"sub": ["a", {"b": 1.5}]}'}),
        "no typ": forge.token(header={"typ": None}),
        "audience as list": forge.token({"aud": f"[{audience}]"}),
        "audience among others": forge.token({"aud": f'["elsewhere", {audience}]'}),
        "shorter lifetime": forge.token({"exp": exp}),
        "nbf before iat": forge.token({"nbf": str(forge.now - 30)}),
        "longest sub": forge.token({"sub": quote("~" * 128)}),
        "sub in brackets": forge.token({"sub": quote("[" * 128)}),
        "escaped letter": forge.token({"sub": f'"\\u{ord(subject[0]):04x}{subject[1:]}"'}),
        "spaced JSON": forge.seal(
            json.dumps(json.loads(to_json(forge.header)), indent=1).encode(),
            json.dumps(json.loads(to_json(forge.claims)), indent="\t").encode(),
        ),
        "members in another order": forge.seal(
            to_json(dict(reversed(forge.header.items()))),
            to_json(dict(reversed(forge.claims.items()))),
        ),
    }
    schemes = {"bearer", "BEARER", "bEaReR", "Bearer ", "Bearer  "}
    yield from (Case("control", name, f"Bearer {token}", True) for name, token in tokens.items())
    yield from (Case("control", repr(s), f"{s} {good}", True) for s in sorted(schemes))


def _schemes(good: str) -> NamedTokens:
    yield from {
        "empty": "",
        "no scheme": good,
        "Bearer alone": "Bearer",
        "no space": f"Bearer{good}",
        "tab": f"Bearer\t{good}",
        "space and tab": f"Bearer \t{good}",
        "no-break space": f"Bearer\xa0{good}",
        "space and no-break space": f"Bearer \xa0{good}",
        "latin-1 scheme": f"B\xe9arer {good}",
        "leading latin-1": f"\xe9 Bearer {good}",
        "colon": f"Bearer: {good}",
        "equals": f"Bearer={good}",
        "parameter": f"Bearer token={good}",
        "comma list": f"Bearer {good}, Bearer {good}",
        "trailing comma": f"Bearer {good},",
        "leading comma": f", Bearer {good}",
        "another scheme first": f"Basic dTpw, Bearer {good}",
        "trailing parameter": f'Bearer {good}, realm="x"',
        "scheme twice": f"Bearer Bearer {good}",
        "Basic": "Basic dTpw",
        **{scheme: f"{scheme} {good}" for scheme in ("Basic", "Token", "JWT", "DPoP", "Bearers")},
        "token in Basic": f"Basic {base64.b64encode(good.encode()).decode()}",
        "quoted": f'"Bearer {good}"',
    }.items()
