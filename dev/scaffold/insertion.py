"""Inserts the lines of a resource into a contract, and changes nothing else in it."""

from dev.scaffold import operations
from dev.scaffold.field_types import ScaffoldError
from dev.scaffold.links import links_from_org, links_from_parent
from dev.scaffold.resource import ROW_METHODS, Resource
from dev.scaffold.responses import conflict_response
from dev.scaffold.schemas import schemas
from openapi import documents
from openapi.contract import Contract, Operation
from openapi.documents import NodePath, format_path, mapping_at

Insertion = tuple[NodePath, list[str]]  # lines, and the path of the node that they follow

# Operations that return an organization: status, the property with its id, and the verbs linked.
ORG_OPERATIONS = {
    "auth.me": ("200", "org_id", ("create", "list")),
    "orgs.create": ("201", "id", ("create", "list")),
    "orgs.get": ("200", "id", ("list",)),
}


def insert(text: str, loaded: Contract, resource: Resource) -> str:
    """Return the text of a contract with the resource inserted. Raises `ScaffoldError`."""
    insertions: list[Insertion] = [
        (_last_child(loaded, "tags"), operations.tag(resource)),
        *_links(loaded, resource),
        *_conflicts(loaded, resource),
        *(
            (_last_child(loaded, "paths"), ["", *path_item])
            for path_item in operations.path_items(resource)
        ),
        *((_last_page(loaded), ["", *schema]) for schema in schemas(resource)),
    ]
    if any(verb in resource.verbs for verb in ROW_METHODS):
        insertions.append((_last_path_parameter(loaded), operations.id_parameter(resource)))
    lines = text.splitlines(keepends=True)
    newline = "\r\n" if lines[0].endswith("\r\n") else "\n"
    if not lines[-1].endswith("\n"):
        lines[-1] += newline
    inserted_at: dict[int, list[str]] = {}
    for path, new_lines in insertions:
        first = _block_line(loaded, path)
        indentation = " " * _indentation(lines[first - 1])
        inserted_at.setdefault(_end(lines, first), []).extend(
            f"{indentation}{line}".rstrip() + newline for line in new_lines
        )
    for index in sorted(inserted_at, reverse=True):
        lines[index:index] = inserted_at[index]
    return "".join(lines)


def _links(loaded: Contract, resource: Resource) -> list[Insertion]:
    """Return the links from other operations to the resource."""
    candidates = [
        (id, code, links_from_org(resource, property_name, verbs))
        for id, (code, property_name, verbs) in ORG_OPERATIONS.items()
    ]
    for parent in _parents(resource):
        candidates.append((f"{parent}.create", "201", links_from_parent(resource, parent)))
    insertions: list[Insertion] = []
    for id, code, links in candidates:
        operation = loaded.operations.get(id)
        if operation and links and operation.responses.get(code, {}).get("links"):
            path = _last_child(loaded, *_responses_path(operation), code, "links")
            insertions.append((path, links))
    return insertions


def _conflicts(loaded: Contract, resource: Resource) -> list[Insertion]:
    """Return the 409 responses of deletions that the resource can now prevent."""
    insertions: list[Insertion] = []
    for parent in _parents(resource, on_delete="restrict"):
        operation = loaded.operations.get(f"{parent}.delete")
        if operation and "409" not in operation.responses:
            previous = max(code for code in operation.responses if code < "409")
            path = (*_responses_path(operation), previous)
            insertions.append((path, conflict_response()))
    return insertions


def _parents(resource: Resource, on_delete: str | None = None) -> list[str]:
    """Return the other tables that the resource references, with the given `on_delete` if any."""
    tables = [
        column.table
        for column in resource.fields.columns
        if column.table not in (None, resource.name) and on_delete in (None, column.on_delete)
    ]
    return [table for table in dict.fromkeys(tables) if table is not None]


def _responses_path(operation: Operation) -> tuple[str, ...]:
    return ("paths", operation.path, operation.method, "responses")


def _last_child(loaded: Contract, *path: str) -> NodePath:
    """Return the path of the last child of a list or a mapping."""
    try:
        node = documents.node_at(loaded.document, path)
    except LookupError:
        raise ScaffoldError(f"the contract must define {format_path(path)}") from None
    last = len(node) - 1 if isinstance(node, list) else list(node)[-1]
    return (*path, last)


def _last_path_parameter(loaded: Contract) -> NodePath:
    """Return the path of the last path parameter: they precede all other parameters."""
    parameters = loaded.document["components"]["parameters"]
    names = [name for name, node in parameters.items() if mapping_at(node).get("in") == "path"]
    return ("components", "parameters", names[-1])


def _last_page(loaded: Contract) -> NodePath:
    """Return the path of the last page schema: it ends a resource, before shared schemas."""
    nodes = loaded.document["components"]["schemas"]
    pages = [
        name
        for name, node in nodes.items()
        if {"items", "next"} <= mapping_at(node, "properties").keys()
    ]
    return ("components", "schemas", pages[-1] if pages else list(nodes)[-1])


def _block_line(loaded: Contract, path: NodePath) -> int:
    """Return the line of the node at `path`. Raises `ScaffoldError` if its parent shares it."""
    line, parent = loaded.line_of(*path), path[:-1]
    if line == loaded.line_of(*parent):
        raise ScaffoldError(f"line {line}: write {format_path(parent)} with one entry per line")
    return line


def _end(lines: list[str], first: int) -> int:
    """Return the number of the last line of the entry that begins on line `first`."""
    indentation, end = _indentation(lines[first - 1]), first
    for n in range(first, len(lines)):
        text = lines[n].strip()
        if text and _indentation(lines[n]) <= indentation and not text.startswith("#"):
            break
        if text and _indentation(lines[n]) > indentation:
            end = n + 1
    return end


def _indentation(line: str) -> int:
    return len(line) - len(line.lstrip(" "))
