"""Where the lines of a resource go in a contract, which otherwise stays as it is."""

from dev.scaffold import operations
from dev.scaffold.fields import ScaffoldError
from dev.scaffold.resource import METHODS, Resource
from dev.scaffold.schemas import schemas
from openapi import documents
from openapi.contract import Contract, Operation
from openapi.documents import NodePath, format_path, mapping_at

# Who answers with an organization: status, where its id stands, what is linked from there.
ORGS = {
    "auth.me": ("200", "org_id", ("create", "list")),
    "orgs.create": ("201", "id", ("create", "list")),
    "orgs.get": ("200", "id", ("list",)),
}


def add(text: str, declared: Contract, made: Resource) -> str:
    """Return the contract's text with the resource added. Raises `ScaffoldError`."""
    sites: list[tuple[NodePath, list[str]]] = [
        (_last(declared, "tags"), operations.tag(made)),
        *_links(declared, made),
        *_conflicts(declared, made),
        *((_last(declared, "paths"), ["", *path]) for path in operations.paths(made)),
        *((_last_page(declared), ["", *schema]) for schema in schemas(made)),
    ]
    if {*METHODS} & {*made.verbs}:
        sites.append((_last_id(declared), operations.parameter(made)))
    lines = text.splitlines(keepends=True)
    newline = "\r\n" if lines[0].endswith("\r\n") else "\n"
    if not lines[-1].endswith("\n"):
        lines[-1] += newline
    below: dict[int, list[str]] = {}
    for place, block in sites:
        first = _block_line(declared, place)
        indent = " " * _indent(lines[first - 1])
        whole = [f"{indent}{line}".rstrip() + newline for line in block]
        below.setdefault(_end(lines, first), []).extend(whole)
    for end in sorted(below, reverse=True):
        lines[end:end] = below[end]
    return "".join(lines)


def _links(declared: Contract, made: Resource) -> list[tuple[NodePath, list[str]]]:
    """Return what other operations link to it, which is how a fuzzer finds its way."""
    sites = [
        (id, code, operations.links_from_org(made, org, verbs))
        for id, (code, org, verbs) in ORGS.items()
    ]
    for parent in _parents(made):
        sites.append((f"{parent}.create", "201", operations.links_from_parent(made, parent)))
    found: list[tuple[NodePath, list[str]]] = []
    for id, code, links in sites:
        operation = declared.operations.get(id)
        if operation and links and operation.responses.get(code, {}).get("links"):
            found.append((_last(declared, *_responses(operation), code, "links"), links))
    return found


def _conflicts(declared: Contract, made: Resource) -> list[tuple[NodePath, list[str]]]:
    """Return the answers that deleting what is referred to can have from now on."""
    found: list[tuple[NodePath, list[str]]] = []
    for parent in _parents(made, "restrict"):
        operation = declared.operations.get(f"{parent}.delete")
        if operation and "409" not in operation.responses:
            before = max(code for code in operation.responses if code < "409")
            found.append(((*_responses(operation), before), operations.conflict()))
    return found


def _parents(made: Resource, *rules: str) -> list[str]:
    """Return the other tables that columns refer to, by any rule or one of these."""
    columns = (c for c in made.fields.columns if not rules or c.on_delete in rules)
    return list(dict.fromkeys(c.table for c in columns if c.table and c.table != made.name))


def _responses(operation: Operation) -> tuple[str, ...]:
    return ("paths", operation.path, operation.method, "responses")


def _last(declared: Contract, *place: str) -> NodePath:
    """Return the place of the last of a list or mapping."""
    try:
        node = documents.node_at(declared.document, place)
    except LookupError:
        raise ScaffoldError(f"the contract has no {'.'.join(place)}") from None
    last = len(node) - 1 if isinstance(node, list) else list(node)[-1]
    return (*place, last)


def _last_id(declared: Contract) -> NodePath:
    """The ids of paths stand together, before what else is a parameter."""
    parameters = declared.document["components"]["parameters"]
    ids = [name for name, node in parameters.items() if mapping_at(node).get("in") == "path"]
    return ("components", "parameters", ids[-1])


def _last_page(declared: Contract) -> NodePath:
    """Resources end with their page, and stand before what they share."""
    schemas = declared.document["components"]["schemas"]
    pages = [
        n for n, node in schemas.items() if {"items", "next"} <= {*mapping_at(node, "properties")}
    ]
    return ("components", "schemas", pages[-1] if pages else list(schemas)[-1])


def _block_line(declared: Contract, place: NodePath) -> int:
    """Return the line of the key at `place`. Raises `ScaffoldError` where it shares a line."""
    line = declared.line_of(*place)
    if line == declared.line_of(*place[:-1]):
        raise ScaffoldError(
            f"line {line}: write {format_path(place[:-1])} with one entry a line, to add to it"
        )
    return line


def _end(lines: list[str], first: int) -> int:
    """Return how many lines there are up to the end of the entry that begins on line `first`."""
    indent, end = _indent(lines[first - 1]), first
    for n in range(first, len(lines)):
        text = lines[n].strip()
        if text and _indent(lines[n]) <= indent and not text.startswith("#"):
            break
        if text and _indent(lines[n]) > indent:
            end = n + 1
    return end


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))
