"""Tokens with bad claims: times, issuer, audience, subject and organization."""

import json

from tests.platform.corpus_forge import Forge, NamedTokens, quote


def times(forge: Forge) -> NamedTokens:
    """Yield tokens with malformed, contradictory or expired times."""
    now, lifetime = forge.now, forge.lifetime
    for claim, time in (("exp", now + 60), ("iat", now), ("nbf", now)):
        for name, value in {
            "missing": None,
            "null": "null",
            "a string": '"soon"',
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
        ("expired a second ago", now - 60, now - 60, now - 1),
        ("expires now", now - 60, now - 60, now),
        ("expired after its whole lifetime", now - lifetime, now - lifetime, now),
        ("yesterday's", now - 86400, now - 86400, now - 86400 + lifetime),
        ("exp zero", now, now, 0),
        ("exp is iat", now, now, now),
        ("exp is iat, ahead", now + 4, now + 4, now + 4),
        ("a second beyond the lifetime", now, now, now + lifetime + 1),
        ("an hour beyond the lifetime", now, now, now + lifetime + 3600),
        ("ten years", now, now, now + 315_360_000),
        ("exp in milliseconds", now, now, (now + lifetime) * 1000),
        ("exp just below 2**53", now, now, 2**53 - 1),
        ("iat too long ago for exp", now - 60, now - 60, now - 60 + lifetime + 1),
        ("iat zero", 0, now, now + lifetime),
        ("iat two minutes ahead", now + 120, now, now + 180),
        ("iat an hour ahead", now + 3600, now, now + 3600 + lifetime),
        ("nbf two minutes ahead", now, now + 120, now + lifetime),
        ("nbf after exp", now, now + lifetime + 60, now + lifetime),
        ("expires before it is issued", now + 4, now, now + 3),
    ):
        yield name, forge.token({"iat": str(iat), "nbf": str(nbf), "exp": str(exp)})
    yield "all false", forge.token({"iat": "false", "nbf": "false", "exp": "true"})


def issuers_and_audiences(forge: Forge) -> NamedTokens:
    """Yield tokens of another issuer or for another audience."""
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


def subjects(forge: Forge) -> NamedTokens:
    """Yield tokens with a malformed subject."""
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


def org_ids(forge: Forge) -> NamedTokens:
    """Yield tokens whose org_id is not a UUID in its canonical form."""
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
