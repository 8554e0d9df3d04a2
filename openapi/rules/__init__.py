"""The rules that a contract keeps to be served: each yields the places that break it, and why.

Nothing here knows of files or lines, and nothing raises for a malformed document: a rule passes
over what has not the shape it looks for, since `structure` reports that.
`check` holds every contract to its rules; those of `x-table` are apart: `tables`,
`table_operations` and `table_lists`, which `openapi.contract` asks itself.
"""

from collections.abc import Callable
from typing import Any

from openapi.documents import walk
from openapi.rules.examples import examples
from openapi.rules.messages import Violation
from openapi.rules.operations import operations, parameters, paths
from openapi.rules.references import references
from openapi.rules.schemas import schemas
from openapi.rules.security import security
from openapi.rules.structure import structure

__all__ = ["Finding", "check"]


def check(
    document: dict[str, Any],
    openapi: dict[str, Any],
    extensions: dict[str, Any],
    handler_fault: Callable[[str, str], str | None],
) -> list[Violation]:
    """Return all that is wrong with a contract.

    `openapi` and `extensions` are JSON Schemas; `handler_fault(tag, function)` says what keeps
    that function from handling an operation.
    """
    objects = list(walk(document))
    broken = list(references(document, objects))
    found = [
        *broken,
        *paths(document),
        *schemas(objects),
        *parameters(document, objects),
        *security(document, objects),
        *operations(document, objects, handler_fault),
    ]
    known = {place for place, _ in found}
    found += [f for f in structure(document, objects, openapi, extensions) if f[0] not in known]
    if broken:  # no validator can be built on them
        return found
    unbuilt: list[Violation] = []
    found += examples(document, objects, unbuilt)
    return found or unbuilt
