"""Hand-built Authorization headers, good and bad: RFC 8725 and all that JWT libraries let pass.

Signatures are made here, not by the code under test. Members are given as JSON text, so that
values which no JSON writer produces (NaN, 5000 digits, a lone surrogate) can be written down.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from dataclasses import dataclass

from service.identity.keys import KeyRing
from service.identity.tokens import TokenTerms

ORG_ID = "01939b1e-7a00-7000-8000-00000000ac3e"
Members = dict[str, str | None]  # name → JSON text; None leaves the member out

PEM = b"""-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE9GVJa5oeAdI6VQTX0eYgPhCn/MDF
ZPePgX1513iYy/VRCagH/IloSETNzXbhBsoLqSLfyBgY+EPjIFfS4aSZ2A==
-----END PUBLIC KEY-----"""


@dataclass(frozen=True)
class Case:
    """One Authorization header value, in Latin-1, and whether it is to be accepted."""

    group: str
    name: str
    header: str
    accepted: bool


@dataclass(frozen=True)
class Forge:
    """All that is needed to sign a token that differs from a good one at will."""

    kid: str
    key: bytes
    header: Members
    claims: Members
    now: int
    lifetime: int

    def token(self, claims: Members | None = None, header: Members | None = None) -> str:
        return self.seal(text(self.header | (header or {})), text(self.claims | (claims or {})))

    def seal(
        self, header: bytes, payload: bytes, key: bytes | None = None, digest: str = "sha256"
    ) -> str:
        signed = f"{encode(header)}.{encode(payload)}"
        secret = self.key if key is None else key
        return f"{signed}.{encode(hmac.digest(secret, signed.encode(), digest))}"


def build(
    keys: KeyRing,
    terms: TokenTerms,
    *,
    now: float,
    subject: str = "guest-0001",
    org_id: str = ORG_ID,
) -> list[Case]:
    """Return all cases, for tokens signed at `now` (epoch) with the active key of `keys`.

    They hold for the next minute, so that they can be sent to a running service.
    """
    kid, key = keys.signing()
    issued = int(now)
    forge = Forge(
        kid,
        key,
        {"alg": '"HS256"', "kid": quote(kid), "typ": '"JWT"'},
        {
            "iss": quote(terms.issuer),
            "aud": quote(terms.audience),
            "sub": quote(subject),
            "org_id": quote(org_id),
            "iat": str(issued),
            "nbf": str(issued),
            "exp": str(issued + terms.lifetime),
        },
        issued,
        terms.lifetime,
    )
    return [
        *_controls(forge),
        *_refused("alg", _algorithms(forge)),
        *_refused("signature", _signatures(forge)),
        *_refused("time", _times(forge)),
        *_refused("audience and issuer", _names(forge)),
        *_refused("sub", _subjects(forge)),
        *_refused("org_id", _org_ids(forge)),
        *_refused("kid", _kids(forge)),
        *_refused("header", _headers(forge)),
        *_refused("json", _json(forge)),
        *_refused("structure", _structures(forge)),
        *(Case("scheme", name, header, False) for name, header in _schemes(forge.token())),
    ]


def encode(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def quote(value: object) -> str:
    return json.dumps(value)


def text(members: Members) -> bytes:
    present = (f"{quote(name)}:{value}" for name, value in members.items() if value is not None)
    return ("{" + ",".join(present) + "}").encode()


def _refused(group: str, tokens: Iterator[tuple[str, str]]) -> Iterator[Case]:
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
        "shorter life": forge.token({"exp": exp}),
        "nbf before iat": forge.token({"nbf": str(forge.now - 30)}),
        "longest sub": forge.token({"sub": quote("~" * 128)}),
        "sub in brackets": forge.token({"sub": quote("[" * 128)}),
        "escaped letter": forge.token({"sub": f'"\\u{ord(subject[0]):04x}{subject[1:]}"'}),
        "spaced json": forge.seal(
            json.dumps(json.loads(text(forge.header)), indent=1).encode(),
            json.dumps(json.loads(text(forge.claims)), indent="\t").encode(),
        ),
        "members in another order": forge.seal(
            text(dict(reversed(forge.header.items()))), text(dict(reversed(forge.claims.items())))
        ),
    }
    schemes = {"bearer", "BEARER", "bEaReR", "Bearer ", "Bearer  "}
    yield from (Case("control", name, f"Bearer {token}", True) for name, token in tokens.items())
    yield from (Case("control", repr(s), f"{s} {good}", True) for s in sorted(schemes))


def _algorithms(forge: Forge) -> Iterator[tuple[str, str]]:
    payload = text(forge.claims)
    none = ("none", "None", "NONE", "nOnE", "none ", " none", "")
    for name in none:
        header = text(forge.header | {"alg": quote(name)})
        yield f"{name!r}, no signature", f"{encode(header)}.{encode(payload)}."
        yield f"{name!r}, good signature", forge.seal(header, payload)
    old = forge.token().rpartition(".")[2]
    header = text(forge.header | {"alg": '"none"'})
    yield "none, signature of a good token", f"{encode(header)}.{encode(payload)}.{old}"
    others = ("null", '["HS256"]', '{"a":"HS256"}', "256", "true", '"hs256"', '"HS256 "')
    for value in (
        None,
        *others,
        '"HS256\\u0000"',
        '"HS384"',
        '"HS512"',
        '"RS256"',
        '"EdDSA"',
        '"HS1"',
        '"dir"',
    ):
        yield f"alg {value}", forge.token(header={"alg": value})
    for bits in ("384", "512"):
        header = text(forge.header | {"alg": quote(f"HS{bits}")})
        yield f"HS{bits} throughout", forge.seal(header, payload, digest=f"sha{bits}")
        yield (
            f"HS256 signed as HS{bits}",
            forge.seal(text(forge.header), payload, digest=f"sha{bits}"),
        )
    for name, length in (("ES256", 64), ("RS256", 256), ("EdDSA", 64)):
        header = text(forge.header | {"alg": quote(name)})
        yield f"{name}, zeros", f"{encode(header)}.{encode(payload)}.{encode(bytes(length))}"
    for name in ("RS256", "HS256"):
        header = text(forge.header | {"alg": quote(name)})
        yield f"{name}, public key as secret", forge.seal(header, payload, key=PEM)
        yield f"{name}, public key and newline", forge.seal(header, payload, key=PEM + b"\n")


def _signatures(forge: Forge) -> Iterator[tuple[str, str]]:
    header, payload = text(forge.header), text(forge.claims)
    good = forge.token()
    signed, _, signature = good.rpartition(".")
    raw = base64.urlsafe_b64decode(signature + "=")
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    spare = last[last.index(signature[-1]) ^ 1]
    yield "empty", f"{signed}."
    yield "removed", signed
    yield "one character short", good[:-1]
    yield "half", f"{signed}.{encode(raw[:16])}"
    yield "one byte more", f"{signed}.{encode(raw + bytes(1))}"
    yield "twice", f"{good}{signature}"
    yield "bit flip", f"{signed}.{encode(bytes([raw[0] ^ 1]) + raw[1:])}"
    yield "last bit flip", f"{signed}.{encode(raw[:-1] + bytes([raw[-1] ^ 1]))}"
    yield "zeros", f"{signed}.{encode(bytes(32))}"
    yield "spare bit set", f"{good[:-1]}{spare}"
    yield "in hexadecimal", f"{signed}.{raw.hex()}"
    yield (
        "payload swapped",
        ".".join((encode(header), encode(text(forge.claims | {"sub": '"root"'})), signature)),
    )
    yield (
        "header swapped",
        ".".join((encode(text(forge.header | {"typ": None})), encode(payload), signature)),
    )
    yield "digest without key", f"{signed}.{encode(hashlib.sha256(signed.encode()).digest())}"
    wrong = {
        "another key": hashlib.sha256(forge.key).hexdigest().encode(),
        "empty key": b"",
        "key and newline": forge.key + b"\n",
        "key short of a byte": forge.key[:-1],
        "key in upper case": forge.key.swapcase(),
        "key in base64": base64.b64encode(forge.key),
        "kid as key": forge.kid.encode(),
    }
    words = ("secret", "password", "changeme", "your-256-bit-secret", "covenant", "jwt", "key")
    wrong |= {f"key {word!r}": word.encode() for word in words}
    for name, key in wrong.items():
        yield name, forge.seal(header, payload, key=key)


def _times(forge: Forge) -> Iterator[tuple[str, str]]:
    now, life = forge.now, forge.lifetime
    for claim, time in (("exp", now + 60), ("iat", now), ("nbf", now)):
        for name, value in {
            "missing": None,
            "null": "null",
            "a word": '"soon"',
            "a number in quotes": f'"{time}"',
            "a list": f"[{time}]",
            "an object": "{}",
            "true": "true",
            "negative": "-1",
            "a float": f"{time}.0",
            "an exponent": f"{time}e0",
            "1e400": "1e400",
            "NaN": "NaN",
            "Infinity": "Infinity",
            "5000 digits": "9" * 5000,
            "400 digits": "1" * 400,
            "2**53": str(2**53),
            "2**64": str(2**64),
        }.items():
            yield f"{claim} {name}", forge.token({claim: value})
    for name, iat, nbf, exp in (
        ("ended a second ago", now - 60, now - 60, now - 1),
        ("ends now", now - 60, now - 60, now),
        ("ended after its whole life", now - life, now - life, now),
        ("yesterday's", now - 86400, now - 86400, now - 86400 + life),
        ("exp zero", now, now, 0),
        ("exp is iat", now, now, now),
        ("exp is iat, ahead", now + 4, now + 4, now + 4),
        ("a second beyond the lifetime", now, now, now + life + 1),
        ("an hour beyond the lifetime", now, now, now + life + 3600),
        ("ten years", now, now, now + 315_360_000),
        ("exp in milliseconds", now, now, (now + life) * 1000),
        ("exp just below 2**53", now, now, 2**53 - 1),
        ("iat too long ago for exp", now - 60, now - 60, now - 60 + life + 1),
        ("iat zero", 0, now, now + life),
        ("iat two minutes ahead", now + 120, now, now + 180),
        ("iat an hour ahead", now + 3600, now, now + 3600 + life),
        ("nbf two minutes ahead", now, now + 120, now + life),
        ("nbf after exp", now, now + life + 60, now + life),
        ("ends before it begins", now + 4, now, now + 3),
    ):
        yield name, forge.token({"iat": str(iat), "nbf": str(nbf), "exp": str(exp)})
    yield "all false", forge.token({"iat": "false", "nbf": "false", "exp": "true"})


def _names(forge: Forge) -> Iterator[tuple[str, str]]:
    for claim in ("aud", "iss"):
        ours = json.loads(forge.claims[claim] or "")
        for value in (
            *("elsewhere", "", "*", [], [""], ["elsewhere"], 1, True, None, {ours: ours}),
            *([ours, 1], [ours, None], [[ours]], ours[:-1], ours + "x", f"{ours} ", f" {ours}"),
            *(ours.upper() + "X", f"{ours}\0", f"{ours},elsewhere"),
        ):
            yield f"{claim} {value!r}", forge.token({claim: quote(value)})
        yield f"{claim} missing", forge.token({claim: None})
    yield "iss as list", forge.token({"iss": f"[{forge.claims['iss']}]"})


def _subjects(forge: Forge) -> Iterator[tuple[str, str]]:
    values: tuple[object, ...] = (1, True, None, ["guest-0001"], {}, "", " ", "guest 1", " guest")
    for value in (
        *values,
        "guest ",
        "guest\n",
        "a\0b",
        "\u202eguest",
        "gäst",
        "guest\u00a01",
        "\x7f",
        "\ud800",
    ):
        yield f"sub {value!r}", forge.token({"sub": quote(value)})
    yield "sub missing", forge.token({"sub": None})
    for length in (129, 4096, 1_000_000):
        yield f"sub of {length} characters", forge.token({"sub": quote("a" * length)})


def _org_ids(forge: Forge) -> Iterator[tuple[str, str]]:
    ours = json.loads(forge.claims["org_id"] or "")
    wide = ours.translate({digit: digit + 0xFEE0 for digit in range(ord("0"), ord("9") + 1)})
    shapes = ("", 1, [ours], {"id": ours}, True, None, "' or '1'='1", "*", "%", f"{ours}\0")
    for value in (
        *(*shapes, f" {ours}", f"{ours} ", f"{ours}\n", wide, ours.upper(), f"{{{ours}}}"),
        *(ours.replace("-", ""), f"urn:uuid:{ours}", ours[:-1], ours + "0", f"{ours},{ours}"),
        *(ours.replace("-", "\u2010"), ours[:-1] + "g", "null", "default", "\ud800"),
    ):
        yield f"org_id {value!r}", forge.token({"org_id": quote(value)})
    yield "org_id missing", forge.token({"org_id": None})


def _kids(forge: Forge) -> Iterator[tuple[str, str]]:
    kid = forge.kid
    paths = ("../../../../dev/null", "/dev/null", f"./{kid}", f"../{kid}", f"{kid}/", "..data", "")
    for value in (
        *(*paths, "x' union select 'secret", "*", f"{kid}\0", f"{kid} ", f" {kid}", f"{kid}\n"),
        *(kid.lower(), kid[:-1], "20000101T000000Z", "20991231T235959Z", 0, -1, 1.5, True, None),
        *([kid], [0], {"kid": kid}, "http://127.0.0.1:9/key", "\ud800", "k" * 4000),
    ):
        yield f"kid {value!r:.60}", forge.token(header={"kid": quote(value)})
    yield "kid missing", forge.token(header={"kid": None})
    for name, key in (("empty", b""), ("path", b"/dev/null")):
        header = text(forge.header | {"kid": '"/dev/null"'})
        yield f"kid /dev/null, {name} key", forge.seal(header, text(forge.claims), key=key)


def _headers(forge: Forge) -> Iterator[tuple[str, str]]:
    jwk = quote({"kty": "oct", "k": encode(b"attacker"), "alg": "HS256", "kid": forge.kid})
    url = '"http://127.0.0.1:9/jwks.json"'
    embedded = {"jku": url, "x5u": url, "jwk": jwk, "x5c": '["MIIB"]', "x5t": '"AA"'}
    for name, value in embedded.items():
        header = text(forge.header | {name: value})
        yield f"{name}, good signature", forge.token(header={name: value})
        yield f"{name}, its key", forge.seal(header, text(forge.claims), key=b"attacker")
    for value in ('["exp"]', "[]", '"b64"', '["x-unknown"]', "null", '["b64"]'):
        yield f"crit {value}", forge.token(header={"crit": value})
    for value in ("false", '"false"', "true", "0", "null"):
        yield f"b64 {value}", forge.token(header={"b64": value})
        yield f"b64 {value}, crit", forge.token(header={"b64": value, "crit": '["b64"]'})
    typs = ('"refresh+jwt"', '"at+jwt"', '"jwt"', '"JWT "', '""', "null", "1", '["JWT"]', '"JWS"')
    for value in typs:
        yield f"typ {value}", forge.token(header={"typ": value})
    for name, value in (("zip", '"DEF"'), ("cty", '"JWT"'), ("enc", '"A256GCM"'), ("x", "1")):
        yield f"{name} {value}", forge.token(header={name: value})
    for name in ("Alg", "ALG", "Kid", "Typ", "exp", ""):
        yield f"member {name!r}", forge.token(header={name: '"HS256"'})


def _json(forge: Forge) -> Iterator[tuple[str, str]]:
    header, payload = text(forge.header), text(forge.claims)
    deep = b'{"a":' * 1000 + b"1" + b"}" * 1000
    broken = {
        "array": b"[]",
        "null": b"null",
        "string": b'"HS256"',
        "number": b"1",
        "empty": b"",
        "no members": b"{}",
        "broken": b'{"alg":',
        "single quotes": b"{'alg':'HS256'}",
        "bad UTF-8": b'{"alg":"\xff"}',
        "deep": deep,
        "deep array": b"[" * 3000 + b"]" * 3000,
        "unclosed": b"[" * 5000,
    }
    for name, content in broken.items():
        yield f"header {name}", forge.seal(content, payload)
        yield f"payload {name}", forge.seal(header, content)
    for where, content in (("header", header), ("payload", payload)):
        changed = {
            "BOM": b"\xef\xbb\xbf" + content,
            "UTF-16": content.decode().encode("utf-16"),
            "UTF-32": content.decode().encode("utf-32-le"),
            "twice": content * 2,
            "NUL behind": content + b"\0",
            "text behind": content + b" x",
            "trailing comma": content[:-1] + b",}",
            "comment": b"/**/" + content,
            "raw control character": content[:-1] + b',"x":"a\nb"}',
            "bad UTF-8 member": content[:-1] + b',"x":"\xc3\x28"}',
            "surrogate in UTF-8": content[:-1] + b',"x":"\xed\xa0\x80"}',
            "overlong UTF-8": content[:-1] + b',"x":"\xc0\x80"}',
        }
        for name, bytes_ in changed.items():
            yield (
                f"{where} {name}",
                forge.seal(*((bytes_, payload) if where == "header" else (header, bytes_))),
            )
    for member in ("alg", "kid"):
        twice = header[:-1] + f",{quote(member)}:{forge.header[member]}}}".encode()
        yield f"duplicate {member}", forge.seal(twice, payload)
    yield "duplicate alg, none first", forge.seal(b'{"alg":"none",' + header[1:], payload)
    for claim, value in forge.claims.items():
        twice = payload[:-1] + f",{quote(claim)}:{value}}}".encode()
        yield f"duplicate {claim}", forge.seal(header, twice)
    yield (
        "duplicate org_id, escaped",
        forge.seal(header, payload[:-1] + rb',"\u006frg_id":"' + ORG_ID.encode() + b'"}'),
    )
    flat = f"[{','.join(['[]'] * 300)}]"
    for value in ("NaN", "-Infinity", "1e999", "9" * 5000, flat, '{"a":1,"a":2}', deep.decode()):
        yield f"extra claim {value:.20}", forge.token({"x": value})


def _structures(forge: Forge) -> Iterator[tuple[str, str]]:
    good = forge.token()
    header, payload, signature = good.split(".")
    impossible = header + "A" * (4 - (len(header) - 1) % 4)  # 4n + 1 characters
    plain = json.dumps({"payload": payload, "protected": header, "signature": signature})
    yield from {
        "one segment": header,
        "four segments": f"{good}.{signature}",
        "five segments": f"{header}.{payload}.{signature}.{payload}.{signature}",
        "empty segments": "..",
        "one dot": ".",
        "dot before": f".{good}",
        "dot behind": f"{good}.",
        "double dot": f"{header}..{payload}.{signature}",
        "no header": f".{payload}.{signature}",
        "no payload": f"{header}..{signature}",
        "header of impossible length": f"{impossible}.{payload}.{signature}",
        "padded header": f"{header}=.{payload}.{signature}",
        "padded signature": f"{good}=",
        "padded twice": f"{good}==",
        "standard alphabet": f"{header}.{payload}.{'+/' * 21}A",
        "space inside": f"{header}. {payload}.{signature}",
        "tab inside": f"{header}.\t{payload}.{signature}",
        "space between": f"{good} {good}",
        "JSON serialisation": plain,
        "JSON serialisation in base64": encode(plain.encode()),
        "null": "null",
        "undefined": "undefined",
        "nothing but padding": "===",
        "percent NUL": f"{good}%00",
        "percent dot": good.replace(".", "%2E"),
        "double quotes": f'"{good}"',
        "single quotes": f"'{good}'",
        "angle brackets": f"<{good}>",
        "semicolon": f"{good};",
        "reversed": good[::-1],
        "upper case": good.upper(),
        "latin-1 behind": f"{good}\xe9",
        "no-break space behind": f"{good}\xa0x",
        "20 kB of A": "A" * 20_000,
        "200 kB of A": "A" * 200_000,
        "20 kB of dots": "." * 20_000,
        "8 kB of A as payload": f"{header}.{'A' * 7900}.{signature}",
        "20 kB, well signed": forge.token({"x": quote("x" * 15_000)}),
        "200 kB, well signed": forge.token({"x": quote("x" * 150_000)}),
    }.items()


def _schemes(good: str) -> Iterator[tuple[str, str]]:
    yield from {
        "empty": "",
        "none": good,
        "Bearer alone": "Bearer",
        "no space": f"Bearer{good}",
        "tab": f"Bearer\t{good}",
        "space and tab": f"Bearer \t{good}",
        "no-break space": f"Bearer\xa0{good}",
        "space and no-break space": f"Bearer \xa0{good}",
        "latin-1 scheme": f"B\xe9arer {good}",
        "latin-1 before": f"\xe9 Bearer {good}",
        "colon": f"Bearer: {good}",
        "equals": f"Bearer={good}",
        "parameter": f"Bearer token={good}",
        "comma list": f"Bearer {good}, Bearer {good}",
        "comma behind": f"Bearer {good},",
        "comma before": f", Bearer {good}",
        "another scheme first": f"Basic dTpw, Bearer {good}",
        "parameter behind": f'Bearer {good}, realm="x"',
        "scheme twice": f"Bearer Bearer {good}",
        "Basic": "Basic dTpw",
        **{scheme: f"{scheme} {good}" for scheme in ("Basic", "Token", "JWT", "DPoP", "Bearers")},
        "token in Basic": f"Basic {base64.b64encode(good.encode()).decode()}",
        "quoted": f'"Bearer {good}"',
    }.items()
