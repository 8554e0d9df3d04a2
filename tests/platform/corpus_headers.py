"""Tokens with bad headers: algorithms, key ids and other members."""

from tests.platform.corpus_forge import PEM, Forge, NamedTokens, encode, quote, to_json


def algorithms(forge: Forge) -> NamedTokens:
    """Yield tokens with another algorithm, in name or in fact (RFC 8725 section 2.1)."""
    payload = to_json(forge.claims)
    names = ("none", "None", "NONE", "nOnE", "none ", " none", "")
    for name in names:
        header = to_json(forge.header | {"alg": quote(name)})
        yield f"{name!r}, no signature", f"{encode(header)}.{encode(payload)}."
        yield f"{name!r}, good signature", forge.seal(header, payload)
    signature = forge.token().rpartition(".")[2]
    header = to_json(forge.header | {"alg": '"none"'})
    yield "none, signature of a good token", f"{encode(header)}.{encode(payload)}.{signature}"
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
        header = to_json(forge.header | {"alg": quote(f"HS{bits}")})
        yield f"HS{bits} throughout", forge.seal(header, payload, digest=f"sha{bits}")
        yield (
            f"HS256 signed as HS{bits}",
            forge.seal(to_json(forge.header), payload, digest=f"sha{bits}"),
        )
    for name, length in (("ES256", 64), ("RS256", 256), ("EdDSA", 64)):
        header = to_json(forge.header | {"alg": quote(name)})
        yield f"{name}, zeros", f"{encode(header)}.{encode(payload)}.{encode(bytes(length))}"
    for name in ("RS256", "HS256"):
        header = to_json(forge.header | {"alg": quote(name)})
        yield f"{name}, public key as secret", forge.seal(header, payload, key=PEM)
        yield f"{name}, public key and newline", forge.seal(header, payload, key=PEM + b"\n")


def kids(forge: Forge) -> NamedTokens:
    """Yield tokens with an unknown or malformed key id."""
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
        header = to_json(forge.header | {"kid": '"/dev/null"'})
        yield f"kid /dev/null, {name} key", forge.seal(header, to_json(forge.claims), key=key)


def header_members(forge: Forge) -> NamedTokens:
    """Yield tokens with a header member that the service does not support."""
    jwk = quote({"kty": "oct", "k": encode(b"attacker"), "alg": "HS256", "kid": forge.kid})
    url = '"http://127.0.0.1:9/jwks.json"'
    embedded = {"jku": url, "x5u": url, "jwk": jwk, "x5c": '["MIIB"]', "x5t": '"AA"'}
    for name, value in embedded.items():
        header = to_json(forge.header | {name: value})
        yield f"{name}, good signature", forge.token(header={name: value})
        yield f"{name}, its key", forge.seal(header, to_json(forge.claims), key=b"attacker")
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
