"""A request for a resource, checked against the contract that it is added to."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dev.scaffold import fields
from dev.scaffold.field_types import ScaffoldError
from dev.scaffold.fields import MAX_NAME_CHARACTERS, SNAKE_CASE, Fields
from dev.scaffold.resource import Resource, filter_columns
from dev.scaffold.responses import ERROR_RESPONSES
from openapi.contract import Contract
from openapi.documents import mapping_at
from openapi.tables import METHOD_BY_VERB, PLATFORM_TABLES

DEFAULT_VERBS = "create list get update delete"
# The example of a reference if the contract has none for rows of that table.
UNUSED_ID = "019ab2f6-0000-7000-8000-000000000000"
# Regular plurals: the first ending that matches is replaced. Any other noun needs SINGULAR.
SINGULAR_ENDINGS = {"ies": "y", "sses": "ss", "shes": "sh", "ches": "ch", "xes": "x", "s": ""}
# Words that end in `s` but are singular, or whose singular may end in `e`: status, cases, buses.
AMBIGUOUS_ENDINGS = ("ss", "us", "is", "ses", "zes", "oes", "ves", "hes")
IRREGULAR_NOUNS = (
    *("axes", "caches", "calories", "canvas", "cookies", "headaches", "lens", "movies", "news"),
    *("selfies", "series", "species"),
)
# What the operations of a resource refer to; the shipped contract has all of it.
REQUIRED_COMPONENTS = {
    "schemas": ("Id", "Time", "Cursor"),
    "parameters": ("OrgId", "Limit", "Cursor"),
    "headers": ("Location",),
    "responses": tuple(
        name for code, name in ERROR_RESPONSES.items() if code not in ("412", "422")
    ),
}
IDEMPOTENCY_COMPONENTS = (
    ("parameters", "IdempotencyKey"),
    ("headers", "IdempotencyReplayed"),
    ("responses", "KeyInUse"),
    ("responses", "KeyReused"),
)
ETAG_COMPONENTS = (
    ("parameters", "IfMatch"),
    ("headers", "ETag"),
    ("responses", "PreconditionFailed"),
)
LIST_PARAMETERS = ("limit", "cursor", "sort")


@dataclass(frozen=True)
class ResourceRequest:
    """The arguments of `make resource`, as typed."""

    name: str
    fields: str
    verbs: str = ""
    singular: str = ""


def build_resource(
    loaded: Contract, handler_modules: frozenset[str], request: ResourceRequest
) -> Resource:
    """Return the requested resource, named so that it fits into the contract.

    `handler_modules` are the names of the modules in handlers/. Raises `ScaffoldError` with every
    issue.
    """
    components = mapping_at(loaded.document, "components")
    verbs = (request.verbs or DEFAULT_VERBS).replace(",", " ").split()
    singular = request.singular or singular_of(request.name) or ""
    issues = [*_component_issues(components), *_name_issues(loaded, handler_modules, request.name)]
    if request.singular:
        issues += _singular_issues(request)
    elif not issues and not singular:
        issues.append(
            f"SINGULAR is missing: `{request.name}` is not a regular plural. Add SINGULAR=…"
        )
    issues += _verb_issues(verbs)
    parsed = Fields()
    try:
        parsed = fields.parse(request.fields)
    except ScaffoldError as error:
        issues += error.issues
    issues += _reference_issues(loaded, parsed, request.name)
    issues += _filter_issues(parsed)
    if issues:
        raise ScaffoldError(*issues)
    return Resource(
        name=request.name,
        singular=singular,
        schema=_schema_name(loaded, singular),
        verbs=tuple(verb for verb in METHOD_BY_VERB if verb in verbs),
        fields=parsed,
        reference_examples=_reference_examples(loaded, parsed),
        has_idempotency=_contains_all(components, IDEMPOTENCY_COMPONENTS),
        has_etag=_contains_all(components, ETAG_COMPONENTS),
    )


def singular_of(plural: str) -> str | None:
    """Return the singular of a regular plural in snake_case, or None if it is ambiguous."""
    noun = plural.rpartition("_")[2]
    if noun in IRREGULAR_NOUNS:
        return None
    for ending, replacement in SINGULAR_ENDINGS.items():
        is_long_enough = len(noun) >= len(ending) + 2
        is_ambiguous = ending == "s" and noun.endswith(AMBIGUOUS_ENDINGS)
        if noun.endswith(ending) and is_long_enough and not is_ambiguous:
            return plural.removesuffix(ending) + replacement
    return None


def _contains_all(components: dict[str, Any], required: tuple[tuple[str, str], ...]) -> bool:
    return all(name in mapping_at(components, kind) for kind, name in required)


def _component_issues(components: dict[str, Any]) -> Iterator[str]:
    for kind, names in REQUIRED_COMPONENTS.items():
        for name in names:
            if name not in mapping_at(components, kind):
                yield f"the contract must define components/{kind}/{name}, which resources use"


def _name_issues(loaded: Contract, handler_modules: frozenset[str], name: str) -> Iterator[str]:
    if not name:
        yield "NAME is missing: the plural of the resource, such as NAME=tasks"
    elif not SNAKE_CASE.fullmatch(name) or len(name) > MAX_NAME_CHARACTERS:
        yield f"NAME: `{name}` must be snake_case and at most {MAX_NAME_CHARACTERS} characters long"
    elif name in loaded.tables or name in [tag["name"] for tag in loaded.document.get("tags", [])]:
        yield f"NAME: `{name}` already exists in the contract"
    elif name in handler_modules:
        yield f"NAME: `{name}` is taken: handlers/{name}.py would serve its operations"
    elif name in PLATFORM_TABLES:
        yield f"NAME: `{name}` is taken: it is a table of the service itself"


def _singular_issues(request: ResourceRequest) -> Iterator[str]:
    singular = request.singular
    if not SNAKE_CASE.fullmatch(singular) or len(singular) > MAX_NAME_CHARACTERS:
        reason = f"must be snake_case and at most {MAX_NAME_CHARACTERS} characters long"
        yield f"SINGULAR: `{singular}` {reason}"
    elif singular == request.name and singular_of(singular):
        yield f"SINGULAR: `{singular}` is the plural; the singular is `{singular_of(singular)}`"
    elif singular == "org":
        yield "SINGULAR: `org` is taken: `{org_id}` already names the organization in paths"


def _verb_issues(verbs: list[str]) -> Iterator[str]:
    for verb in verbs:
        if verb not in METHOD_BY_VERB:
            yield f"VERBS: unknown verb `{verb}`; the verbs are {', '.join(METHOD_BY_VERB)}"


def _reference_issues(loaded: Contract, parsed: Fields, name: str) -> Iterator[str]:
    for column in parsed.columns:
        location = parsed.locations[column.name]
        if column.table is None or column.table in loaded.tables:
            continue
        if column.table != name:
            tables = ", ".join(loaded.tables) or "none"
            yield f"{location}: unknown table `{column.table}`; the tables are: {tables}"
        elif not column.optional:
            yield f"{location}: the first row has nothing to reference: write ref({name})?"


def _filter_issues(parsed: Fields) -> Iterator[str]:
    for column in filter_columns(parsed):
        if column.name in LIST_PARAMETERS:
            reason = "is a parameter of every list, so it cannot be indexed and filtered by"
            yield f"{parsed.locations[column.name]}: `{column.name}` {reason}"


def _schema_name(loaded: Contract, singular: str) -> str:
    """Return a name for the schema such that no component of the resource exists yet.

    Raises `ScaffoldError` if there is none.
    """
    name = "".join(word.capitalize() for word in singular.split("_"))
    taken = _taken_component(loaded, name)
    if taken and _taken_component(loaded, f"{name}Record"):
        line = loaded.line_of("components", *taken)
        raise ScaffoldError(
            f"SINGULAR: `{singular}` would redefine the component {taken[1]} of line {line}:"
            " choose another SINGULAR=…"
        )
    return f"{name}Record" if taken else name


def _taken_component(loaded: Contract, schema: str) -> tuple[str, str] | None:
    """Return kind and name of the first component that the resource would redefine, if any."""
    components = mapping_at(loaded.document, "components")
    names = [("schemas", f"{schema}{suffix}") for suffix in ("", "Request", "Patch", "Page")]
    names.append(("parameters", f"{schema}Id"))
    return next((n for n in names if n[1] in mapping_at(components, n[0])), None)


def _reference_examples(loaded: Contract, parsed: Fields) -> dict[str, str]:
    """Return an example id for each reference: that of the referenced rows' path parameter."""
    examples = {}
    for column in parsed.columns:
        if column.table is None:
            continue
        ids = (
            parameter["example"]
            for operation in loaded.operations.values()
            for parameter in operation.parameters
            if operation.tag == column.table
            and operation.path.endswith(f"/{{{parameter['name']}}}")
            and "example" in parameter
        )
        examples[column.name] = str(next(ids, UNUSED_ID))
    return examples
