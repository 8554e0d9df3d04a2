"""From the contract to the cells: every operation, every identity, every way in (pure)."""

import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

from evidence.certificate.values import Uncoverable, is_text, merged
from openapi.contract import Contract, Operation

IDENTITIES = {
    "own": "the tenant's own token: the request works, so that the refusals mean something",
    "other": "the token of another tenant, the rival",
    "unbound": "a guest's token whose organization was never created",
    "none": "no token",
    "expired": "the tenant's own token, an hour after its end",
    "forged": "the tenant's own claims, signed with another key, not at all, or with a signature"
    " of another token",
}
ATTACK_VECTORS = {
    "path id": "its id in the path",
    "parent id": "an id above the operation's own in the path",
    "body": "its ids in the body, and properties that no client may set",
    "cursor": "its position in a list",
    "filter": "its ids in the query",
    "header": "its ids in header fields that proxies and frameworks use",
    "unique name": "a name that it has",
    "malformed": "what is no id and no text: NUL, quotes, another script",
}
HEADERS = ("X-Org-Id", "X-Organization-Id", "X-Tenant-Id", "X-Tenant", "Tenant", "X-Forwarded-Org")
NUL_BODY = "a\0b"


@dataclass(frozen=True)
class Probe:
    """One request of a cell. `names` take the victim's value; in its double, that of nobody.

    `where` is path, body, cursor, query, header, name or malformed; `form` is how it is written.
    """

    name: str
    where: str
    names: tuple[str, ...] = ()
    form: str = "plain"
    declared: bool = True


@dataclass(frozen=True)
class Plan:
    """The probes of one operation by way in; a text instead says why a way does not apply.

    `scarce` says that a unique key has so few values that the tenant's own may all be taken.
    """

    operation: Operation
    ways: Mapping[str, tuple[Probe, ...] | str]
    scarce: bool

    @property
    def is_public(self) -> bool:
        return not self.operation.security

    @property
    def path_ids(self) -> tuple[str, ...]:
        return path_ids(self.operation.path)


@dataclass(frozen=True)
class Maker:
    """The operation that makes what a path parameter names, and where its answer has the id.

    `columns` of rows of other tables refer to what is made.
    """

    parameter: str
    operation: Operation
    pointer: str
    columns: tuple[str, ...] = ()


def plans(contract: Contract) -> list[Plan]:
    """Return what to ask of each operation of the contract."""
    ids = sorted({name for o in contract.operations.values() for name in path_ids(o.path)})
    claim = str(contract.tenant.get("claim", ""))
    ids = [*([claim] if claim else []), *(name for name in ids if name != claim)]
    return [
        Plan(o, dict(_ways(o, ids, _plain(contract, o.tag))), _is_scarce(contract, o))
        for o in contract.operations.values()
    ]


def _is_scarce(contract: Contract, operation: Operation) -> bool:
    table = contract.tables.get(operation.tag)
    if table is None or "409" not in operation.responses:
        return False
    few = {c.name for c in table.columns if "enum" in c.schema or c.schema["type"] == "boolean"}
    few |= {r.column for r in table.references}
    return any(few.issuperset(key) for key in table.unique)


def _plain(contract: Contract, tag: str) -> set[str]:
    """Return the columns of a table that name no row of another, also where they are uuids."""
    table = contract.tables.get(tag)
    if table is None:
        return set()
    return {c.name for c in table.columns} - {r.column for r in table.references}


def makers(contract: Contract) -> dict[str, Maker]:
    """Return who makes the resource of each path parameter, those above and referred to first.

    `POST /things` makes what `/things/{thing_id}` names; a link says where its id is. Parameters
    that nothing makes are left out.
    """
    found: dict[str, Maker] = {}
    by_path = {o.path: o for o in contract.operations.values() if o.method == "post"}
    heads = {
        (o.path[: o.path.index(f"/{{{name}}}")], name)
        for o in contract.operations.values()
        for name in path_ids(o.path)
    }
    made = [(path, name) for path, name in heads if path in by_path]
    for path, name in sorted(
        made, key=lambda h: (h[0].count("/"), depth(contract, by_path[h[0]].tag), h)
    ):
        tag, pointer = by_path[path].tag, _pointer(by_path[path], name)
        found.setdefault(name, Maker(name, by_path[path], pointer, columns_to(contract, tag)))
    return found


def columns_to(contract: Contract, name: str) -> tuple[str, ...]:
    """Return the columns that refer to rows of a table."""
    references = (r for table in contract.tables.values() for r in table.references)
    return tuple(sorted({r.column for r in references if r.table == name}))


def depth(contract: Contract, tag: str, above: frozenset[str] = frozenset()) -> int:
    """Return over how many tables the rows of a tag refer to others."""
    table = contract.tables.get(tag)
    targets = {r.table for r in table.references} - above - {tag} if table else set()
    return max((1 + depth(contract, t, above | {tag}) for t in targets), default=0)


def sign_in(contract: Contract) -> Operation:
    """Return the public operation that answers with a token. Raises `Uncoverable`."""
    for operation in contract.operations.values():
        if not operation.security and operation.method == "post" and operation.body is None:
            for _, response in _successes(operation):
                if "access_token" in _schema(response).get("properties", {}):
                    return operation
    raise Uncoverable("no public operation without a body answers with an access_token")


def uncoverable(contract: Contract, sown: Set[str]) -> list[str]:
    """Return why operations cannot be covered; each fails the certificate.

    The rows that the path parameters `sown` name are made by no operation.
    """
    made, faults = makers(contract).keys() | sown, []
    claim = contract.tenant.get("claim")
    for operation in contract.operations.values():
        for name in path_ids(operation.path):
            if name not in made:
                faults.append(
                    f"{operation.id}: cannot be covered: no operation makes a `{name}`"
                    f" (POST on the path before it)"
                )
        if claim in path_ids(operation.path) and not operation.security:
            faults.append(f"{operation.id}: names a tenant in its path and is public")
    return faults


def path_ids(path: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\{([^{}]+)\}", path))


def body_schema(operation: Operation) -> dict[str, Any] | None:
    media = (operation.body or {}).get("content", {}).get("application/json")
    if media is None:
        return None
    return {key: media[key] for key in ("example",) if key in media} | merged(media["schema"])


def declared_headers(operation: Operation) -> list[dict[str, Any]]:
    return [p for p in operation.parameters if p["in"] == "header"]


def shows_text(operation: Operation) -> bool:
    """Tell whether a success has room for an id or a text; counts alone tell no tenant's rows."""
    return any(_has_text(_schema(response)) for _, response in _successes(operation))


def _has_text(schema: Mapping[str, Any]) -> bool:
    schema = merged(schema)
    below = [*schema.get("properties", {}).values(), schema.get("items")]
    below.append(schema.get("additionalProperties"))
    plain = schema.get("type") == "string" and "enum" not in schema
    return plain or any(_has_text(part) for part in below if isinstance(part, dict))


def success_codes(operation: Operation) -> set[int]:
    return {int(code) for code in operation.responses if re.fullmatch("2[0-9][0-9]", code)}


def _ways(
    operation: Operation, ids: list[str], plain: Set[str]
) -> Iterator[tuple[str, tuple[Probe, ...] | str]]:
    own = path_ids(operation.path)
    ends_with_id = operation.path.endswith("}")
    yield "path id", tuple(_path_id(operation, own)) if ends_with_id else "names no id of its own"
    above = own[:-1] if ends_with_id else own
    yield "parent id", tuple(_parents(above, own)) or "nothing stands above it"
    yield "body", tuple(_bodies(operation, ids, plain))
    query = {p["name"]: p["schema"] for p in operation.parameters if p["in"] == "query"}
    yield "cursor", tuple(_cursors(own, "cursor" in query))
    yield "filter", tuple(_filters(query, ids, plain))
    yield "header", tuple(_headers(operation))
    texts = [
        n for n, s in (body_schema(operation) or {}).get("properties", {}).items() if is_text(s)
    ]
    named = operation.method in ("post", "put", "patch") and texts
    yield "unique name", (Probe("its name", "name", tuple(texts)),) if named else "takes no name"
    yield "malformed", tuple(_malformed(operation, texts))


def _path_id(operation: Operation, own: tuple[str, ...]) -> Iterator[Probe]:
    yield Probe("its whole path", "path", own)
    yield Probe("in capitals", "path", own, "upper")
    if len(own) > 1:
        yield Probe(f"its {own[-1]} below one's own", "path", own[-1:])
    if operation.method == "get":
        yield Probe("with HEAD", "path", own, "head")


def _parents(above: tuple[str, ...], own: tuple[str, ...]) -> Iterator[Probe]:
    if above:
        yield Probe(f"its {' and '.join(above)}", "path", above)
    if len(above) > 1:
        for name in above:
            yield Probe(f"its {name} alone", "path", (name,))


def _bodies(operation: Operation, ids: list[str], plain: Set[str]) -> Iterator[Probe]:
    schema = body_schema(operation)
    if schema is None:
        yield Probe("a body where none is declared", "body", tuple(ids), "extra", declared=False)
        return
    properties = schema.get("properties", {})
    for name in _uuids(properties):
        if name not in plain:
            yield Probe(f"its {name}", "body", (name,))
    for name in [*ids, "id"]:
        if name not in properties:
            yield Probe(f"{name}, which is not declared", "body", (name,), "extra", declared=False)
    shown = {n for _, r in _successes(operation) for n in _schema(r).get("properties", {})}
    hidden = sorted((shown | {"role", "subject"}) - {*properties, *ids, "id"})
    hidden += sorted(name for name, part in properties.items() if part.get("readOnly"))
    yield from (
        Probe(f"{name}, which no client may set", "body", (name,), "mass", declared=False)
        for name in hidden
    )


def _cursors(own: tuple[str, ...], declared: bool) -> Iterator[Probe]:
    yield Probe("a cursor of its list", "cursor", ("cursor",), declared=declared)
    if declared and own:
        yield Probe("a cursor of its list, and its path", "path", own, "cursor")


def _filters(query: Mapping[str, Any], ids: list[str], plain: Set[str]) -> Iterator[Probe]:
    uuids = [name for name in _uuids(query) if name not in plain]
    for name in dict.fromkeys([*ids, "filter", *uuids]):
        if name in query:
            yield Probe(f"its {name}", "query", (name,))
        else:
            yield Probe(f"{name}, which is not declared", "query", (name,), declared=False)


def _headers(operation: Operation) -> Iterator[Probe]:
    yield Probe("header fields of proxies", "header", HEADERS, declared=False)
    yield Probe("a cookie", "header", ("Cookie",), declared=False)
    if path_ids(operation.path):
        yield Probe("header fields and the path", "path", path_ids(operation.path), "header")
    for parameter in declared_headers(operation):
        yield Probe(f"its {parameter['name']}", "header", (parameter["name"],))


def _malformed(operation: Operation, texts: list[str]) -> Iterator[Probe]:
    for name in path_ids(operation.path):
        for form in ("%00", "%27%20or%20true--", "%FF"):
            yield Probe(f"{name} {form}", "malformed", (name,), f"path {form}")
    yield Probe("NUL in the query", "malformed", ("cursor",), "query %00")
    for name in texts:
        yield Probe(f"NUL in {name}", "malformed", (name,), "body")


def _uuids(properties: Mapping[str, Any]) -> list[str]:
    return [name for name, part in properties.items() if merged(part).get("format") == "uuid"]


def _successes(operation: Operation) -> Iterator[tuple[str, Mapping[str, Any]]]:
    return ((code, r) for code, r in operation.responses.items() if code.startswith("2"))


def _schema(response: Mapping[str, Any]) -> dict[str, Any]:
    content = response.get("content", {})
    return merged(content["application/json"]["schema"]) if "application/json" in content else {}


def _pointer(operation: Operation, name: str) -> str:
    """Return where the answer has the id: what a link says, else `/id`."""
    for _, response in _successes(operation):
        for link in response.get("links", {}).values():
            expression = link.get("parameters", {}).get(name, "")
            if isinstance(expression, str) and expression.startswith("$response.body#"):
                return expression.removeprefix("$response.body#")
    return "/id"
