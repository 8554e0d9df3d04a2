"""Tokens with bad signatures, bad JSON, or a bad compact serialization."""

import base64
import hashlib
import json

from tests.platform.corpus_forge import ORG_ID, Forge, NamedTokens, encode, quote, to_json


def signatures(forge: Forge) -> NamedTokens:
    """Yield tokens whose signature is missing, changed, or made with another key."""
    header, payload = to_json(forge.header), to_json(forge.claims)
    good = forge.token()
    signed, _, signature = good.rpartition(".")
    raw = base64.urlsafe_b64decode(signature + "=")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    spare = alphabet[alphabet.index(signature[-1]) ^ 1]  # of the last character, 2 bits are unused
    yield "empty", f"{signed}."
    yield "removed", signed
    yield "one character short", good[:-1]
    yield "half", f"{signed}.{encode(raw[:16])}"
    yield "one byte longer", f"{signed}.{encode(raw + bytes(1))}"
    yield "twice", f"{good}{signature}"
    yield "bit flip", f"{signed}.{encode(bytes([raw[0] ^ 1]) + raw[1:])}"
    yield "last bit flip", f"{signed}.{encode(raw[:-1] + bytes([raw[-1] ^ 1]))}"
    yield "zeros", f"{signed}.{encode(bytes(32))}"
    yield "spare bit set", f"{good[:-1]}{spare}"
    yield "in hexadecimal", f"{signed}.{raw.hex()}"
    yield (
        "payload swapped",
        ".".join((encode(header), encode(to_json(forge.claims | {"sub": '"root"'})), signature)),
    )
    yield (
        "header swapped",
        ".".join((encode(to_json(forge.header | {"typ": None})), encode(payload), signature)),
    )
    yield "digest without key", f"{signed}.{encode(hashlib.sha256(signed.encode()).digest())}"
    keys = {
        "another key": hashlib.sha256(forge.key).hexdigest().encode(),
        "empty key": b"",
        "key and newline": forge.key + b"\n",
        "key without its last byte": forge.key[:-1],
        "key in upper case": forge.key.swapcase(),
        "key in base64": base64.b64encode(forge.key),
        "kid as key": forge.kid.encode(),
    }
    words = ("secret", "password", "changeme", "your-256-bit-secret", "covenant", "jwt", "key")
    keys |= {f"key {word!r}": word.encode() for word in words}
    for name, key in keys.items():
        yield name, forge.seal(header, payload, key=key)


def json_texts(forge: Forge) -> NamedTokens:
    """Yield tokens whose header or payload is not one strict JSON object."""
    header, payload = to_json(forge.header), to_json(forge.claims)
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
            "trailing NUL": content + b"\0",
            "trailing text": content + b" x",
            "trailing comma": content[:-1] + b",}",
            "comment": b"/**/" + content,
            "raw control character": content[:-1] + b',"x":"a\nb"}',
            "bad UTF-8 member": content[:-1] + b',"x":"\xc3\x28"}',
            "surrogate in UTF-8": content[:-1] + b',"x":"\xed\xa0\x80"}',
            "overlong UTF-8": content[:-1] + b',"x":"\xc0\x80"}',
        }
        for name, text in changed.items():
            parts = (text, payload) if where == "header" else (header, text)
            yield f"{where} {name}", forge.seal(*parts)
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


def structures(forge: Forge) -> NamedTokens:
    """Yield texts that are not three segments of canonical base64url, or are too long."""
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
        "leading dot": f".{good}",
        "trailing dot": f"{good}.",
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
        "JSON serialization": plain,
        "JSON serialization in base64": encode(plain.encode()),
        "null": "null",
        "undefined": "undefined",
        "only padding": "===",
        "percent NUL": f"{good}%00",
        "percent dot": good.replace(".", "%2E"),
        "double quotes": f'"{good}"',
        "single quotes": f"'{good}'",
        "angle brackets": f"<{good}>",
        "semicolon": f"{good};",
        "reversed": good[::-1],
        "upper case": good.upper(),
        "trailing latin-1": f"{good}\xe9",
        "trailing no-break space": f"{good}\xa0x",
        "20 kB of A": "A" * 20_000,
        "200 kB of A": "A" * 200_000,
        "20 kB of dots": "." * 20_000,
        "8 kB of A as payload": f"{header}.{'A' * 7900}.{signature}",
        "20 kB, correctly signed": forge.token({"x": quote("x" * 15_000)}),
        "200 kB, correctly signed": forge.token({"x": quote("x" * 150_000)}),
    }.items()
