"""What the contract's tables demand of a database, asked of one that is served from."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from psycopg import AsyncConnection

from openapi.contract import Contract

PRIVILEGES = ("select", "insert", "update", "delete")
MAX_NAMED = 5  # that are named

# An answer shows what was written, which needs select.
_PRIVILEGES_BY_METHOD = {
    "get": {"select"},
    "post": {"insert", "select"},
    "put": {"insert", "update", "select"},
    "patch": {"update", "select"},
    "delete": {"delete", "select"},
}

_MISSING = """
select d.name, c.oid is null,
    array(select wanted from unnest(d.columns) wanted where not exists (
        select from pg_attribute a
        where a.attrelid = c.oid and a.attname = wanted and not a.attisdropped)),
    array(select wanted from unnest(d.privileges) wanted
        where not has_table_privilege(c.oid, wanted))
from rows from (json_to_recordset(%s) as (name text, columns text[], privileges text[]))
    with ordinality d (name, columns, privileges, n)
left join pg_class c on c.oid = to_regclass(quote_ident(d.name))
order by d.n"""


@dataclass(frozen=True)
class ExpectedTable:
    """One table: its columns, and the privileges that the operations need."""

    name: str
    columns: Sequence[str]
    privileges: Sequence[str]


def required_privileges(contract: Contract, table: str) -> list[str]:
    """Return the privileges that the operations of a table's tag need, or its `grants` name."""
    methods = [o.method for o in contract.operations.values() if o.tag == table]
    named = contract.tables[table].grants
    every = set(named).union(*(_PRIVILEGES_BY_METHOD.get(method, set()) for method in methods))
    return [privilege for privilege in PRIVILEGES if privilege in every]


def from_contract(contract: Contract) -> list[ExpectedTable]:
    return [
        ExpectedTable(
            name, [column.name for column in table.columns], required_privileges(contract, name)
        )
        for name, table in contract.tables.items()
    ]


async def missing(connection: AsyncConnection[Any], demands: Sequence[ExpectedTable]) -> str | None:
    """Return what the contract has and the database has not, as a reason not to be ready."""
    if not demands:
        return None
    wanted = json.dumps([asdict(demand) for demand in demands])
    rows = await (await connection.execute(_MISSING, (wanted,))).fetchall()
    found = [text for row in rows for text in _descriptions(*row)]
    if not found:
        return None
    more = [f"and {len(found) - MAX_NAMED} more"] if len(found) > MAX_NAMED else []
    return f"the database lacks {', '.join(found[:MAX_NAMED] + more)}: see make migration"


def _descriptions(name: str, absent: bool, columns: list[str], privileges: list[str]) -> list[str]:
    if absent:
        return [f"the contract's table {name}"]
    return [f"the column {name}.{c}" for c in columns] + [f"{p} on {name}" for p in privileges]
