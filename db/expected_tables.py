"""The tables, columns and privileges that the contract expects of the database."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from psycopg import AsyncConnection

from openapi.contract import Contract

PRIVILEGES = ("select", "insert", "update", "delete")
MAX_LISTED = 5

# A response contains the row that was written, and returning it requires select.
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
    """A table with its columns, and the privileges that the operations need on it."""

    name: str
    columns: Sequence[str]
    privileges: Sequence[str]


def required_privileges(contract: Contract, table: str) -> list[str]:
    """Return the privileges that the operations of the table's tag need, and those in `grants`."""
    methods = [o.method for o in contract.operations.values() if o.tag == table]
    required = set(contract.tables[table].grants)
    required.update(*(_PRIVILEGES_BY_METHOD.get(method, set()) for method in methods))
    return [privilege for privilege in PRIVILEGES if privilege in required]


def from_contract(contract: Contract) -> list[ExpectedTable]:
    """Return the tables of the contract, in its order."""
    return [
        ExpectedTable(
            name, [column.name for column in table.columns], required_privileges(contract, name)
        )
        for name, table in contract.tables.items()
    ]


async def find_missing(
    connection: AsyncConnection[Any], expected: Sequence[ExpectedTable]
) -> str | None:
    """Return what is missing from the database as a reason not to be ready, or None.

    The privileges are those of the connected role. Raises `psycopg.Error`.
    """
    if not expected:
        return None
    document = json.dumps([asdict(table) for table in expected])
    rows = await (await connection.execute(_MISSING, (document,))).fetchall()
    missing = [description for row in rows for description in _descriptions(*row)]
    if not missing:
        return None
    omitted = len(missing) - MAX_LISTED
    listed = ", ".join(missing[:MAX_LISTED]) + (f" and {omitted} more" if omitted > 0 else "")
    verb = "is" if len(missing) == 1 else "are"
    return f"{listed} {verb} missing from the database: run make migration, then make migrate"


def _descriptions(
    table: str, is_absent: bool, columns: list[str], privileges: list[str]
) -> list[str]:
    if is_absent:
        return [f"table `{table}`"]
    missing_columns = [f"column `{table}.{column}`" for column in columns]
    return missing_columns + [f"{p} privilege on `{table}`" for p in privileges]
