"""The rules for `x-table`: names, columns, keys and references of a contract's tables."""

import re
from collections.abc import Iterator
from typing import Any

from openapi.documents import NodePath, format_path, list_at, mapping_at, resolve
from openapi.object_tree import walk
from openapi.rules.messages import Violation
from openapi.tables import (
    PLATFORM_SEQUENCE,
    PLATFORM_TABLES,
    SCALARS,
    SERVICE_COLUMNS,
    index_name,
    names,
    reference_name,
    schemas,
    unique_name,
)

# Every table of PostgreSQL has them (PostgreSQL 18, section 5.6).
SYSTEM_COLUMNS = ("tableoid", "xmin", "cmin", "xmax", "cmax", "ctid")
MAX_NAME_BYTES = 63  # PostgreSQL truncates longer names
_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


def check(document: Any) -> Iterator[Violation]:
    """Yield the violations of the tables."""
    tables = list(schemas(document))
    for path, kind, node in walk(document):
        if kind == "schema" and "x-table" in node and len(path) != 3:
            yield (*path, "x-table"), "is allowed only on a schema directly in components.schemas"
    first_by_name: dict[str, NodePath] = {}
    for path, schema in tables:
        yield from _table_name(path, schema["x-table"].get("name"), first_by_name)
        yield from _properties(document, path, schema)
        yield from _keys(document, (*path, "x-table"), schema)
        yield from _references(document, (*path, "x-table"), schema, names(document))
    yield from _derived_names(tables)


def _table_name(
    path: NodePath, name: Any, first_by_name: dict[str, NodePath]
) -> Iterator[Violation]:
    """Check the name of one table, and add it to `first_by_name` if it is new."""
    name_path = (*path, "x-table", "name")
    if not isinstance(name, str):
        return
    first = first_by_name.setdefault(name, path)
    if first != path:
        yield name_path, f"duplicate table `{name}`, first defined by {format_path(first)}"
    if name in PLATFORM_TABLES:
        yield name_path, f"`{name}` is a platform table; choose another name"
    if name == PLATFORM_SEQUENCE:
        yield name_path, f"`{name}` is a sequence of the platform; choose another name"
    if name.startswith("pg_"):
        yield name_path, "names that begin with `pg_` are reserved by PostgreSQL; choose another"


def _properties(document: Any, path: NodePath, schema: dict[str, Any]) -> Iterator[Violation]:
    properties, required = mapping_at(schema, "properties"), list_at(schema, "required")
    if schema.get("type") != "object" or schema.get("additionalProperties") is not False:
        yield (
            path,
            "a table must be a closed object: add `type: object` and `additionalProperties: false`",
        )
    for name in ("id", "org_id"):
        if name not in properties:
            yield (
                path,
                f"property `{name}` is missing: every table has it, and the service fills it",
            )
    for name, node in properties.items():
        column_path, column = (*path, "properties", name), resolve(document, node)
        if name in SYSTEM_COLUMNS:
            yield column_path, f"`{name}` is a system column of PostgreSQL; choose another name"
        elif not _NAME.fullmatch(name):
            yield column_path, f"`{name}` is not a valid column name; write it in snake_case"
        if column.get("writeOnly") is True:
            yield column_path, "cannot be writeOnly: responses contain every column"
        if column.get("type") not in (*SCALARS, "object", "array"):
            yield column_path, "a column must have a `type`"
        elif (format := SERVICE_COLUMNS.get(name)) and (
            column.get("format") != format
            or name not in required
            or {"nullable", "default"} & column.keys()
        ):
            yield (
                column_path,
                f"`{name}` is filled by the service: it must be required, with "
                f"`format: {format}`, without `nullable` and `default`",
            )
    for new, old in mapping_at(schema, "x-table", "renamed").items():
        if reason := _rename_issue(new, old, properties):
            yield (*path, "x-table", "renamed", new), reason


def _rename_issue(new: str, old: Any, properties: dict[str, Any]) -> str | None:
    if new in SERVICE_COLUMNS:
        return f"`{new}` is filled by the service and cannot be renamed"
    if new not in properties:
        return f"the schema has no property `{new}`; write `new: old`"
    if isinstance(old, str) and old in properties:
        return f"`{old}` is still a property; remove one of them"
    return None


def _keys(document: Any, table_path: NodePath, schema: dict[str, Any]) -> Iterator[Violation]:
    properties = mapping_at(schema, "properties")
    for key, noun in (("unique", "a unique key"), ("indexes", "an index")):
        for n, columns in enumerate(list_at(schema["x-table"], key)):
            for i, name in enumerate(columns if isinstance(columns, list) else []):
                path = (*table_path, key, n, i)
                if not isinstance(name, str) or name not in properties:
                    yield path, f"the schema has no property `{name}`"
                elif resolve(document, properties[name]).get("type") in ("object", "array"):
                    yield path, f"`{name}` is stored as jsonb and cannot be part of {noun}"
                elif name in ("org_id", "id"):
                    yield path, f"`{name}` is added automatically; remove it"


def _references(
    document: Any, table_path: NodePath, schema: dict[str, Any], tables: set[str]
) -> Iterator[Violation]:
    properties = mapping_at(schema, "properties")
    for name, reference in mapping_at(schema, "x-table", "references").items():
        path, target = (*table_path, "references", name), mapping_at(reference).get("table")
        if name in SERVICE_COLUMNS:
            yield path, f"`{name}` is filled by the service and cannot be a reference"
        elif name not in properties:
            yield path, f"the schema has no property `{name}`"
        elif resolve(document, properties[name]).get("format") != "uuid":
            yield path, f"`{name}` must have `format: uuid`, like the ids of rows"
        if target in PLATFORM_TABLES:
            reason = f"`{target}` is a platform table; reference a table of the contract"
            yield (*path, "table"), reason
        elif isinstance(target, str) and target not in tables:
            yield (*path, "table"), f"references a table that does not exist: `{target}`"


def _derived_names(tables: list[tuple[NodePath, dict[str, Any]]]) -> Iterator[Violation]:
    """Tables, constraints and indexes share one namespace, and their names have a limit.

    Of tables with the same name, the first one counts.
    """
    paths: dict[str, NodePath] = {}
    by_name = {str(schema["x-table"].get("name")): (path, schema) for path, schema in tables[::-1]}
    for table_path, schema in reversed(by_name.values()):
        for path, name in _names_of(table_path, schema):
            if len(name.encode()) > MAX_NAME_BYTES:
                yield path, f"the derived name `{name}` has more than {MAX_NAME_BYTES} bytes"
            elif (first := paths.setdefault(name, path)) != path:
                yield path, f"the derived name `{name}` is already taken by {format_path(first)}"


def _names_of(path: NodePath, schema: dict[str, Any]) -> Iterator[tuple[NodePath, str]]:
    """Yield each name that PostgreSQL stores for a table, and the path of the node it is from."""
    extension, table_path = schema["x-table"], (*path, "x-table")
    if not isinstance(name := extension.get("name"), str):
        return
    yield (*table_path, "name"), name
    yield (*table_path, "name"), f"{name}_pkey"
    yield (*table_path, "name"), f"{name}_org_id_fkey"
    for column in mapping_at(schema, "properties"):
        for suffix in ("check", "pattern"):
            yield (*path, "properties", column), f"{name}_{column}_{suffix}"
    for column in mapping_at(extension, "references"):
        yield (*table_path, "references", column), reference_name(name, column)
        if [column] not in list_at(extension, "indexes"):
            yield (*table_path, "references", column), index_name(name, [column])
    for n, columns in enumerate(list_at(extension, "unique")):
        if isinstance(columns, list):
            yield (*table_path, "unique", n), unique_name(name, [str(c) for c in columns])
    for n, columns in enumerate(list_at(extension, "indexes")):
        if isinstance(columns, list):
            yield (*table_path, "indexes", n), index_name(name, [str(c) for c in columns])
