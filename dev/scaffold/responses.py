"""The responses of a resource's operations, as lines of YAML."""

from typing import Any

from dev.scaffold.resource import Resource, row_example
from dev.scaffold.yaml_text import block, indented, ref

# Components of error responses by status, in the order in which operations list them.
ERROR_RESPONSES = {
    "400": "BadRequest",
    "401": "Unauthorized",
    "404": "NotFound",
    "408": "Timeout",
    "409": "Conflict",
    "412": "PreconditionFailed",
    "413": "TooLarge",
    "415": "UnsupportedMediaType",
    "422": "KeyReused",
    "431": "HeadersTooLarge",
    "500": "InternalError",
    "503": "Unavailable",
}
COMMON_ERRORS = {"400", "401", "404", "413", "431", "500", "503"}
BODY_ERRORS = {"408", "415"}


def row_response(
    code: str, resource: Resource, headers: dict[str, str], links: list[str]
) -> list[str]:
    """Return a response with a row of the resource."""
    description = f"The {resource.noun}"
    return success_response(
        code, description, headers, resource.schema, row_example(resource), links
    )


def success_response(
    code: str,
    description: str,
    headers: dict[str, str],
    schema: str,
    example: Any,
    links: list[str],
) -> list[str]:
    """Return a response; `headers` has a component for each header."""
    named = [f"  {name}: {ref('headers', component)}" for name, component in headers.items()]
    return indented(
        [
            f"'{code}':",
            f"  description: {description}",
            *indented(["headers:", *named] if named else []),
            "  content:",
            "    application/json:",
            f"      schema: {ref('schemas', schema)}",
            "      example:",
            *indented(block(example), 4),
            *indented(["links:", *indented(links)] if links else []),
        ],
        2,
    )


def error_responses(codes: set[str], *, conflict: str = "Conflict") -> list[str]:
    """Return the error responses with these status codes; `conflict` is the component of 409."""
    components = ERROR_RESPONSES | {"409": conflict}
    return [
        f"    '{code}': {ref('responses', component)}"
        for code, component in components.items()
        if code in codes
    ]


def conflict_response() -> list[str]:
    """Return the response of a deletion that a reference with `restrict` can prevent."""
    return [f"'409': {ref('responses', ERROR_RESPONSES['409'])}"]
