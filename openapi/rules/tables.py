"""The rules of the tables that a contract describes by `x-table`."""

import re
from collections.abc import Iterator
from typing import Any

from openapi.documents import Place, dotted, entries, resolve, table, walk
from openapi.rules.messages import Finding
from openapi.tables import (
    OWN_TABLES,
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


def check(document: Any) -> Iterator[Finding]:
    """Yield what is wrong with the tables."""
    found = list(schemas(document))
    for place, kind, node in walk(document):
        if kind == "schema" and "x-table" in node and len(place) != 3:
            yield (*place, "x-table"), "belongs to a schema of its own below components.schemas"
    first: dict[str, Place] = {}
    for place, schema in found:
        name, here = schema["x-table"].get("name"), (*place, "x-table")
        if isinstance(name, str) and first.setdefault(name, place) != place:
            yield (
                (*here, "name"),
                f"`{name}` is also the table of {dotted(first[name])}",
            )
        if name in OWN_TABLES:
            yield (*here, "name"), f"`{name}` is a table of the service itself"
        if str(name).startswith("pg_") or name == SEQUENCE:
            yield (*here, "name"), f"`{name}` would stand for something else in PostgreSQL"
        yield from _properties(document, place, schema)
        yield from _keys(document, here, schema)
        yield from _references(document, here, schema, names(document))
    yield from _derived_names(found)


def _properties(document: Any, place: Place, schema: dict[str, Any]) -> Iterator[Finding]:
    properties, required = table(schema, "properties"), entries(schema, "required")
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
    for new, old in table(schema, "x-table", "renamed").items():
        if new not in properties or new in SERVICE_COLUMNS or old in properties:
            yield (
                (*place, "x-table", "renamed", new),
                "a column that is there once had a name that no property has now",
            )


def _keys(document: Any, here: Place, schema: dict[str, Any]) -> Iterator[Finding]:
    properties = table(schema, "properties")
    for key, noun in (("unique", "a unique key"), ("indexes", "an index")):
        for n, columns in enumerate(entries(schema["x-table"], key)):
            for i, name in enumerate(columns if isinstance(columns, list) else []):
                place = (*here, key, n, i)
                if not isinstance(name, str) or name not in properties:
                    yield place, f"the schema has no property `{name}`"
                elif resolve(document, properties[name]).get("type") in ("object", "array"):
                    yield place, f"{noun} over objects or arrays: `{name}` is stored as jsonb"
                elif name in ("org_id", "id"):
                    yield place, f"`{name}` is put there by itself"


def _references(
    document: Any, here: Place, schema: dict[str, Any], tables: set[str]
) -> Iterator[Finding]:
    properties = table(schema, "properties")
    for name, reference in table(schema, "x-table", "references").items():
        place, target = (*here, "references", name), table(reference).get("table")
        if name not in properties or name in SERVICE_COLUMNS:
            yield place, f"the schema has no property `{name}` that could refer to something"
        elif resolve(document, properties[name]).get("format") != "uuid":
            yield place, f"`{name}` is no uuid, as the ids of rows are"
        if target in OWN_TABLES:
            reason = "the references of a tenant's rows stay among its rows"
            yield (*place, "table"), f"`{target}` is a table of the service itself: {reason}"
        elif isinstance(target, str) and target not in tables:
            yield (*place, "table"), f"no schema has an x-table `{target}`"


def _derived_names(found: list[tuple[Place, dict[str, Any]]]) -> Iterator[Finding]:
    """Names of constraints and indexes share one space, and PostgreSQL cuts them."""
    seen: dict[str, Place] = {}
    tables = {str(schema["x-table"].get("name")): (place, schema) for place, schema in found[::-1]}
    for place, schema in reversed(tables.values()):
        for where, name in _names_of(place, schema):
            if len(name.encode()) > LONGEST:
                yield where, f"the name `{name}` has more than {LONGEST} bytes"
            elif seen.setdefault(name, where) != where:
                yield where, f"the name `{name}` is taken by {dotted(seen[name])}"


def _names_of(place: Place, schema: dict[str, Any]) -> Iterator[tuple[Place, str]]:
    words, here = schema["x-table"], (*place, "x-table")
    if not isinstance(name := words.get("name"), str):
        return
    yield (*here, "name"), name
    yield (*here, "name"), f"{name}_pkey"
    yield (*here, "name"), f"{name}_org_id_fkey"
    for column in table(schema, "properties"):
        for kind in ("check", "pattern"):
            yield (*place, "properties", column), f"{name}_{column}_{kind}"
    for column in table(words, "references"):
        yield (*here, "references", column), reference_name(name, column)
        if [column] not in entries(words, "indexes"):
            yield (*here, "references", column), index_name(name, [column])
    for n, columns in enumerate(entries(words, "unique")):
        if isinstance(columns, list):
            yield (*here, "unique", n), unique_name(name, [str(c) for c in columns])
    for n, columns in enumerate(entries(words, "indexes")):
        if isinstance(columns, list):
            yield (*here, "indexes", n), index_name(name, [str(c) for c in columns])
