"""Rows of the tables that no operation fills: handlers of the user's own write them.

They are inserted as superuser, so that there is something of each tenant's that another could see.
"""

import json
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from db import ids
from db.errors import first_line
from evidence.certificate.matrix import columns_to, depth, makers, path_ids
from evidence.certificate.row_snapshots import INSERT
from evidence.certificate.values import Uncoverable, sample
from openapi.contract import Contract
from openapi.tables import Table


@dataclass(frozen=True)
class Seed:
    """A table that is filled here; `parameter` names its rows in paths, `columns` refer to them."""

    table: Table
    parameter: str
    columns: tuple[str, ...]


def seeds(contract: Contract) -> list[Seed]:
    """Return the tables of the contract that no maker fills, those referred to first."""
    filled = {maker.operation.tag for maker in makers(contract).values()}
    left = [table for name, table in contract.tables.items() if name not in filled]
    left.sort(key=lambda table: depth(contract, table.name))
    return [
        Seed(table, _parameter(contract, table), columns_to(contract, table.name)) for table in left
    ]


def insert_seeds(
    superuser: psycopg.Connection[Any] | None, seed: Seed, known: dict[str, str]
) -> str:
    """Insert a row of the tenant whose ids are `known`; return its id.

    Raises `Uncoverable`, as what cannot be filled cannot be certified.
    """
    table = seed.table
    if superuser is None:
        raise Uncoverable(f"{table.name}: no operation fills it, and no --database-url is given")
    optional = {r.column for r in table.references} - known.keys()
    row = {
        column.name: None
        if column.nullable and column.name in optional
        else sample(column.schema, known, "Seed", column.name)
        for column in table.columns
    }
    row |= {"id": ids.new(), "org_id": known["org_id"]}
    try:
        superuser.execute(INSERT.format(sql.Identifier(table.name)), (json.dumps(row),))
    except psycopg.Error as error:
        reason = first_line(error)
        raise Uncoverable(f"{table.name}: no row could be inserted: {reason}") from None
    return str(row["id"])


def _parameter(contract: Contract, table: Table) -> str:
    """Return what the paths of its own operations call a row; nothing where none does."""
    own = (o.path for o in contract.operations.values() if o.tag == table.name)
    return next((path_ids(path)[-1] for path in own if path.endswith("}")), "")
