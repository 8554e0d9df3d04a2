"""Which operation creates the resource that a path parameter names (pure functions)."""

from collections.abc import Set
from dataclasses import dataclass

from evidence.certificate.operations import id_pointer, path_ids
from openapi.contract import Contract, Operation


@dataclass(frozen=True)
class Creator:
    """The operation that creates the resource of a path parameter.

    `pointer` leads to the id in its response; `columns` are the columns of other tables that
    reference the resource.
    """

    parameter: str
    operation: Operation
    pointer: str
    columns: tuple[str, ...] = ()


def creators(contract: Contract) -> dict[str, Creator]:
    """Return {path parameter: creator}, parents and referenced tables first.

    `POST /things` creates what `/things/{thing_id}` names. Parameters without a creator are
    left out.
    """
    by_path = {o.path: o for o in contract.operations.values() if o.method == "post"}
    collections = {
        (operation.path[: operation.path.index(f"/{{{name}}}")], name)
        for operation in contract.operations.values()
        for name in path_ids(operation.path)
    }

    def order(collection: tuple[str, str]) -> tuple[int, int, tuple[str, str]]:
        path = collection[0]
        return path.count("/"), reference_depth(contract, by_path[path].tag), collection

    result: dict[str, Creator] = {}
    for path, name in sorted((c for c in collections if c[0] in by_path), key=order):
        operation = by_path[path]
        columns = referencing_columns(contract, operation.tag)
        creator = Creator(name, operation, id_pointer(operation, name), columns)
        result.setdefault(name, creator)
    return result


def referencing_columns(contract: Contract, name: str) -> tuple[str, ...]:
    """Return the columns of all tables that reference rows of the table `name`."""
    references = (r for table in contract.tables.values() for r in table.references)
    return tuple(sorted({r.column for r in references if r.table == name}))


def reference_depth(contract: Contract, tag: str, ancestors: frozenset[str] = frozenset()) -> int:
    """Return the length of the longest chain of references from a tag's table."""
    table = contract.tables.get(tag)
    targets = {r.table for r in table.references} - ancestors - {tag} if table else set()
    depths = (1 + reference_depth(contract, target, ancestors | {tag}) for target in targets)
    return max(depths, default=0)


def coverage_issues(contract: Contract, seeded: Set[str]) -> list[str]:
    """Return why operations cannot be covered; each fails the certificate.

    `seeded` are the path parameters whose rows are inserted by SQL, since no operation creates
    them.
    """
    covered, issues = creators(contract).keys() | seeded, []
    claim = contract.tenant.get("claim")
    for operation in contract.operations.values():
        for name in path_ids(operation.path):
            if name not in covered:
                issues.append(
                    f"{operation.id}: cannot be covered: no operation creates a `{name}`"
                    f" (POST on the path before it)"
                )
        if claim in path_ids(operation.path) and not operation.security:
            issues.append(f"{operation.id}: is public, but its path names a tenant")
    return issues
