"""The migrations: their result, upgrades, downgrades, concurrent runs and locks."""

import asyncio
import os
import re
import subprocess
import sys
import time
from typing import Any

import psycopg
import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from db import ids, migrate, revisions, roles, security_audit, server_versions
from db.migrate import MigrationError
from db.revisions import PLATFORM_LINE, SERVICE_LINE
from dev.planner import platform_tables
from evidence.harness.processes import ROOT
from openapi import contract
from tests.platform.fix_postgres import Database, Postgres
from tests.platform.fix_service import until

# The parts of a table other than policies and grants, as the server prints them.
COLUMNS = """
select c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
    pg_get_expr(d.adbin, d.adrelid)
from pg_attribute a join pg_class c on c.oid = a.attrelid
left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v', 'm')
    and a.attnum > 0 and not a.attisdropped and c.relname <> 'alembic_version'"""
CONSTRAINTS = """
select k.conrelid::regclass::text, k.conname, pg_get_constraintdef(k.oid)
from pg_constraint k where k.connamespace = 'public'::regnamespace and k.contype <> 'n'
    and k.conrelid <> coalesce(to_regclass('public.alembic_version'), 0)"""
INDEXES = """
select tablename, indexname, indexdef from pg_indexes
where schemaname = 'public' and tablename <> 'alembic_version'"""
SEQUENCES = """
select sequencename, data_type::text, start_value, min_value, max_value, increment_by, cycle
from pg_sequences where schemaname = 'public'"""
# Without autovacuum workers, which may look at the database at any time.
OTHER_SESSIONS = """
select from pg_stat_activity
where datname = current_database() and backend_type = 'client backend' and pid <> %s"""

HEAD = revisions.label(revisions.history().heads)


def engine(url: str) -> sqlalchemy.Engine:
    return sqlalchemy.create_engine(
        "postgresql+psycopg://",
        connect_args=psycopg.conninfo.conninfo_to_dict(url),
        poolclass=sqlalchemy.NullPool,
    )


def snapshot(url: str) -> dict[str, set[Any]]:
    """Return the columns, constraints, indexes and sequences."""
    with psycopg.connect(url) as connection:
        queries = {"columns": COLUMNS, "constraints": CONSTRAINTS, "indexes": INDEXES}
        queries["sequences"] = SEQUENCES
        return {name: set(connection.execute(q).fetchall()) for name, q in queries.items()}


def full_snapshot(url: str) -> tuple[dict[str, set[Any]], set[Any]]:
    """Return the snapshot with the policies and grants."""
    with psycopg.connect(url) as connection:
        policies = connection.execute("select * from pg_policies").fetchall()
        grants = connection.execute(
            "select relname, relacl::text, relrowsecurity, relforcerowsecurity from pg_class"
            " where relnamespace = 'public'::regnamespace and relkind in ('r', 'S')"
        ).fetchall()
    return snapshot(url), {str(row) for row in [*policies, *grants]}


def start_migration(url: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "service", "migrate"],
        cwd=ROOT,
        env={**os.environ, "MIGRATION_DATABASE_URL": url},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_the_migrations_produce_the_platform_tables(postgres: Postgres, database: Database) -> None:
    """Without the contract's tables, which the planner compares."""
    expected = postgres.database(migrated=False)
    with engine(expected.owner_url).begin() as connection:
        platform_tables.metadata().create_all(connection)
    migrated = {
        name: {row for row in rows if row[0] not in contract.load().tables}
        for name, rows in snapshot(database.superuser_url).items()
    }
    assert migrated == snapshot(expected.superuser_url)


def test_alembic_finds_no_difference(database: Database) -> None:
    ignored = {"alembic_version", *contract.load().tables}
    with engine(database.superuser_url).connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "compare_type": True,
                "compare_server_default": True,
                "include_name": lambda name, kind, _: kind != "table" or name not in ignored,
            },
        )
        assert compare_metadata(context, platform_tables.metadata()) == []


def test_each_line_of_revisions_is_numbered_without_gaps() -> None:
    scripts = ScriptDirectory(
        str(revisions.MIGRATIONS),
        version_locations=[str(folder) for folder in revisions.locations(revisions.MIGRATIONS)],
    )
    history = revisions.history()
    assert sorted(scripts.get_heads()) == [*history.heads]
    for script in scripts.walk_revisions():
        assert history.by_id[script.revision].parent == script.down_revision
    for line in (SERVICE_LINE, PLATFORM_LINE):
        numbers = [r.number for r in history.by_id.values() if r.line == line]
        assert sorted(numbers) == [*range(1, len(numbers) + 1)]


def test_every_revision_upgrades_and_downgrades_with_rows(postgres: Postgres) -> None:
    database = postgres.database(migrated=False)
    assert not revisions.is_up_to_date(database.owner_url)
    assert migrate.upgrade(database.owner_url) == ("none", HEAD)
    assert revisions.is_up_to_date(database.owner_url)
    newest = full_snapshot(database.superuser_url)
    with psycopg.connect(database.superuser_url) as superuser:
        org = ids.new()
        superuser.execute("insert into organizations (id, name) values (%s, 'Acme')", (org,))
        superuser.execute("insert into memberships values (%s, 'guest-0001', 'owner')", (org,))
        superuser.execute("insert into projects values (%s, gen_random_uuid(), 'Apollo')", (org,))
        superuser.execute("insert into used_org_ids values (%s)", (org,))
    order = sorted(revisions.history().by_id)
    for id in order[-2::-1]:
        migrate.downgrade(database.owner_url, id)
        with psycopg.connect(database.superuser_url) as superuser:
            assert superuser.execute("select from organizations").rowcount == 1
    migrate.downgrade(database.owner_url, "base")
    assert not any(snapshot(database.superuser_url).values())
    for id in order:
        migrate.upgrade(database.owner_url, id)
    assert full_snapshot(database.superuser_url) == newest


def test_a_second_upgrade_changes_nothing(postgres: Postgres) -> None:
    database = postgres.database()
    before = full_snapshot(database.superuser_url)
    assert migrate.upgrade(database.owner_url) == (HEAD, HEAD)
    assert full_snapshot(database.superuser_url) == before


def test_an_older_release_leaves_a_newer_schema_alone(postgres: Postgres) -> None:
    database = postgres.database()
    with psycopg.connect(database.superuser_url) as superuser:
        superuser.execute("update alembic_version set version_num = '9999'")
    assert migrate.upgrade(database.owner_url) == ("9999", "9999")


def test_three_concurrent_migrations_all_succeed(postgres: Postgres) -> None:
    database = postgres.database(migrated=False)
    with psycopg.connect(database.owner_url, autocommit=True) as other:
        other.execute("select pg_advisory_lock(%s)", (migrate.ADVISORY_LOCK_ID,))
        processes = [start_migration(database.owner_url) for _ in range(3)]
        until(lambda: other.execute(OTHER_SESSIONS, (other.info.backend_pid,)).rowcount == 3)
        version_table = other.execute("select to_regclass('public.alembic_version')").fetchone()
        assert version_table == (None,)
    outputs = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    assert sorted(outputs) == [f"migrate: at {HEAD}"] * 2 + [f"migrate: none -> {HEAD}"]


def test_a_migration_waits_for_another_without_a_snapshot(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that waits inside a statement would deadlock with a concurrent index build."""
    database = postgres.database(migrated=False)
    monkeypatch.setattr(migrate, "ADVISORY_LOCK_TIMEOUT_SECONDS", 0.3)
    with psycopg.connect(database.owner_url, autocommit=True) as other:
        other.execute("select pg_advisory_lock(%s)", (migrate.ADVISORY_LOCK_ID,))
        with pytest.raises(MigrationError, match="another migration has been running"):
            migrate.upgrade(database.owner_url)
        other.execute("select pg_advisory_unlock(%s)", (migrate.ADVISORY_LOCK_ID,))
    assert migrate.upgrade(database.owner_url)[1] == HEAD


def test_a_migration_fails_after_several_lock_timeouts_without_blocking_others(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = postgres.database(migrated=False)
    migrate.upgrade(database.owner_url, "0003")
    monkeypatch.setattr(migrate, "MAX_ATTEMPTS", 2)
    monkeypatch.setattr(migrate, "RETRY_SECONDS", 0.1)
    with psycopg.connect(database.superuser_url) as reader:
        reader.execute("select from memberships")
        start = time.monotonic()
        message = r"could not acquire a lock after 2 attempts of 300 ms"
        with pytest.raises(MigrationError, match=message) as error:
            migrate.downgrade(database.owner_url, "0001")
        assert 2 * 0.3 <= time.monotonic() - start < 5
        assert "\n" not in str(error.value)
        version = reader.execute("select version_num from alembic_version").fetchone()
        assert version is not None
    # Each revision is one transaction, so the schema is at a revision and can be upgraded.
    migrate.upgrade(database.owner_url)
    assert full_snapshot(database.superuser_url) == full_snapshot(postgres.database().superuser_url)


def test_a_migration_continues_when_the_lock_is_released(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = postgres.database()
    reader = psycopg.connect(database.superuser_url)
    reader.execute("select from memberships")
    monkeypatch.setattr(time, "sleep", lambda _: reader.close())
    migrate.downgrade(database.owner_url, "base")
    assert not any(snapshot(database.superuser_url).values())


def test_migration_errors_are_one_line_without_the_password(postgres: Postgres) -> None:
    database = postgres.database(migrated=False)
    wrong = postgres.url(database.name, roles.OWNER, "wrong")
    for url, reason in (
        (wrong, "password authentication failed"),
        (postgres.url("no_such_database", roles.OWNER, postgres.owner_password), "does not exist"),
        ("postgresql://x@127.0.0.1:1/x", "refused"),
        ("postgresql://x:secret@[", "MIGRATION_DATABASE_URL"),
        (database.app_url, "permission denied"),
    ):
        with pytest.raises(MigrationError, match=reason) as error:
            migrate.upgrade(url)
        assert "\n" not in str(error.value)
        assert "secret" not in str(error.value)
    with pytest.raises(MigrationError, match="locate revision"):
        migrate.downgrade(database.owner_url, "4711")


def test_a_server_that_is_too_old_is_rejected(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_versions, "MINIMUM", 990_000)
    with pytest.raises(MigrationError, match=r"PostgreSQL \d+ is too old"):
        migrate.upgrade(database.owner_url)


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("postgresql://x@127.0.0.1:1/x", r"migrate: .*Connection refused\n"),
        ("", r"MIGRATION_DATABASE_URL: is missing\n"),
    ],
)
def test_the_migrate_command_fails_with_one_line(url: str, line: str) -> None:
    process = start_migration(url)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert re.fullmatch(line, output), output


def test_the_migrate_command_stops_on_sigterm(postgres: Postgres) -> None:
    database = postgres.database(migrated=False)
    with psycopg.connect(database.owner_url, autocommit=True) as other:
        other.execute("select pg_advisory_lock(%s)", (migrate.ADVISORY_LOCK_ID,))
        process = start_migration(database.owner_url)
        until(lambda: other.execute(OTHER_SESSIONS, (other.info.backend_pid,)).rowcount == 1)
        process.terminate()
        output, _ = process.communicate(timeout=30)
    assert (process.returncode, output) == (143, "migrate: stopped by SIGTERM\n")


@pytest.mark.parametrize(
    ("version", "warns"), [(180_006, True), (180_007, False), (150_019, True), (990_000, False)]
)
def test_a_server_below_the_security_floor_gets_a_warning(version: int, warns: bool) -> None:
    assert bool(server_versions.floor_warning(version)) is warns


def test_the_audit_warns_about_every_server_but_the_embedded_one(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def audit() -> security_audit.AuditResult:
        async with await psycopg.AsyncConnection.connect(database.app_url) as connection:
            return await security_audit.audit(connection)

    with psycopg.connect(database.app_url) as connection:
        host, port = connection.info.host, connection.info.port
        major = connection.info.server_version // 10_000
    monkeypatch.setattr(server_versions, "SECURITY_FLOORS", {major: (major + 1) * 10_000})
    for embedded, warns in ((None, True), (f"{host}:{port + 1}", True), (f"{host}:{port}", False)):
        if embedded:
            monkeypatch.setenv(security_audit.EMBEDDED_SERVER, embedded)
        result = asyncio.run(audit())
        assert result.violation is None
        assert ("below the security floor" in (result.warning or "")) is warns
