"""The rules of the tables that a contract describes by `x-table`."""

import re
from collections.abc import Iterator
from typing import Any

from openapi.documents import NodePath, format_path, list_at, mapping_at, resolve, walk
from openapi.rules.messages import Violation
from openapi.tables import (
    PLATFORM_TABLES,
    SCALARS,
    SEQUENCE,
    SERVICE_COLUMNS,
    index_name,
    names,
    reference_name,
    schemas,
    unique_name,
)

# PostgreSQL's own in every table (18, section 5.6).
SYSTEM_COLUMNS = ("tableoid", "xmin", "cmin", "xmax", "cmax", "ctid")
LONGEST = 63  # bytes of a name; PostgreSQL cuts what is longer
_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


def check(document: Any) -> Iterator[Violation]:
    """Yield what is wrong with the tables."""
    found = list(schemas(document))
    for place, kind, node in walk(document):
        if kind == "schema" and "x-table" in node and len(place) != 3:
            yield (*place, "x-table"), "belongs to a schema of its own below components.schemas"
    first: dict[str, NodePath] = {}
    for place, schema in found:
        name, here = schema["x-table"].get("name"), (*place, "x-table")
        if isinstance(name, str) and first.setdefault(name, place) != place:
            yield (
                (*here, "name"),
                f"`{name}` is also the table of {format_path(first[name])}",
            )
        if name in PLATFORM_TABLES:
            yield (*here, "name"), f"`{name}` is a table of the service itself"
        if str(name).startswith("pg_") or name == SEQUENCE:
            yield (*here, "name"), f"`{name}` would stand for something else in PostgreSQL"
        yield from _properties(document, place, schema)
        yield from _keys(document, here, schema)
        yield from _references(document, here, schema, names(document))
    yield from _derived_names(found)


def _properties(document: Any, place: NodePath, schema: dict[str, Any]) -> Iterator[Violation]:
    properties, required = mapping_at(schema, "properties"), list_at(schema, "required")
    if schema.get("type") != "object" or schema.get("additionalProperties") is not False:
        yield place, "a table is a closed object: its properties are the columns"
    for name in ("id", "org_id"):
        if name not in properties:
            yield place, f"a table has the property `{name}`, which the service fills"
    for name, node in properties.items():
        here, column = (*place, "properties", name), resolve(document, node)
        if name in SYSTEM_COLUMNS:
            yield here, f"`{name}` is a column that PostgreSQL has in every table"
        elif not _NAME.fullmatch(name):
            yield here, f"no column can be called `{name}`: write it in snake_case"
        if column.get("writeOnly") is True:
            yield here, "all columns are answered: none is writeOnly"
        if column.get("type") not in (*SCALARS, "object", "array"):
            yield here, "no column can be made of a schema without a `type`"
        elif (meant := SERVICE_COLUMNS.get(name)) and (
            column.get("format") != meant
            or name not in required
            or {"nullable", "default"} & column.keys()
        ):
            yield here, f"`{name}` is the service's: a required {meant}, not nullable, no default"
    for new, old in mapping_at(schema, "x-table", "renamed").items():
        if new not in properties or new in SERVICE_COLUMNS or old in properties:
            yield (
                (*place, "x-table", "renamed", new),
                "a column that is there once had a name that no property has now",
            )


def _keys(document: Any, here: NodePath, schema: dict[str, Any]) -> Iterator[Violation]:
    properties = mapping_at(schema, "properties")
    for key, noun in (("unique", "a unique key"), ("indexes", "an index")):
        for n, columns in enumerate(list_at(schema["x-table"], key)):
            for i, name in enumerate(columns if isinstance(columns, list) else []):
                place = (*here, key, n, i)
                if not isinstance(name, str) or name not in properties:
                    yield place, f"the schema has no property `{name}`"
                elif resolve(document, properties[name]).get("type") in ("object", "array"):
                    yield place, f"{noun} over objects or arrays: `{name}` is stored as jsonb"
                elif name in ("org_id", "id"):
                    yield place, f"`{name}` is put there by itself"


def _references(
    document: Any, here: NodePath, schema: dict[str, Any], tables: set[str]
) -> Iterator[Violation]:
    properties = mapping_at(schema, "properties")
    for name, reference in mapping_at(schema, "x-table", "references").items():
        place, target = (*here, "references", name), mapping_at(reference).get("table")
        if name not in properties or name in SERVICE_COLUMNS:
            yield place, f"the schema has no property `{name}` that could refer to something"
        elif resolve(document, properties[name]).get("format") != "uuid":
            yield place, f"`{name}` is no uuid, as the ids of rows are"
        if target in PLATFORM_TABLES:
            reason = "the references of a tenant's rows stay among its rows"
            yield (*place, "table"), f"`{target}` is a table of the service itself: {reason}"
        elif isinstance(target, str) and target not in tables:
            yield (*place, "table"), f"no schema has an x-table `{target}`"


def _derived_names(found: list[tuple[NodePath, dict[str, Any]]]) -> Iterator[Violation]:
    """Names of constraints and indexes share one space, and PostgreSQL cuts them."""
    seen: dict[str, NodePath] = {}
    tables = {str(schema["x-table"].get("name")): (place, schema) for place, schema in found[::-1]}
    for place, schema in reversed(tables.values()):
        for where, name in _names_of(place, schema):
            if len(name.encode()) > LONGEST:
                yield where, f"the name `{name}` has more than {LONGEST} bytes"
            elif seen.setdefault(name, where) != where:
                yield where, f"the name `{name}` is taken by {format_path(seen[name])}"


def _names_of(place: NodePath, schema: dict[str, Any]) -> Iterator[tuple[NodePath, str]]:
    words, here = schema["x-table"], (*place, "x-table")
    if not isinstance(name := words.get("name"), str):
        return
    yield (*here, "name"), name
    yield (*here, "name"), f"{name}_pkey"
    yield (*here, "name"), f"{name}_org_id_fkey"
    for column in mapping_at(schema, "properties"):
        for kind in ("check", "pattern"):
            yield (*place, "properties", column), f"{name}_{column}_{kind}"
    for column in mapping_at(words, "references"):
        yield (*here, "references", column), reference_name(name, column)
        if [column] not in list_at(words, "indexes"):
            yield (*here, "references", column), index_name(name, [column])
    for n, columns in enumerate(list_at(words, "unique")):
        if isinstance(columns, list):
            yield (*here, "unique", n), unique_name(name, [str(c) for c in columns])
    for n, columns in enumerate(list_at(words, "indexes")):
        if isinstance(columns, list):
            yield (*here, "indexes", n), index_name(name, [str(c) for c in columns])
