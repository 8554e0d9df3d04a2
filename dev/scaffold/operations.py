"""The tag, the parameter, the paths and the links of one resource."""

from collections.abc import Iterator
from typing import Any

from dev.scaffold.fields import Field
from dev.scaffold.resource import METHODS, Resource, answered, changed, example, filters, sent
from dev.scaffold.yaml_text import block, entry, flow, indented, ref, scalar

# The order in which answers stand; of those that not every contract has, its own name for them.
ANSWERS = {
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
ALWAYS = {"400", "401", "404", "413", "431", "500", "503"}


def tag(made: Resource) -> list[str]:
    words = made.words.capitalize()
    return [f"- name: {made.name}", f"  description: {words} of one organization"]


def parameter(made: Resource) -> list[str]:
    return [
        f"{made.schema}Id:",
        f"  name: {made.singular}_id",
        "  in: path",
        "  required: true",
        f"  description: {made.one.capitalize()}",
        "  schema: {type: string, format: uuid}",
        f"  example: {made.id}",
    ]


def paths(made: Resource) -> Iterator[list[str]]:
    """Yield the collection's path and the row's, as far as there are operations on them."""
    collection = [verb for verb in ("create", "list") if verb in made.verbs]
    row = [verb for verb in METHODS if verb in made.verbs]
    org = ["  parameters:", "    - $ref: '#/components/parameters/OrgId'"]
    if collection:
        drafts = {"create": _create, "list": _list}
        body = [line for verb in collection for line in drafts[verb](made)]
        yield [f"{made.path}:", *org, *indented(body)]
    if row:
        own = f"    - $ref: '#/components/parameters/{made.schema}Id'"
        body = [line for verb in row for line in _on_row(made, verb)]
        yield [f"{made.path}/{{{made.singular}_id}}:", *org, own, *indented(body)]


def links_from_org(made: Resource, org: str, verbs: tuple[str, ...]) -> list[str]:
    """Return links of an operation that answers with an organization, whose id is at `org`."""
    found = [verb for verb in verbs if verb in made.verbs]
    lines = (_link(made, verb, {"org_id": f"$response.body#/{org}"}) for verb in found)
    return [line for link in lines for line in link]


def links_from_parent(made: Resource, table: str) -> list[str]:
    """Return the link of an operation that makes rows of `table`, which columns refer to."""
    if "create" not in made.verbs:
        return []
    link = _link(made, "create", {"org_id": "$response.body#/org_id"})
    body = {c.name: "$response.body#/id" for c in made.fields.columns if c.table == table}
    return [*link, f"  requestBody: {flow(body)}"]


def conflict() -> list[str]:
    """Return the answer of an operation that would delete what a row refers to."""
    return [f"'409': {ref('responses', ANSWERS['409'])}"]


def _create(made: Resource) -> list[str]:
    keys = [" with ".join(f"`{name}`" for name in key) for key in made.fields.unique]
    once = "".join(f" Within it {key} is unique." for key in keys)
    headers = {"Location": "Location"}
    if made.keyed:
        headers["Idempotency-Replayed"] = "IdempotencyReplayed"
    if made.tagged:
        headers["ETag"] = "ETag"
    key = ["parameters:", f"  - $ref: {scalar('#/components/parameters/IdempotencyKey')}"]
    own = {"org_id": "$response.body#/org_id", f"{made.singular}_id": "$response.body#/id"}
    links = [line for verb in METHODS if verb in made.verbs for line in _link(made, verb, own)]
    in_use = {"409": "KeyInUse"} if made.keyed and not made.fields.unique else None
    if "list" in made.verbs:
        links += _link(made, "list", {"org_id": "$response.body#/org_id"})
    return [
        "post:",
        *_head(made, "create", f"Create {made.one}", f"In the organization of the token.{once}"),
        *indented(key if made.keyed else []),
        *indented(_body(f"{made.schema}Request", sent(made))),
        "  responses:",
        *_answer("201", made.the, headers, made.schema, answered(made), links),
        *_errors(ALWAYS | {"408", "415"} | _conflicts(made, keyed=made.keyed), in_use),
    ]


def _list(made: Resource) -> list[str]:
    page = {"items": [answered(made)]}
    org = {"org_id": "$request.path.org_id"}
    links = _link(made, "list", org | {"cursor": "$response.body#/next"}, "NextPage")
    if "get" in made.verbs:
        own = {f"{made.singular}_id": "$response.body#/items/0/id"}
        links += _link(made, "get", org | own)
    return [
        "get:",
        *_head(
            made,
            "list",
            f"List the {made.words}",
            "Of the organization of the token, in order of creation, a page at a time. What is\n"
            "there throughout a walk appears exactly once.",
        ),
        "  parameters:",
        f"    - $ref: {scalar('#/components/parameters/Limit')}",
        f"    - $ref: {scalar('#/components/parameters/Cursor')}",
        *indented([line for column in filters(made.fields) for line in _filter(made, column)], 2),
        "  responses:",
        *_answer("200", f"A page of {made.words}", {}, f"{made.schema}Page", page, links),
        *_errors(ALWAYS),
    ]


def _filter(made: Resource, column: Field) -> list[str]:
    return [
        f"- name: {column.name}",
        "  in: query",
        f"  description: Only those with this {column.name.replace('_', ' ')}",
        *entry("  schema", column.schema),
        f"  example: {scalar(example(column, made))}",
    ]


def _on_row(made: Resource, verb: str) -> list[str]:
    noun = made.singular.replace("_", " ")
    about = {
        "get": "Of the organization of the token.",
        "replace": f"What is not sent of the {noun} is as if it had never been sent.",
        "update": "Changes what is sent and keeps the rest (JSON merge patch, RFC 7396).",
        "delete": "Of the organization of the token.",
    }[verb]
    codes = set(ALWAYS)
    lines = [f"{METHODS[verb]}:", *_head(made, verb, f"{verb.capitalize()} {made.one}", about)]
    if made.tagged and verb != "get":
        codes.add("412")
        lines += ["  parameters:", f"    - $ref: {scalar('#/components/parameters/IfMatch')}"]
    if verb in ("replace", "update"):
        codes |= {"408", "415"} | _conflicts(made, keyed=False)
        kind = "Request" if verb == "replace" else "Patch"
        body = sent(made) if verb == "replace" else changed(made)
        lines += indented(_body(f"{made.schema}{kind}", body))
    lines.append("  responses:")
    if verb == "delete":
        own = [c for c in made.fields.columns if c.table == made.name]
        codes |= {"409"} if any(c.on_delete == "restrict" for c in own) else set()
        return [*lines, "    '204':", "      description: Deleted", *_errors(codes)]
    row = {"org_id": "$response.body#/org_id", f"{made.singular}_id": "$response.body#/id"}
    after = ("update", "delete") if verb == "get" else ("get",)
    links = [line for v in after if v in made.verbs for line in _link(made, v, row)]
    headers = {"ETag": "ETag"} if made.tagged else {}
    answer = _answer("200", made.the, headers, made.schema, answered(made), links)
    return [*lines, *answer, *_errors(codes)]


def _conflicts(made: Resource, *, keyed: bool) -> set[str]:
    return ({"409"} if made.fields.unique or keyed else set()) | ({"422"} if keyed else set())


def _head(made: Resource, verb: str, summary: str, about: str) -> list[str]:
    text = about.split("\n")
    told = ["  description: |", *indented(text, 2)] if text[1:] else [f"  description: {about}"]
    return [
        f"  operationId: {made.name}.{verb}",
        f"  tags: [{made.name}]",
        f"  summary: {summary}",
        *told,
    ]


def _body(schema: str, example: dict[str, Any]) -> list[str]:
    return [
        "requestBody:",
        "  required: true",
        "  content:",
        "    application/json:",
        f"      schema: {ref('schemas', schema)}",
        *entry("      example", example),
    ]


def _answer(
    code: str, about: str, headers: dict[str, str], schema: str, example: Any, links: list[str]
) -> list[str]:
    named = [f"  {name}: {ref('headers', component)}" for name, component in headers.items()]
    return indented(
        [
            f"'{code}':",
            f"  description: {about}",
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


def _errors(codes: set[str], instead: dict[str, str] | None = None) -> list[str]:
    names = {code: name for code, name in ANSWERS.items() if code in codes} | (instead or {})
    return [f"    '{code}': {ref('responses', name)}" for code, name in names.items()]


def _link(made: Resource, verb: str, parameters: dict[str, str], name: str = "") -> list[str]:
    many = "".join(word.capitalize() for word in made.name.split("_"))
    noun = many if verb == "list" else made.schema
    return [
        f"{name or verb.capitalize() + noun}:",
        f"  operationId: {made.name}.{verb}",
        f"  parameters: {flow(parameters)}",
    ]
