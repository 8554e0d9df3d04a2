"""A live service moves from PostgreSQL to PgBouncer and back, by DATABASE_URL_FILE."""

import json
import re
import subprocess
import time
from itertools import pairwise
from pathlib import Path

from db import roles
from evidence.harness.pgbouncer import pooler
from evidence.harness.postgres import Postgres, postgres
from evidence.harness.processes import wait_until
from evidence.harness.services import Service, serving
from evidence.resilience.load import Load, Request, Response, Stream, failures, loading, summarize
from evidence.resilience.scenario import Scenario, Trial, require_program
from evidence.resilience.tenants import Tenant, create_tenant, created_resource, keyed_writes

KEPT_ROWS, DELETABLE_ROWS = 40, 20_000
DELETING_CLIENTS = 2
STATUSES = {"keyed": 201, "delete": 204}
# The parameters that CloudNativePG ignores in its poolers, and PgBouncer's own default.
CONFIGURATIONS = {
    "options ignored": "ignore_startup_parameters = extra_float_digits,options",
    "options rejected": "",
    "prepared statements": "max_prepared_statements = 200",
}


def move(trial: Trial) -> None:
    """Move to each kind of pooler and back under load, and check every row that was read."""
    program = require_program("pgbouncer")
    rounds = 2 if trial.is_short else 6
    for number, (name, settings) in enumerate(CONFIGURATIONS.items()):
        if name == "prepared statements" and not _knows_prepared_statements(program):
            trial.record(f"{name}: not run, PgBouncer is older than 1.21")
            continue
        folder = trial.folder / f"pooler{number}"
        folder.mkdir(mode=0o711)
        with postgres(folder) as database:
            pool_folder = folder / "pgbouncer"
            pool_folder.mkdir()
            with pooler(pool_folder, database.app_url, size=8, settings=settings) as pooled_url:
                _move_between(trial, name, folder, database, pooled_url, rounds)


def _move_between(
    trial: Trial, name: str, folder: Path, database: Postgres, pooled_url: str, rounds: int
) -> None:
    url_file = folder / "url"
    write_url(url_file, database.app_url)
    with serving(folder, "", DATABASE_URL_FILE=str(url_file)) as service:
        workload = Workload(service, database)
        with loading(service.port, *workload.streams) as load:
            for number in range(rounds):
                for url in (pooled_url, database.app_url):
                    _move_to(url, url_file, database, load, is_cut=number % 2 == 1)
            is_ready = service.ready() == 200
            responses = load.stop()
        trial.expect(is_ready, f"{name}: /ready does not return 200 after the last move")
        failed, wrong = failures(responses), workload.wrong(responses)
    # Only a keyed write can be repeated after its connection was cut.
    interrupted = [r for r in failed if r.stream == "delete" and r.is_retryable_503]
    failed = [r for r in failed if r not in interrupted]
    trial.record(
        f"{name}: {2 * rounds} moves, {len(failed)} failed and {len(wrong)} wrong of"
        f" {len(responses):,}, {len(interrupted)} deletions interrupted, longest outage"
        f" {_longest_outage(responses) * 1000:.0f} ms"
    )
    trial.expect(not failed, f"{name}: failed: {summarize(failed)}")
    trial.expect(not wrong, f"{name}: wrong: {wrong[:3]}")
    most = rounds * DELETING_CLIENTS
    trial.expect(len(interrupted) <= most, f"{name}: interrupted: {summarize(interrupted)}")


def _move_to(url: str, url_file: Path, database: Postgres, load: Load, *, is_cut: bool) -> None:
    """Set another address; with `is_cut` all connections end at that moment, as in a failover."""
    write_url(url_file, url)
    if is_cut:
        database.execute(
            f"select pg_terminate_backend(pid) from pg_stat_activity where usename = '{roles.APP}'"
        )
    time.sleep(1)
    _wait_for_more(load)


def _wait_for_more(load: Load) -> None:
    enough = len(load.responses) + 1000
    wait_until(lambda: len(load.responses) > enough, 20)


class Workload:
    """Reads of rows that stay the same, new rows, and deletions, each of them checked."""

    def __init__(self, service: Service, database: Postgres) -> None:
        self._database = database
        self._reader, self._writer, self._deleter = (
            create_tenant(service.port, name) for name in ("Reader", "Writer", "Deleter")
        )
        self._kept = self._insert(self._reader, KEPT_ROWS)
        self._deletable = self._insert(self._deleter, DELETABLE_ROWS)
        undeleted = iter(self._deletable)

        def delete(_: int) -> Request:
            return self._deleter.delete(next(undeleted))

        self.streams = (
            Stream("list", lambda _: self._reader.list(100), 4, 0.005),
            Stream("get", lambda n: self._reader.get(self._kept[n % KEPT_ROWS]), 4, 0.005),
            keyed_writes(self._writer),
            Stream("delete", delete, DELETING_CLIENTS, 0.01),
        )

    def wrong(self, responses: list[Response]) -> list[str]:
        """Return what differs from the rows that must have been read, written or deleted."""
        answered = [r for r in responses if 200 <= r.status < 300]
        wrong = [str(r) for r in answered if not self._is_right(r)]
        created = {created_resource(r)["id"] for r in answered if r.stream == "keyed"}
        deletions = [r for r in responses if r.stream == "delete"]
        deleted = {_last_part(r.request) for r in deletions if r.status == 204}
        unknown = {_last_part(r.request) for r in deletions} - deleted
        rows = {
            "kept": (set(self._kept), self._ids(self._reader)),
            "created": (created, self._ids(self._writer)),
            "not deleted": (
                set(self._deletable) - deleted - unknown,
                self._ids(self._deleter) - unknown,
            ),
        }
        wrong += [
            f"{what}: {len(expected - found)} rows lost, {len(found - expected)} unexpected"
            for what, (expected, found) in rows.items()
            if expected != found
        ]
        return wrong

    def _is_right(self, response: Response) -> bool:
        if response.stream in STATUSES:
            return response.status == STATUSES[response.stream]
        try:
            body = json.loads(response.body)
        except ValueError:  # the rows of another statement
            return False
        if response.stream == "get":
            return bool(body["id"] == _last_part(response.request))
        return sorted(project["id"] for project in body["items"]) == self._kept

    def _insert(self, tenant: Tenant, number: int) -> list[str]:
        rows = self._database.rows(
            "insert into projects (org_id, id, name) select"
            f" '{tenant.org}', gen_random_uuid(), n::text from generate_series(1, {number}) n"
            " returning id::text"
        )
        return sorted(str(row[0]) for row in rows)

    def _ids(self, tenant: Tenant) -> set[str]:
        rows = self._database.rows(f"select id from projects where org_id = '{tenant.org}'")
        return {str(row[0]) for row in rows}


def _last_part(request: Request) -> str:
    return request.path.rpartition("/")[2]


def _longest_outage(responses: list[Response]) -> float:
    """Return the longest time (s) in which no request succeeded."""
    ends = sorted(response.ended for response in responses if 200 <= response.status < 300)
    return max((after - before for before, after in pairwise(ends)), default=0)


def _knows_prepared_statements(program: str) -> bool:
    """Return whether PgBouncer keeps prepared statements in transaction mode (since 1.21)."""
    text = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"PgBouncer (\d+)\.(\d+)", text)
    return version is not None and tuple(map(int, version.groups())) >= (1, 21)


def write_url(file: Path, url: str) -> None:
    """Replace the file at once, as Kubernetes replaces a mounted Secret."""
    draft = file.with_suffix(".new")
    draft.write_text(url)
    draft.rename(file)


SCENARIOS = (
    Scenario(
        "pooler",
        "DATABASE_URL_FILE moves from PostgreSQL to PgBouncer and back: 0 failed, 0 rows wrong",
        move,
        timeout=240,
        in_tests=True,
    ),
)
