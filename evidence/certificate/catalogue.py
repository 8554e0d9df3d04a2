"""What PostgreSQL's catalogue must contain for every table, including future ones."""

from collections.abc import Iterator, Mapping, Set
from typing import Any

import psycopg

from db import security_audit
from evidence.certificate import catalogue_queries as queries
from openapi.contract import Contract

TENANT = "( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid)"
SUBJECT = "( SELECT NULLIF(current_setting('app.subject'::text, true), ''::text))"
MEMBER = f"(memberships.subject = {SUBJECT})"
ORGS_OF = "(id IN ( SELECT memberships.org_id FROM memberships WHERE {}))"

MEMBER_POLICIES = {
    ("memberships", "member_read", "SELECT", f"(subject = {SUBJECT})"),
    ("idempotency_keys", "member_read", "SELECT", f"(subject = {SUBJECT})"),
    ("organizations", "member_read", "SELECT", ORGS_OF.format(MEMBER)),
    (
        "organizations",
        "owner_delete",
        "DELETE",
        ORGS_OF.format(f"((memberships.role = 'owner'::text) AND {MEMBER})"),
    ),
}
# What sign-in, organizations and memberships need. All other tables belong to operations.
PLATFORM_PRIVILEGES = {
    "table alembic_version": {"SELECT"},
    "table organizations": {"SELECT", "INSERT", "DELETE"},
    "table memberships": {"SELECT", "INSERT"},
    "table idempotency_keys": {"SELECT", "INSERT", "DELETE"},
    "table used_org_ids": {"INSERT"},
    "sequence guest_number": {"USAGE"},
    "schema public": {"USAGE"},
    "database to PUBLIC": {"CONNECT"},
}
PLATFORM_TAGS = ("system", "auth", "orgs")
# A response returns what was written, which needs SELECT.
PRIVILEGES_BY_METHOD = {
    "get": {"SELECT"},
    "post": {"INSERT", "SELECT"},
    "put": {"INSERT", "UPDATE", "SELECT"},
    "patch": {"UPDATE", "SELECT"},
    "delete": {"DELETE", "SELECT"},
}


def required_privileges(contract: Contract) -> dict[str, set[str]]:
    """Return {object: privileges} that the operations need.

    The operations of a tag use the table of the same name. `x-table.grants` adds what custom
    handlers of other tags need.
    """
    privileges = {name: set(granted) for name, granted in PLATFORM_PRIVILEGES.items()}
    for operation in contract.operations.values():
        if operation.tag not in PLATFORM_TAGS:
            privileges.setdefault(f"table {operation.tag}", set()).update(
                PRIVILEGES_BY_METHOD.get(operation.method, set())
            )
    for name, table in contract.tables.items():
        if table.grants:
            privileges.setdefault(f"table {name}", set()).update(map(str.upper, table.grants))
    return privileges


def issues(connection: psycopg.Connection[Any], privileges: Mapping[str, Set[str]]) -> set[str]:
    """Return every way in which the schema could expose a tenant's rows to another tenant.

    `privileges` are those that the service's role and PUBLIC must have: no fewer and no more.
    """

    def rows(query: str) -> list[Any]:
        return connection.execute(query).fetchall()

    tables = rows(queries.SECURITY)
    tenant_tables = {table for table, *_ in tables} - set(security_audit.NON_TENANT_TABLES)
    required = _without_absent_tables(privileges, {table for table, *_ in tables})
    return {
        *_security_issues(tenant_tables, tables, rows(queries.COLUMNS)),
        *_policy_issues(tenant_tables, rows(queries.POLICIES)),
        *_privilege_issues(rows(queries.PRIVILEGES), required),
        *_key_issues(tenant_tables, rows(queries.UNIQUE_KEYS), rows(queries.FOREIGN_KEYS)),
        *(f"{name} bypasses the policies" for (name,) in rows(queries.BYPASSES)),
        *(f"{queries.APP}: {attribute}" for (attribute,) in rows(queries.ROLE_ATTRIBUTES)),
    }


def _without_absent_tables(
    privileges: Mapping[str, Set[str]], tables: Set[str]
) -> Mapping[str, Set[str]]:
    """Return the privileges without the tables of tags that have no table.

    The operations of such a tag (`members.add`) use other tables. A table that the contract
    declares is not missed here: without it the service is not ready.
    """
    existing = {f"table {table}" for table in tables}
    return {
        name: granted
        for name, granted in privileges.items()
        if name in existing or name in PLATFORM_PRIVILEGES or not name.startswith("table ")
    }


def _security_issues(
    tenant_tables: set[str], tables: list[Any], columns: list[Any]
) -> Iterator[str]:
    types = {(table, column): (type, not_null) for table, column, type, not_null in columns}
    for table, is_enabled, is_forced in tables:
        if table in tenant_tables:
            if not is_enabled:
                yield f"{table}: row-level security is not enabled"
            if not is_forced:
                yield f"{table}: row-level security is not forced"
            if types.get((table, _tenant_column(table))) != ("uuid", True):
                yield f"{table}: column {_tenant_column(table)} uuid not null is missing"


def _policy_issues(tenant_tables: set[str], policies: list[Any]) -> Iterator[str]:
    isolated = set()
    for table, name, permissive, roles, command, using, check in policies:
        using, check = _normalized(using), _normalized(check)
        if roles != ["public"] or permissive != "PERMISSIVE":
            yield f"{table}: policy {name} is not permissive for every role"
        elif (name, command) == ("tenant_isolation", "ALL"):
            if using == check == f"({_tenant_column(table)} = {TENANT})":
                isolated.add(table)
            else:
                yield f"{table}: policy tenant_isolation has an unexpected expression"
        elif check or (table, name, command, using) not in MEMBER_POLICIES:
            yield f"{table}: unknown policy {name}"
    for table in tenant_tables - isolated:
        yield f"{table}: policy tenant_isolation is missing"
    present = {(p[0], p[1], p[4], _normalized(p[5])) for p in policies}
    for table, name, *_ in MEMBER_POLICIES - present:
        yield f"{table}: policy {name} is missing"


def _privilege_issues(privileges: list[Any], required: Mapping[str, Set[str]]) -> Iterator[str]:
    granted = {(name, privilege) for name, privilege, _ in privileges}
    needed = {(name, privilege) for name, some in required.items() for privilege in some}
    yield from (f"{name}: {p} is granted but not needed" for name, p in granted - needed)
    yield from (f"{name}: {p} is needed but not granted" for name, p in needed - granted)
    for name, privilege, is_grantable in privileges:
        if is_grantable:
            yield f"{name}: {privilege} is granted with grant option"


def _key_issues(
    tenant_tables: set[str], unique_keys: list[Any], foreign_keys: list[Any]
) -> Iterator[str]:
    for table, index, first_column in unique_keys:
        if table in tenant_tables and first_column != _tenant_column(table):
            yield f"{table}: unique index {index} does not start with the tenant"
    for table, name, target, columns, target_columns in foreign_keys:
        if table in tenant_tables or target in tenant_tables:
            starts_with_tenant = columns[0] == _tenant_column(table) and target_columns[
                0
            ] == _tenant_column(target)
            if not starts_with_tenant or (target != "organizations" and len(columns) < 2):
                yield f"{table}: foreign key {name} crosses tenants"


def _tenant_column(table: str) -> str:
    return "id" if table == "organizations" else "org_id"


def _normalized(expression: str | None) -> str:
    """Return an expression on one line, without the alias that some versions print."""
    return " ".join((expression or "").replace(' AS "nullif"', "").split())
