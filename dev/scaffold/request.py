"""What was asked for, held against the contract that it goes into."""

import re
from dataclasses import dataclass
from typing import Any

from dev.scaffold import fields
from dev.scaffold.fields import SNAKE, Fields, ScaffoldError
from dev.scaffold.operations import ANSWERS
from dev.scaffold.resource import Resource, filters
from openapi.contract import Contract
from openapi.documents import mapping_at
from openapi.tables import METHOD_BY_VERB, PLATFORM_TABLES

DEFAULT_VERBS = "create list get update delete"
UNUSED_ID = "019ab2f6-0000-7000-8000-000000000000"
# What a plural may look like, and its singular then. Not here is what has two: caches and branches,
# cases and buses, moves and shelves.
PLURALS = (
    (r"(?!.*(mov|cook|calor|ser|spec)ies)(.{2,}[^aeiou])ies", r"\2y"),
    (r"()(.+([nrt]ch|sh|ss|x))es", r"\2"),
    (r"()(.+([^sxzhovi]e|[^siue]))s", r"\2"),
)
# What a resource refers to; the shipped contract has them.
REQUIRED_COMPONENTS = {
    "schemas": ("Id", "Time", "Cursor"),
    "parameters": ("OrgId", "Limit", "Cursor"),
    "headers": ("Location",),
}
KEYED = (
    ("parameters", "IdempotencyKey"),
    ("headers", "IdempotencyReplayed"),
    ("responses", "KeyInUse"),
    ("responses", "KeyReused"),
)
TAGGED = (("parameters", "IfMatch"), ("headers", "ETag"), ("responses", "PreconditionFailed"))


@dataclass(frozen=True)
class ResourceRequest:
    """What was asked for, as it was typed."""

    name: str
    fields: str
    verbs: str = ""
    singular: str = ""


def resource(declared: Contract, modules: frozenset[str], asked: ResourceRequest) -> Resource:
    """Return what is asked for, as it fits into the contract.

    `modules` are the names below handlers/. Raises `ScaffoldError`.
    """
    components = mapping_at(declared.document, "components")
    _demand_parts(components)
    name = _name(declared, modules, asked.name)
    parsed = fields.parse(asked.fields)
    made = Resource(
        name=name,
        singular=_singular(name, asked.singular),
        verbs=_verbs(asked.verbs or DEFAULT_VERBS),
        fields=parsed,
        ids=_ids(declared, parsed, name),
        keyed=all(part in mapping_at(components, kind) for kind, part in KEYED),
        tagged=all(part in mapping_at(components, kind) for kind, part in TAGGED),
    )
    for column in filters(parsed):
        if column.name in ("limit", "cursor", "sort"):
            raise ScaffoldError(f"{parsed.words[column.name]}: no filter can have that name")
    own = [("schemas", f"{made.schema}{end}") for end in ("", "Request", "Patch", "Page")]
    for kind, part in (*own, ("parameters", f"{made.schema}Id")):
        if part in mapping_at(components, kind):
            line = declared.line_of("components", kind, part)
            raise ScaffoldError(f"NAME: `{name}` would write {part}, which line {line} has")
    return made


def _demand_parts(components: dict[str, Any]) -> None:
    answers = [name for code, name in ANSWERS.items() if code not in ("412", "422")]
    for kind, names in {**REQUIRED_COMPONENTS, "responses": tuple(answers)}.items():
        for name in names:
            if name not in mapping_at(components, kind):
                raise ScaffoldError(f"the contract has no components/{kind}/{name} to refer to")


def _name(declared: Contract, modules: frozenset[str], name: str) -> str:
    if not name:
        raise ScaffoldError("NAME: missing, the plural of what the resource is: NAME=tasks")
    if not SNAKE.fullmatch(name) or len(name) > 40:
        raise ScaffoldError(f"NAME: `{name}` is no plural in snake_case of at most 40 characters")
    tags = [entry["name"] for entry in declared.document.get("tags", [])]
    if name in tags or name in declared.tables:
        raise ScaffoldError(f"NAME: `{name}` is in the contract already")
    if name in modules:
        raise ScaffoldError(f"NAME: `{name}` is taken: handlers/{name}.py would serve it")
    if name in PLATFORM_TABLES:
        raise ScaffoldError(f"NAME: `{name}` is taken: a table of the service has that name")
    return name


def _singular(name: str, given: str) -> str:
    if given:
        if not SNAKE.fullmatch(given) or given == name:
            raise ScaffoldError(f"SINGULAR: `{given}` is no singular of `{name}` in snake_case")
        return given
    for plural, singular in PLURALS:
        if match := re.fullmatch(plural, name):
            return match.expand(singular)
    raise ScaffoldError(f"NAME: the singular of `{name}` is not plain: say it, SINGULAR=…")


def _verbs(text: str) -> tuple[str, ...]:
    words = text.replace(",", " ").split()
    for n, word in enumerate(words, 1):
        if word not in METHOD_BY_VERB:
            known = ", ".join(METHOD_BY_VERB)
            raise ScaffoldError(f"VERBS: word {n}, `{word}`: unknown verb: there are {known}")
    return tuple(verb for verb in METHOD_BY_VERB if verb in words)


def _ids(declared: Contract, parsed: Fields, name: str) -> dict[str, str]:
    """Return an example id for each reference, that of the parameter which names such a row."""
    found = {}
    for column in (column for column in parsed.columns if column.table):
        where = parsed.words[column.name]
        if column.table == name:
            if not column.optional:
                raise ScaffoldError(f"{where}: no first row could be: write ref({name})?")
        elif column.table not in declared.tables:
            tables = ", ".join(declared.tables) or "none"
            raise ScaffoldError(
                f"{where}: no table `{column.table}` in the contract; there are: {tables}"
            )
        row = [o for o in declared.operations.values() if o.tag == column.table and "}" in o.path]
        ids = (p for o in row for p in o.parameters if o.path.endswith(f"/{{{p['name']}}}"))
        found[column.name] = str(next((p["example"] for p in ids if "example" in p), UNUSED_ID))
    return found
