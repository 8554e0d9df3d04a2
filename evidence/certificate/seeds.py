"""Rows of the tables that no operation fills, such as those that only custom handlers write.

A superuser inserts them, so that each tenant has rows that another could see.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from db import ids
from db.errors import first_line
from evidence.certificate.creators import creators, reference_depth, referencing_columns
from evidence.certificate.operations import path_ids
from evidence.certificate.row_snapshots import INSERT_ROW
from evidence.certificate.values import Uncoverable, sample
from openapi.contract import Contract
from openapi.tables import Table


@dataclass(frozen=True)
class Seed:
    """A table to fill by SQL.

    `parameter` names its rows in paths, or is empty; `columns` of other tables reference them.
    """

    table: Table
    parameter: str
    columns: tuple[str, ...]


def seeds(contract: Contract) -> list[Seed]:
    """Return the tables of the contract without a creator, referenced tables first."""
    filled = {creator.operation.tag for creator in creators(contract).values()}
    unfilled = [table for name, table in contract.tables.items() if name not in filled]
    unfilled.sort(key=lambda table: reference_depth(contract, table.name))
    return [
        Seed(table, _parameter(contract, table), referencing_columns(contract, table.name))
        for table in unfilled
    ]


def insert_seed(
    superuser: psycopg.Connection[Any] | None, seed: Seed, tenant_ids: Mapping[str, str]
) -> str:
    """Insert a row for the tenant that owns `tenant_ids` and return its id.

    Raises `Uncoverable`: a table without rows cannot be certified.
    """
    table = seed.table
    if superuser is None:
        raise Uncoverable(f"{table.name}: no operation fills it, and --database-url is missing")
    unavailable = {r.column for r in table.references} - tenant_ids.keys()
    row = {
        column.name: None
        if column.nullable and column.name in unavailable
        else sample(column.schema, tenant_ids, "Seed", column.name)
        for column in table.columns
    }
    row |= {"id": ids.new(), "org_id": tenant_ids["org_id"]}
    try:
        superuser.execute(INSERT_ROW.format(sql.Identifier(table.name)), (json.dumps(row),))
    except psycopg.Error as error:
        reason = first_line(error)
        raise Uncoverable(f"{table.name}: cannot insert a row: {reason}") from None
    return str(row["id"])


def _parameter(contract: Contract, table: Table) -> str:
    """Return the path parameter that names a row of the table, or an empty string."""
    paths = (o.path for o in contract.operations.values() if o.tag == table.name)
    return next((path_ids(path)[-1] for path in paths if path.endswith("}")), "")
