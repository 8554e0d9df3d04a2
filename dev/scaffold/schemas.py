"""The schemas of a resource, as lines of YAML: request bodies, the table and its page."""

from collections.abc import Iterator
from typing import Any

from dev.scaffold.fields import Field
from dev.scaffold.resource import Resource
from dev.scaffold.yaml_text import entry, flow, indented, ref


def schemas(resource: Resource) -> Iterator[list[str]]:
    """Yield the schemas that the operations use, in the order in which they are written."""
    columns = resource.fields.columns
    if "create" in resource.verbs or "replace" in resource.verbs:
        required = [column.name for column in columns if column.is_required]
        properties = _properties(columns, with_defaults=True)
        yield _object(f"{resource.schema}Request", required, properties)
    if "update" in resource.verbs:
        # A default in a patch would change a property that the client did not send.
        yield _object(f"{resource.schema}Patch", [], _properties(columns, with_defaults=False))
    row = {
        "id": ref("schemas", "Id"),
        "org_id": ref("schemas", "Id"),
        **_properties(columns, with_defaults=True),
        "created_at": ref("schemas", "Time"),
    }
    if resource.is_mutable:
        row["updated_at"] = ref("schemas", "Time")
    yield _object(resource.schema, list(row), row, _table(resource))
    if "list" in resource.verbs:
        yield [
            f"{resource.schema}Page:",
            "  type: object",
            "  additionalProperties: false",
            "  required: [items]",
            "  properties:",
            "    items:",
            "      type: array",
            "      maxItems: 100",
            f"      items: {ref('schemas', resource.schema)}",
            f"    next: {ref('schemas', 'Cursor')}",
        ]


def _table(resource: Resource) -> list[str]:
    fields = resource.fields
    lines = ["x-table:", f"  name: {resource.name}"]
    if fields.unique:
        lines.append(f"  unique: {flow([list(names) for names in fields.unique])}")
    references = [column for column in fields.columns if column.table]
    if references:
        lines.append("  references:")
    for column in references:
        target = {"table": column.table, "on_delete": column.on_delete}
        lines.append(f"    {column.name}: {flow(target)}")
    if fields.indexes:
        lines.append(f"  indexes: {flow([list(names) for names in fields.indexes])}")
    return lines


def _object(
    name: str,
    required: list[str],
    properties: dict[str, Any],
    extensions: list[str] | None = None,
) -> list[str]:
    lines = [f"{name}:", "  type: object", "  additionalProperties: false"]
    if required:
        lines += entry("  required", required)
    lines += [*indented(extensions or []), "  properties:"]
    for key, schema in properties.items():
        is_ref = isinstance(schema, str)
        lines += [f"    {key}: {schema}"] if is_ref else entry(f"    {key}", schema)
    return lines


def _properties(columns: tuple[Field, ...], *, with_defaults: bool) -> dict[str, Any]:
    """Return the schema of each column: a mapping, or a `$ref` that is YAML already."""
    properties: dict[str, Any] = {}
    for column in columns:
        schema = dict(column.schema)
        if column.optional:
            schema["nullable"] = True
        if with_defaults and column.default is not None:
            schema["default"] = column.default
        if schema == {"type": "string", "format": "uuid"}:
            properties[column.name] = ref("schemas", "Id")
        elif schema == {"type": "string", "format": "date-time"}:
            properties[column.name] = ref("schemas", "Time")
        else:
            properties[column.name] = schema
    return properties
