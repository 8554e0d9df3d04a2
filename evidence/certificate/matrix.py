"""The matrix: every operation, every identity, every attack vector, derived from the contract."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from evidence.certificate.attack_vectors import AttackVector, Probe, probes
from evidence.certificate.operations import path_ids
from openapi.contract import Contract, Operation


class Identity(StrEnum):
    """Who sends a request; `IDENTITIES` describes each."""

    OWN = "own"
    OTHER = "other"
    UNBOUND = "unbound"
    NONE = "none"
    EXPIRED = "expired"
    FORGED = "forged"


IDENTITIES = {
    Identity.OWN: "the tenant's own token: its requests succeed, which shows that the rejections"
    " are meaningful",
    Identity.OTHER: "the token of another tenant, the rival",
    Identity.UNBOUND: "the token of a guest whose organization was never created",
    Identity.NONE: "no token",
    Identity.EXPIRED: "the tenant's own token, one hour after it expired",
    Identity.FORGED: "the tenant's own claims: unsigned, signed with another key, or with the"
    " signature of another token",
}
UNAUTHENTICATED = frozenset({Identity.NONE, Identity.EXPIRED, Identity.FORGED})


@dataclass(frozen=True)
class Plan:
    """The probes of one operation by attack vector; a vector without probes does not apply.

    `has_scarce_key`: a unique key has so few values that the tenant itself may get a 409.
    """

    operation: Operation
    probes: Mapping[AttackVector, tuple[Probe, ...]]
    has_scarce_key: bool

    @property
    def is_public(self) -> bool:
        return not self.operation.security

    @property
    def path_ids(self) -> tuple[str, ...]:
        return path_ids(self.operation.path)


def plans(contract: Contract) -> list[Plan]:
    """Return the plan of every operation of the contract."""
    claim = str(contract.tenant.get("claim", ""))
    names = {name for o in contract.operations.values() for name in path_ids(o.path)} - {claim}
    ids = [*([claim] if claim else []), *sorted(names)]
    return [
        Plan(
            operation,
            probes(operation, ids, _plain_columns(contract, operation.tag) - {claim}),
            _has_scarce_key(contract, operation),
        )
        for operation in contract.operations.values()
    ]


def _plain_columns(contract: Contract, tag: str) -> set[str]:
    """Return the columns of a table that reference no row, including those that are UUIDs."""
    table = contract.tables.get(tag)
    if table is None:
        return set()
    return {c.name for c in table.columns} - {r.column for r in table.references}


def _has_scarce_key(contract: Contract, operation: Operation) -> bool:
    table = contract.tables.get(operation.tag)
    if table is None or "409" not in operation.responses:
        return False
    scarce = {c.name for c in table.columns if "enum" in c.schema or c.schema["type"] == "boolean"}
    scarce |= {r.column for r in table.references}
    return any(scarce.issuperset(key) for key in table.unique)
