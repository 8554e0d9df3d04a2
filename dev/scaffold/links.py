"""The links of a resource (OpenAPI 3.0.3, Link Object): how clients and fuzzers find its ids."""

from dev.scaffold.resource import ROW_METHODS, Resource
from dev.scaffold.yaml_text import flow

ORG_OF_RESPONSE = {"org_id": "$response.body#/org_id"}
ORG_OF_REQUEST = {"org_id": "$request.path.org_id"}


def links_from_org(resource: Resource, property_name: str, verbs: tuple[str, ...]) -> list[str]:
    """Return links of an operation whose response has an organization's id in a property."""
    org = {"org_id": f"$response.body#/{property_name}"}
    return [line for verb in verbs if verb in resource.verbs for line in _link(resource, verb, org)]


def links_from_parent(resource: Resource, table: str) -> list[str]:
    """Return links of the operation that creates rows of `table`, which the resource references."""
    if "create" not in resource.verbs:
        return []
    columns = [column for column in resource.fields.columns if column.table == table]
    body = {column.name: "$response.body#/id" for column in columns}
    return [*_link(resource, "create", ORG_OF_RESPONSE), f"  requestBody: {flow(body)}"]


def links_from_create(resource: Resource) -> list[str]:
    """Return links from a new row to the operations on it, and to the list."""
    row = _row_parameters(resource)
    lines = [
        line
        for verb in ROW_METHODS
        if verb in resource.verbs
        for line in _link(resource, verb, row)
    ]
    if "list" in resource.verbs:
        lines += _link(resource, "list", ORG_OF_RESPONSE)
    return lines


def links_from_list(resource: Resource) -> list[str]:
    """Return links from a page to the next page, and to its first row."""
    next_page = ORG_OF_REQUEST | {"cursor": "$response.body#/next"}
    lines = _link(resource, "list", next_page, name="NextPage")
    if "get" in resource.verbs:
        row = ORG_OF_REQUEST | {f"{resource.singular}_id": "$response.body#/items/0/id"}
        lines += _link(resource, "get", row)
    return lines


def links_from_row(resource: Resource, verb: str) -> list[str]:
    """Return links from the row in the response of `verb` to other operations on it."""
    targets = ("update", "delete") if verb == "get" else ("get",)
    row = _row_parameters(resource)
    return [
        line
        for target in targets
        if target in resource.verbs
        for line in _link(resource, target, row)
    ]


def _row_parameters(resource: Resource) -> dict[str, str]:
    return ORG_OF_RESPONSE | {f"{resource.singular}_id": "$response.body#/id"}


def _link(
    resource: Resource, verb: str, parameters: dict[str, str], *, name: str = ""
) -> list[str]:
    plural = "".join(word.capitalize() for word in resource.name.split("_"))
    noun = plural if verb == "list" else resource.schema
    return [
        f"{name or verb.capitalize() + noun}:",
        f"  operationId: {resource.name}.{verb}",
        f"  parameters: {flow(parameters)}",
    ]
