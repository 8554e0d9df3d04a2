"""The tag, the path parameter and the operations of a resource, as lines of YAML."""

import textwrap
from collections.abc import Iterator
from typing import Any

from dev.scaffold.fields import Field
from dev.scaffold.links import links_from_create, links_from_list, links_from_row
from dev.scaffold.resource import (
    ROW_METHODS,
    Resource,
    field_example,
    filter_columns,
    patch_example,
    request_example,
    row_example,
)
from dev.scaffold.responses import (
    BODY_ERRORS,
    COMMON_ERRORS,
    error_responses,
    row_response,
    success_response,
)
from dev.scaffold.yaml_text import entry, indented, ref, scalar

DESCRIPTION_WIDTH = 88


def tag(resource: Resource) -> list[str]:
    """Return the tag that groups the operations."""
    return [
        f"- name: {resource.name}",
        f"  description: {resource.plural_noun.capitalize()} of an organization",
    ]


def id_parameter(resource: Resource) -> list[str]:
    """Return the path parameter that names a row."""
    return [
        f"{resource.schema}Id:",
        f"  name: {resource.singular}_id",
        "  in: path",
        "  required: true",
        f"  description: The id of the {resource.noun}",
        "  schema: {type: string, format: uuid}",
        f"  example: {resource.id_example}",
    ]


def path_items(resource: Resource) -> Iterator[list[str]]:
    """Yield the path items of the collection and of a row, if they have operations."""
    org = ["  parameters:", "    - $ref: '#/components/parameters/OrgId'"]
    operations = {"create": _create, "list": _list}
    collection = [
        line
        for verb, operation in operations.items()
        if verb in resource.verbs
        for line in operation(resource)
    ]
    if collection:
        yield [f"{resource.path}:", *org, *indented(collection)]
    row = [
        line for verb in ROW_METHODS if verb in resource.verbs for line in _on_row(resource, verb)
    ]
    if row:
        row_id = f"    - $ref: '#/components/parameters/{resource.schema}Id'"
        yield [f"{resource.path}/{{{resource.singular}_id}}:", *org, row_id, *indented(row)]


def _create(resource: Resource) -> list[str]:
    sentences = []
    for key in resource.fields.unique:
        names = " and ".join(f"`{name}`" for name in key)
        combination = "the combination of " if len(key) > 1 else ""
        sentences.append(f"Within an organization, {combination}{names} must be unique.")
    headers = {"Location": "Location"}
    if resource.has_idempotency:
        headers["Idempotency-Replayed"] = "IdempotencyReplayed"
    if resource.has_etag:
        headers["ETag"] = "ETag"
    errors = COMMON_ERRORS | BODY_ERRORS
    if resource.fields.unique or resource.has_idempotency:
        errors |= {"409"}
    if resource.has_idempotency:
        errors |= {"422"}
    return [
        "post:",
        *_head(resource, "create", f"Create {resource.noun_with_article}", " ".join(sentences)),
        *(_parameter("IdempotencyKey") if resource.has_idempotency else []),
        *indented(_request_body(f"{resource.schema}Request", request_example(resource))),
        "  responses:",
        *row_response("201", resource, headers, links_from_create(resource)),
        *error_responses(errors, conflict="Conflict" if resource.fields.unique else "KeyInUse"),
    ]


def _list(resource: Resource) -> list[str]:
    description = (
        f"Returns the {resource.plural_noun} in order of creation, in pages."
        f" {resource.noun_with_article.capitalize()} that exists while you read all pages appears"
        " exactly once."
    )
    filters = [
        line for column in filter_columns(resource.fields) for line in _filter(resource, column)
    ]
    return [
        "get:",
        *_head(
            resource, "list", f"List the {resource.plural_noun} of an organization", description
        ),
        *_parameter("Limit"),
        "    - $ref: '#/components/parameters/Cursor'",
        *indented(filters, 2),
        "  responses:",
        *success_response(
            "200",
            f"A page of {resource.plural_noun}",
            {},
            f"{resource.schema}Page",
            {"items": [row_example(resource)]},
            links_from_list(resource),
        ),
        *error_responses(COMMON_ERRORS),
    ]


def _filter(resource: Resource, column: Field) -> list[str]:
    return [
        f"- name: {column.name}",
        "  in: query",
        f"  description: Return only {resource.plural_noun} with this `{column.name}`",
        *entry("  schema", column.schema),
        f"  example: {scalar(field_example(column, resource))}",
    ]


def _on_row(resource: Resource, verb: str) -> list[str]:
    summary = f"{verb.capitalize()} {resource.noun_with_article}"
    description = {
        "replace": "Sets an optional property that the body omits to its default, or else to null.",
        "update": "Changes only the properties in the body; null clears optional ones (RFC 7396).",
    }.get(verb, "")
    if verb == "update":
        summary += " (JSON merge patch)"
    errors = set(COMMON_ERRORS)
    lines = [f"{ROW_METHODS[verb]}:", *_head(resource, verb, summary, description)]
    if resource.has_etag and verb != "get":
        errors |= {"412"}
        lines += _parameter("IfMatch")
    if verb == "replace":
        lines += indented(_request_body(f"{resource.schema}Request", request_example(resource)))
    if verb == "update":
        lines += indented(_request_body(f"{resource.schema}Patch", patch_example(resource)))
    if verb in ("replace", "update"):
        errors |= BODY_ERRORS | ({"409"} if resource.fields.unique else set())
    lines.append("  responses:")
    if verb == "delete":
        if any(
            column.table == resource.name and column.on_delete == "restrict"
            for column in resource.fields.columns
        ):
            errors |= {"409"}
        deleted = ["    '204':", "      description: Deleted"]
        return [*lines, *deleted, *error_responses(errors)]
    headers = {"ETag": "ETag"} if resource.has_etag else {}
    response = row_response("200", resource, headers, links_from_row(resource, verb))
    return [*lines, *response, *error_responses(errors)]


def _head(resource: Resource, verb: str, summary: str, description: str) -> list[str]:
    head = [
        f"  operationId: {resource.name}.{verb}",
        f"  tags: [{resource.name}]",
        f"  summary: {summary}",
    ]
    lines = textwrap.wrap(description, DESCRIPTION_WIDTH)
    if len(lines) == 1:
        head.append(f"  description: {description}")
    elif lines:
        head += ["  description: |", *indented(lines, 2)]
    return head


def _parameter(component: str) -> list[str]:
    return ["  parameters:", f"    - $ref: {scalar(f'#/components/parameters/{component}')}"]


def _request_body(schema: str, example: dict[str, Any]) -> list[str]:
    return [
        "requestBody:",
        "  required: true",
        "  content:",
        "    application/json:",
        f"      schema: {ref('schemas', schema)}",
        *entry("      example", example),
    ]
