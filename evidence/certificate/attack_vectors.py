"""The probes of each attack vector, derived from one operation (pure functions)."""

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from enum import StrEnum, auto
from typing import Any

from evidence.certificate.operations import (
    body_schema,
    header_parameters,
    path_ids,
    query_schemas,
    response_properties,
    uuid_names,
)
from evidence.certificate.values import is_free_text
from openapi.contract import Operation

TENANT_HEADERS = (
    "X-Org-Id",
    "X-Organization-Id",
    "X-Tenant-Id",
    "X-Tenant",
    "Tenant",
    "X-Forwarded-Org",
)
MALFORMED_IDS = ("%00", "%27%20or%20true--", "%FF")


class AttackVector(StrEnum):
    """Where a request names another tenant's data; `ATTACK_VECTORS` describes each."""

    PATH_ID = "path id"
    PARENT_ID = "parent id"
    BODY = "body"
    CURSOR = "cursor"
    FILTER = "filter"
    HEADER = "header"
    UNIQUE_NAME = "unique name"
    MALFORMED = "malformed"


ATTACK_VECTORS = {
    AttackVector.PATH_ID: "the victim's id in the path",
    AttackVector.PARENT_ID: "the id of one of the victim's parent resources in the path",
    AttackVector.BODY: "the victim's ids in the body, and properties that no client may set",
    AttackVector.CURSOR: "the victim's position in a list",
    AttackVector.FILTER: "the victim's ids in the query",
    AttackVector.HEADER: "the victim's ids in header fields that proxies and frameworks use",
    AttackVector.UNIQUE_NAME: "a name that the victim uses",
    AttackVector.MALFORMED: "ids and texts with NUL, quotes or invalid UTF-8",
}
NOT_APPLICABLE = {
    AttackVector.PATH_ID: "its path does not end in an id",
    AttackVector.PARENT_ID: "its path names no parent",
    AttackVector.BODY: "its body accepts every id, and clients may set every property",
    AttackVector.UNIQUE_NAME: "it accepts no name",
}


class Location(StrEnum):
    """The part of a request that a probe changes."""

    PATH = auto()
    BODY = auto()
    CURSOR = auto()
    QUERY = auto()
    HEADER = auto()
    NAME = auto()
    MALFORMED_PATH = auto()
    MALFORMED_QUERY = auto()
    MALFORMED_BODY = auto()
    NOTHING = auto()


class Variant(StrEnum):
    """What a probe does besides changing its location."""

    PLAIN = auto()
    UPPERCASE = auto()
    HEAD = auto()  # sends HEAD instead of GET
    WITH_CURSOR = auto()
    WITH_HEADERS = auto()
    MASS_ASSIGNMENT = auto()  # sets a property that only the service may set


@dataclass(frozen=True)
class Probe:
    """One request of a case.

    `names` take the victim's values, and in the control request values that do not exist.
    `text` replaces the value in malformed requests. `is_declared`: the contract declares `names`.
    """

    name: str
    location: Location
    names: tuple[str, ...] = ()
    variant: Variant = Variant.PLAIN
    is_declared: bool = True
    text: str = ""

    @property
    def is_malformed(self) -> bool:
        return self.location in (
            Location.MALFORMED_PATH,
            Location.MALFORMED_QUERY,
            Location.MALFORMED_BODY,
        )


def probes(
    operation: Operation, ids: list[str], plain: Set[str]
) -> dict[AttackVector, tuple[Probe, ...]]:
    """Return the probes of an operation by attack vector.

    `ids` are the claim and all path parameters of the contract; `plain` are the columns of the
    operation's table that identify nothing.
    """
    own = path_ids(operation.path)
    ends_in_id = operation.path.endswith("}")
    properties = (body_schema(operation) or {}).get("properties", {})
    texts = [name for name, schema in properties.items() if is_free_text(schema)]
    vectors = {
        AttackVector.PATH_ID: _path_id(operation, own) if ends_in_id else (),
        AttackVector.PARENT_ID: _parent_id(own[:-1] if ends_in_id else own),
        AttackVector.BODY: _body(operation, ids, plain),
        AttackVector.CURSOR: _cursor(operation, own),
        AttackVector.FILTER: _filter(operation, ids, plain),
        AttackVector.HEADER: _header(operation, own),
        AttackVector.UNIQUE_NAME: _unique_name(operation, texts),
        AttackVector.MALFORMED: _malformed(own, texts),
    }
    return {vector: tuple(generated) for vector, generated in vectors.items()}


def _path_id(operation: Operation, own: tuple[str, ...]) -> Iterator[Probe]:
    yield Probe("the victim's path", Location.PATH, own)
    yield Probe("in uppercase", Location.PATH, own, Variant.UPPERCASE)
    if len(own) > 1:
        yield Probe(f"the victim's {own[-1]} below the caller's parent", Location.PATH, own[-1:])
    if operation.method == "get":
        yield Probe("with HEAD", Location.PATH, own, Variant.HEAD)


def _parent_id(parents: tuple[str, ...]) -> Iterator[Probe]:
    if parents:
        yield Probe(f"the victim's {' and '.join(parents)}", Location.PATH, parents)
    if len(parents) > 1:
        for name in parents:
            yield Probe(f"only the victim's {name}", Location.PATH, (name,))


def _body(operation: Operation, ids: list[str], plain: Set[str]) -> Iterator[Probe]:
    schema = body_schema(operation)
    if schema is None:
        yield Probe("an undeclared body", Location.BODY, tuple(ids), is_declared=False)
        return
    properties: Mapping[str, Any] = schema.get("properties", {})
    for name in uuid_names(properties):
        if name not in plain:
            yield Probe(f"the victim's {name}", Location.BODY, (name,))
    for name in [*ids, "id"]:
        if name not in properties:
            yield Probe(f"undeclared {name}", Location.BODY, (name,), is_declared=False)
    returned = {*response_properties(operation), "role", "subject"}
    protected = sorted(returned - {*properties, *ids, "id"})
    protected += sorted(name for name, part in properties.items() if part.get("readOnly"))
    for name in protected:
        yield Probe(
            f"protected {name}",
            Location.BODY,
            (name,),
            Variant.MASS_ASSIGNMENT,
            is_declared=False,
        )


def _cursor(operation: Operation, own: tuple[str, ...]) -> Iterator[Probe]:
    is_declared = "cursor" in query_schemas(operation)
    yield Probe("the victim's cursor", Location.CURSOR, ("cursor",), is_declared=is_declared)
    if is_declared and own:
        yield Probe("the victim's cursor and path", Location.PATH, own, Variant.WITH_CURSOR)


def _filter(operation: Operation, ids: list[str], plain: Set[str]) -> Iterator[Probe]:
    query = query_schemas(operation)
    filters = [name for name in uuid_names(query) if name not in plain]
    for name in dict.fromkeys([*ids, "filter", *filters]):
        is_declared = name in query
        label = f"the victim's {name}" if is_declared else f"undeclared {name}"
        yield Probe(label, Location.QUERY, (name,), is_declared=is_declared)


def _header(operation: Operation, own: tuple[str, ...]) -> Iterator[Probe]:
    yield Probe("tenant headers", Location.HEADER, TENANT_HEADERS, is_declared=False)
    yield Probe("a cookie", Location.HEADER, ("Cookie",), is_declared=False)
    if own:
        yield Probe("tenant headers and the path", Location.PATH, own, Variant.WITH_HEADERS)
    for parameter in header_parameters(operation):
        yield Probe(f"the victim's {parameter['name']}", Location.HEADER, (parameter["name"],))


def _unique_name(operation: Operation, texts: list[str]) -> Iterator[Probe]:
    if operation.method in ("post", "put", "patch") and texts:
        yield Probe("the victim's name", Location.NAME, tuple(texts))


def _malformed(own: tuple[str, ...], texts: list[str]) -> Iterator[Probe]:
    for name in own:
        for text in MALFORMED_IDS:
            yield Probe(f"{name} {text}", Location.MALFORMED_PATH, (name,), text=text)
    yield Probe("NUL in the query", Location.MALFORMED_QUERY, ("cursor",), text="%00")
    for name in texts:
        yield Probe(f"NUL in {name}", Location.MALFORMED_BODY, (name,), text="a\0b")
