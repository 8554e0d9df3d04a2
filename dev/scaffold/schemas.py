"""The schemas of one resource: the bodies, the table, the page."""

from collections.abc import Iterator
from typing import Any

from dev.scaffold.fields import Field
from dev.scaffold.resource import Resource
from dev.scaffold.yaml_text import entry, flow, indented, ref


def schemas(made: Resource) -> Iterator[list[str]]:
    """Yield the bodies, the resource and its page."""
    columns = made.fields.columns
    if {"create", "replace"} & {*made.verbs}:
        wanted = [column.name for column in columns if column.wanted]
        yield _object(f"{made.schema}Request", wanted, _properties(columns))
    if "update" in made.verbs:
        yield _object(f"{made.schema}Patch", [], _properties(columns, defaults=False))
    service = {"id": "Id", "org_id": "Id"}, {"created_at": "Time"}
    if made.changes:
        service[1]["updated_at"] = "Time"
    before, after = ({k: ref("schemas", v) for k, v in names.items()} for names in service)
    properties = {**before, **_properties(columns), **after}
    yield _object(made.schema, list(properties), properties, _table(made))
    if "list" in made.verbs:
        yield [
            f"{made.schema}Page:",
            "  type: object",
            "  additionalProperties: false",
            "  required: [items]",
            "  properties:",
            "    items:",
            "      type: array",
            "      maxItems: 100",
            f"      items: {ref('schemas', made.schema)}",
            f"    next: {ref('schemas', 'Cursor')}",
        ]


def _table(made: Resource) -> list[str]:
    fields = made.fields
    lines = ["x-table:", f"  name: {made.name}"]
    if fields.unique:
        lines.append(f"  unique: {flow([[*names] for names in fields.unique])}")
    referring = [column for column in fields.columns if column.table]
    if referring:
        lines.append("  references:")
    for column in referring:
        target = {"table": column.table, "on_delete": column.on_delete}
        lines.append(f"    {column.name}: {flow(target)}")
    if fields.indexes:
        lines.append(f"  indexes: {flow([[*names] for names in fields.indexes])}")
    return lines


def _object(
    name: str, required: list[str], properties: dict[str, Any], extra: list[str] | None = None
) -> list[str]:
    lines = [f"{name}:", "  type: object", "  additionalProperties: false"]
    if required:
        lines += entry("  required", required)
    lines += [*indented(extra or []), "  properties:"]
    for key, schema in properties.items():
        whole = isinstance(schema, str)
        lines += [f"    {key}: {schema}"] if whole else entry(f"    {key}", schema)
    return lines


def _properties(columns: tuple[Field, ...], *, defaults: bool = True) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for column in columns:
        nullable = {"nullable": True} if column.optional else {}
        default = {"default": column.default} if defaults and column.default is not None else {}
        found[column.name] = {**column.schema, **nullable, **default}
        if found[column.name] == {"type": "string", "format": "uuid"}:
            found[column.name] = ref("schemas", "Id")
        if found[column.name] == {"type": "string", "format": "date-time"}:
            found[column.name] = ref("schemas", "Time")
    return found
