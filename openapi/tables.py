"""The tables that a contract defines with `x-table`; the schema's properties are the columns."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from openapi.documents import NodePath, deref, list_at, mapping_at

# The verbs that the service serves without code, and the HTTP method of each.
METHOD_BY_VERB = {
    "create": "post",
    "list": "get",
    "get": "get",
    "replace": "put",
    "update": "patch",
    "delete": "delete",
}
# Columns that the service fills, with their formats; responses always contain them.
SERVICE_COLUMNS = {
    "id": "uuid",
    "org_id": "uuid",
    "created_at": "date-time",
    "updated_at": "date-time",
}
# Tables and the sequence of the service itself; a contract cannot define them.
PLATFORM_TABLES = (
    "alembic_version",
    "idempotency_keys",
    "memberships",
    "organizations",
    "used_org_ids",
)
PLATFORM_SEQUENCE = "guest_number"
SCALARS = ("string", "integer", "number", "boolean")

OnDelete = Literal["restrict", "cascade"]


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
    """A foreign key: `column` contains the id of a row of `table` of the same tenant."""

    column: str
    table: str
    on_delete: OnDelete


@dataclass(frozen=True)
class Table:
    """A tenant table; `unique` and `indexes` are as written, without org_id and id.

    `grants` are the privileges that handlers need on it beyond those of its operations.
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
        """Return the column `name`, or None if there is no such column."""
        return next((column for column in self.columns if column.name == name), None)


def from_document(document: Any) -> dict[str, Table]:
    """Return the tables by name, in the order of the contract, which must have no issues."""
    tables = {}
    for path, schema in schemas(document):
        extension = schema["x-table"]
        tables[extension["name"]] = Table(
            name=extension["name"],
            schema=str(path[-1]),
            columns=tuple(_columns(document, schema)),
            unique=tuple(map(tuple, extension.get("unique", ()))),
            references=tuple(
                Reference(column, reference["table"], reference.get("on_delete", "restrict"))
                for column, reference in extension.get("references", {}).items()
            ),
            indexes=tuple(map(tuple, extension.get("indexes", ()))),
            grants=tuple(extension.get("grants", ())),
            renamed=extension.get("renamed", {}),
        )
    return tables


def names(document: Any) -> set[str]:
    """Return the names of the tables; the document may have issues."""
    values = (schema["x-table"].get("name") for _, schema in schemas(document))
    return {name for name in values if isinstance(name, str)}


def schemas(document: Any) -> Iterator[tuple[NodePath, dict[str, Any]]]:
    """Yield the path and schema of each table; the document may have issues."""
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
    """Return the name of the foreign key on `column`, as PostgreSQL generates it."""
    return f"{table}_org_id_{column}_fkey"


def unique_name(table: str, columns: Sequence[str]) -> str:
    """Return the name of the unique constraint on `columns`, as PostgreSQL generates it."""
    return f"{table}_org_id_{'_'.join(columns)}_key"


def index_name(table: str, columns: Sequence[str]) -> str:
    """Return the name of the index on `columns`, as PostgreSQL generates it."""
    return f"{table}_org_id_{'_'.join(columns)}_id_idx"
