"""The tables that a contract describes by `x-table`, and the rules that they keep.

Columns come from the properties of the schema. As in `openapi.rules`, a rule passes over what has
not the shape it looks for, and nothing raises for a malformed document.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

from openapi.rules import (
    Finding,
    Place,
    deref,
    each_operation,
    entries,
    function_of,
    parameters_of,
    resolve,
    table,
    walk,
)

# What the generic handler serves, by the method that the verb needs.
VERBS = {
    "create": "post",
    "list": "get",
    "get": "get",
    "replace": "put",
    "update": "patch",
    "delete": "delete",
}
# Filled by the service; where a schema has them, they are always in the answer.
SERVICE_COLUMNS = {
    "id": "uuid",
    "org_id": "uuid",
    "created_at": "date-time",
    "updated_at": "date-time",
}
# Written by hand, and what they hold is not a contract's to say.
OWN_TABLES = (
    "alembic_version",
    "idempotency_keys",
    "memberships",
    "organizations",
    "used_org_ids",
)
# PostgreSQL's own in every table (18, section 5.6).
SYSTEM_COLUMNS = ("tableoid", "xmin", "cmin", "xmax", "cmax", "ctid")
LONGEST = 63  # bytes of a name; PostgreSQL cuts what is longer
SCALARS = ("string", "integer", "number", "boolean")
_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


@dataclass(frozen=True)
class Column:
    """One property of the schema, every `$ref` resolved; `required` means NOT NULL."""

    name: str
    schema: Mapping[str, Any]
    required: bool
    nullable: bool
    service: bool
    has_default: bool
    default: Any

    @property
    def is_json(self) -> bool:
        """Whether the values are objects or arrays."""
        return self.schema["type"] not in SCALARS


@dataclass(frozen=True)
class Reference:
    """`column` names the id of a row of `table`, of the same tenant."""

    column: str
    table: str
    on_delete: str


@dataclass(frozen=True)
class Table:
    """A table of every tenant; `unique` and `indexes` as written, without org_id and id."""

    name: str
    schema: str
    columns: tuple[Column, ...]
    unique: tuple[tuple[str, ...], ...]
    references: tuple[Reference, ...]
    indexes: tuple[tuple[str, ...], ...]
    renamed: Mapping[str, str]
    line: int

    def column(self, name: str) -> Column | None:
        """Return the column of that name, if there is one."""
        return next((column for column in self.columns if column.name == name), None)


def of(document: Any, line_of: Callable[[Place], int]) -> dict[str, Table]:
    """Return the tables by name, in the order of the contract; it must have no fault."""
    found = {}
    for place, schema in _schemas(document):
        words, name = schema["x-table"], str(place[-1])
        found[words["name"]] = Table(
            name=words["name"],
            schema=name,
            columns=tuple(_columns(document, schema)),
            unique=tuple(map(tuple, words.get("unique", ()))),
            references=tuple(
                Reference(column, to["table"], to.get("on_delete", "restrict"))
                for column, to in words.get("references", {}).items()
            ),
            indexes=tuple(map(tuple, words.get("indexes", ()))),
            renamed=words.get("renamed", {}),
            line=line_of((*place, "x-table")),
        )
    return found


def names(document: Any) -> set[str]:
    """Return the names of the tables, of a document with faults too."""
    found = (schema["x-table"].get("name") for _, schema in _schemas(document))
    return {name for name in found if isinstance(name, str)}


def _schemas(document: Any) -> Iterator[tuple[Place, dict[str, Any]]]:
    for name, schema in table(document, "components", "schemas").items():
        if isinstance(table(schema).get("x-table"), dict):
            yield ("components", "schemas", name), schema


def _columns(document: Any, schema: Any) -> Iterator[Column]:
    required = entries(schema, "required")
    for name, node in table(schema, "properties").items():
        resolved = deref(document, node)
        yield Column(
            name=name,
            schema=resolved,
            required=name in required and resolved.get("nullable") is not True,
            nullable=resolved.get("nullable") is True,
            service=name in SERVICE_COLUMNS,
            has_default="default" in resolved,
            default=resolved.get("default"),
        )


# Rules


def check(document: Any, functions_of: Callable[[str], Set[str] | str]) -> Iterator[Finding]:
    """Yield what is wrong with the tables and with the operations that are served from them.

    `functions_of(tag)` are the functions of the user's own module, or what is wrong with it.
    """
    found = list(_schemas(document))
    for place, kind, node in walk(document):
        if kind == "schema" and "x-table" in node and len(place) != 3:
            yield (*place, "x-table"), "belongs to a schema of its own below components.schemas"
    first: dict[str, Place] = {}
    for place, schema in found:
        name, here = schema["x-table"].get("name"), (*place, "x-table")
        if isinstance(name, str) and first.setdefault(name, place) != place:
            yield (
                (*here, "name"),
                f"`{name}` is also the table of {'.'.join(map(str, first[name]))}",
            )
        if name in OWN_TABLES:
            yield (*here, "name"), f"`{name}` is a table of the service itself"
        yield from _properties(document, place, schema)
        yield from _keys(document, here, schema)
        yield from _references(document, here, schema, names(document))
    yield from _derived_names(found)
    for _, schema in found:
        yield from _operations(document, schema, functions_of)


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
    for place, schema in found:
        for where, name in _names_of(place, schema):
            if len(name.encode()) > LONGEST:
                yield where, f"the name `{name}` has more than {LONGEST} bytes"
            elif seen.setdefault(name, where) != where:
                yield where, f"the name `{name}` is taken by {'.'.join(map(str, seen[name]))}"


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


def reference_name(table: str, column: str) -> str:
    """Return the name of the foreign key, as PostgreSQL itself would give it."""
    return f"{table}_org_id_{column}_fkey"


def unique_name(table: str, columns: list[str] | tuple[str, ...]) -> str:
    """Return the name of a unique key, as PostgreSQL itself would give it."""
    return f"{table}_org_id_{'_'.join(columns)}_key"


def index_name(table: str, columns: list[str] | tuple[str, ...]) -> str:
    """Return the name of an index, as PostgreSQL itself would give it."""
    return f"{table}_org_id_{'_'.join(columns)}_id_idx"


# Operations that the generic handler serves


def _operations(
    document: Any, schema: dict[str, Any], functions_of: Callable[[str], Set[str] | str]
) -> Iterator[Finding]:
    name = schema["x-table"].get("name")
    own = functions_of(name) if isinstance(name, str) else ""
    for place, _, operation in each_operation(document):
        id = operation.get("operationId")
        tag, _, verb = id.partition(".") if isinstance(id, str) else ("", "", "")
        if tag != name or verb not in VERBS:
            continue
        if isinstance(own, Set) and function_of(verb) in own:
            continue
        if place[2] != VERBS[verb]:
            yield (*place, "operationId"), f"`{verb}` of a table is a {VERBS[verb].upper()}"
            continue
        yield from _path(document, place, verb, schema)
        if verb in ("create", "replace", "update"):
            yield from _body(document, place, verb, operation, schema)
        if verb == "list":
            yield from _filters(document, place, schema)


def _path(document: Any, place: Place, verb: str, schema: dict[str, Any]) -> Iterator[Finding]:
    """The organization comes first, then columns of the row, then its id where there is one."""
    ids = re.findall(r"\{([^{}]*)\}", str(place[1]))
    ends_in_id = str(place[1]).endswith("}")
    if ids[:1] != ["org_id"]:
        yield place, "the path of a table's operation begins with {org_id}, the tenant"
    elif ends_in_id != (verb not in ("create", "list")) or (ends_in_id and len(ids) < 2):
        yield place, f"the path of `{verb}` {'ends' if not ends_in_id else 'does not end'} in an id"
    for id in ids[1:-1] if ends_in_id else ids[1:]:
        if id not in table(schema, "x-table", "references"):
            yield place, f"the path names `{id}`, which is none of the table's references"


def _body(
    document: Any, place: Place, verb: str, operation: Any, schema: dict[str, Any]
) -> Iterator[Finding]:
    columns = table(schema, "properties")
    given = re.findall(r"\{([^{}]*)\}", str(place[1]))
    media = table(resolve(document, operation.get("requestBody")), "content")
    if not media:
        yield place, f"`{verb}` of a table has a body"
    for kind, holder in media.items():
        here = (*place, "requestBody", "content", kind, "schema")
        body = resolve(document, table(holder).get("schema"))
        for name, node in table(body, "properties").items():
            if name in SERVICE_COLUMNS or name not in columns:
                yield here, f"`{name}` is no column that clients fill"
                continue
            column = resolve(document, columns[name])
            nullable = column.get("nullable") is True or name not in entries(schema, "required")
            yield from (
                (here, f"`{name}` {reason}")
                for reason in _wider(resolve(document, node), column, nullable)
            )
        for name in entries(schema, "required") if verb != "update" else ():
            column = resolve(document, columns.get(name))
            is_filled = name in SERVICE_COLUMNS or name in given or "default" in column
            nullable = column.get("nullable") is True
            if not is_filled and not nullable and name not in entries(body, "required"):
                yield here, f"does not require `{name}`, a column that is never empty"


def _wider(sent: dict[str, Any], column: dict[str, Any], nullable: bool) -> Iterator[str]:
    """Say what a body lets in that the column does not take."""
    for key in ("type", "format"):
        if sent.get(key) != column.get(key):
            yield f"has another {key} than the column"
            return
    if sent.get("nullable") is True and not nullable:
        yield "may be null, and the column may not"
    if "enum" in column:
        if not isinstance(sent.get("enum"), list):
            yield "is no enum, and the column is"
        elif extra := [v for v in sent["enum"] if v not in (*entries(column, "enum"), None)]:
            yield f"may be {extra[0]!r}, and the column may not"
    if "enum" in column or "enum" in sent:
        return
    if "pattern" in column and sent.get("pattern") != column["pattern"]:
        yield "has another pattern than the column"
    for key, sign in (("maxLength", 1), ("maximum", 1), ("minLength", -1), ("minimum", -1)):
        bound, other = column.get(key), sent.get(key)
        if isinstance(bound, int | float) and not (
            isinstance(other, int | float) and other * sign <= bound * sign
        ):
            yield f"has a wider {key} than the column"
    for key in ("exclusiveMaximum", "exclusiveMinimum"):
        if column.get(key) is True and sent.get(key) is not True:
            yield f"lacks the {key} of the column"


def _filters(document: Any, place: Place, schema: dict[str, Any]) -> Iterator[Finding]:
    """Query parameters of a list are its page, a column that filters, or `sort`."""
    columns = table(schema, "properties")
    for (name, where), (at, parameter) in parameters_of(document, place).items():
        if where != "query" or name in ("limit", "cursor"):
            continue
        sent = resolve(document, parameter.get("schema"))
        column = resolve(document, columns.get(name))
        if name == "sort":
            for value in entries(sent, "enum") or [None]:
                by = str(value).removeprefix("-")
                kind = resolve(document, columns.get(by))
                if kind.get("type") not in SCALARS:
                    yield at, f"`sort` is an enum of columns that are no objects: {value!r} is none"
        elif column.get("type") not in SCALARS:
            yield at, f"`{name}` is no column to filter by"
        elif any(sent.get(key) != column.get(key) for key in ("type", "format")):
            yield at, f"`{name}` has another type than the column"
