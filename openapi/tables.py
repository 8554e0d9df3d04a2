"""The tables that a contract describes by `x-table`: columns come from the schema's properties."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from openapi.documents import NodePath, deref, list_at, mapping_at

# What the generic handler serves, by the method that the verb needs.
METHOD_BY_VERB = {
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
PLATFORM_TABLES = (
    "alembic_version",
    "idempotency_keys",
    "memberships",
    "organizations",
    "used_org_ids",
)
SEQUENCE = "guest_number"
SCALARS = ("string", "integer", "number", "boolean")


@dataclass(frozen=True)
class Column:
    """One property of the schema, every `$ref` resolved; `required` means NOT NULL."""

    name: str
    schema: Mapping[str, Any]
    required: bool
    nullable: bool
    default: Any


@dataclass(frozen=True)
class Reference:
    """`column` names the id of a row of `table`, of the same tenant."""

    column: str
    table: str
    on_delete: str


@dataclass(frozen=True)
class Table:
    """A table of every tenant; `unique` and `indexes` as written, without org_id and id.

    `grants` is what code of the user's own does to it beyond its operations.
    """

    name: str
    schema: str
    columns: tuple[Column, ...]
    unique: tuple[tuple[str, ...], ...]
    references: tuple[Reference, ...]
    indexes: tuple[tuple[str, ...], ...]
    grants: tuple[str, ...]
    renamed: Mapping[str, str]

    def column(self, name: str) -> Column | None:
        """Return the column of that name, if there is one."""
        return next((column for column in self.columns if column.name == name), None)


def from_document(document: Any) -> dict[str, Table]:
    """Return the tables by name, in the order of the contract; it must have no fault."""
    found = {}
    for place, schema in schemas(document):
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
            grants=tuple(words.get("grants", ())),
            renamed=words.get("renamed", {}),
        )
    return found


def names(document: Any) -> set[str]:
    """Return the names of the tables, of a document with faults too."""
    found = (schema["x-table"].get("name") for _, schema in schemas(document))
    return {name for name in found if isinstance(name, str)}


def schemas(document: Any) -> Iterator[tuple[NodePath, dict[str, Any]]]:
    """Yield place and schema of each table, of a document with faults too."""
    for name, schema in mapping_at(document, "components", "schemas").items():
        if isinstance(mapping_at(schema).get("x-table"), dict):
            yield ("components", "schemas", name), schema


def _columns(document: Any, schema: Any) -> Iterator[Column]:
    required = list_at(schema, "required")
    for name, node in mapping_at(schema, "properties").items():
        resolved = deref(document, node)
        yield Column(
            name=name,
            schema=resolved,
            required=name in required and resolved.get("nullable") is not True,
            nullable=resolved.get("nullable") is True,
            default=resolved.get("default"),
        )


def reference_name(table: str, column: str) -> str:
    """Return the name of the foreign key, as PostgreSQL itself would give it."""
    return f"{table}_org_id_{column}_fkey"


def unique_name(table: str, columns: list[str] | tuple[str, ...]) -> str:
    """Return the name of a unique key, as PostgreSQL itself would give it."""
    return f"{table}_org_id_{'_'.join(columns)}_key"


def index_name(table: str, columns: list[str] | tuple[str, ...]) -> str:
    """Return the name of an index, as PostgreSQL itself would give it."""
    return f"{table}_org_id_{'_'.join(columns)}_id_idx"
