"""Writes with an Idempotency-Key, by a client that retries until it gets a final response."""

import asyncio
import collections
import random
import secrets
import signal
import threading
import time

from evidence.harness.postgres import postgres
from evidence.harness.services import serving
from evidence.resilience.load import Connection, Response, send_concurrently
from evidence.resilience.scenario import Scenario, Trial
from evidence.resilience.tenants import Tenant, create_tenant, created_resource

RETRY_PAUSE_SECONDS = 0.05
RETRYABLE = (0, 409, 503)


def killed(trial: Trial) -> None:
    """Kill the service at random moments during keyed writes, and start it again."""
    count, clients, writes_per_kill = (200, 4, 70) if trial.is_short else (500, 8, 80)
    chance = random.Random(trial.folder.name)
    with (
        postgres(trial.folder, fsync=True) as database,
        serving(trial.folder, database.app_url) as service,
    ):
        tenant = create_tenant(service.port)
        writers = Writers(service.port, tenant, count, clients)
        kills = 0
        while writers.are_running():
            # Count writes rather than time: a fast machine does them all within moments.
            target = len(writers.acknowledged) + chance.randint(1, writes_per_kill)
            while writers.are_running() and len(writers.acknowledged) < target:
                time.sleep(chance.uniform(0, 0.003))
            if not writers.are_running():
                break
            service.send_signal(signal.SIGKILL)
            service.wait()
            service.start()
            kills += 1
        acknowledged = writers.acknowledged
        rows = {str(row[0]) for row in database.rows("select id from projects")}
        keys = database.rows("select count(*) from idempotency_keys")[0][0]
    trial.record(f"{kills} kills, {writers.attempts:,} attempts of {count} writes")
    trial.record(f"{len(rows)} rows, {keys} keys, {len(acknowledged)} acknowledged")
    trial.expect(kills >= count // writes_per_kill - 1, f"only {kills} kills: too few to tell")
    trial.expect(len(rows) == keys == count, f"{len(rows)} rows and {keys} keys of {count} writes")
    trial.expect(set(acknowledged.values()) == rows, "the acknowledged ids are not those of rows")
    trial.expect(not writers.unexpected, f"unexpected statuses: {dict(writers.unexpected)}")


class Writers:
    """Clients on a thread that retry each write until its status is final.

    `acknowledged` maps keys to ids; `unexpected` counts statuses that are neither 201 nor
    retryable.
    """

    def __init__(self, port: int, tenant: Tenant, count: int, clients: int) -> None:
        self.acknowledged: dict[str, str] = {}
        self.attempts = 0
        self.unexpected: collections.Counter[int] = collections.Counter()
        self._port, self._tenant = port, tenant
        self._keys = [secrets.token_hex(12) for _ in range(count)]
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(clients)), daemon=True)
        self._thread.start()

    def are_running(self) -> bool:
        return self._thread.is_alive()

    async def _run(self, clients: int) -> None:
        await asyncio.gather(*[self._client() for _ in range(clients)])

    async def _client(self) -> None:
        connection = Connection(self._port)
        while self._keys:
            await self._write(connection, self._keys.pop())
        connection.close()

    async def _write(self, connection: Connection, key: str) -> None:
        request = self._tenant.create(f"project {key}", Idempotency_Key=key)
        while True:
            self.attempts += 1
            response = await connection.send("keyed", request)
            if response.status == 201:
                self.acknowledged[key] = created_resource(response)["id"]
                return
            if response.status not in RETRYABLE:
                self.unexpected[response.status] += 1
                return
            await asyncio.sleep(RETRY_PAUSE_SECONDS)


def together(trial: Trial) -> None:
    """Send the same write three times at the same moment, for many keys."""
    with (
        postgres(trial.folder) as database,
        serving(trial.folder, database.app_url) as service,
    ):
        tenant, keys = create_tenant(service.port), 20 if trial.is_short else 200
        outcomes: collections.Counter[str] = collections.Counter()
        for _ in range(keys):
            key = secrets.token_hex(12)
            request = tenant.create(f"project {key}", Idempotency_Key=key)
            outcomes.update(_outcomes(trial, send_concurrently(service.port, [request] * 3)))
        rows = len(database.rows("select from projects"))
    counts = ", ".join(f"{outcome} x {count}" for outcome, count in outcomes.items())
    trial.record(f"{keys} keys, {rows} rows; {counts}")
    trial.expect(rows == keys, f"{rows} rows of {keys} keys")


def _outcomes(trial: Trial, responses: list[Response]) -> list[str]:
    """Check the responses to one key; return `created`, `replayed` or the status of each."""
    successes = [response for response in responses if response.status == 201]
    created = [response for response in successes if "idempotency-replayed" not in response.headers]
    others = [str(response.status) for response in responses if response.status != 201]
    trial.expect(len(created) == 1, f"{len(created)} of 3 responses are not replayed, expected 1")
    trial.expect(len({response.body for response in successes}) == 1, "two 201 bodies differ")
    trial.expect(set(others) <= {"409"}, f"unexpected statuses: {others}")
    replayed = len(successes) - len(created)
    return ["created"] * len(created) + ["replayed"] * replayed + others


SCENARIOS = (
    Scenario(
        "killed",
        "the service is killed at random during 500 keyed, retried writes: 500 rows, 500 keys",
        killed,
        timeout=240,
        in_tests=True,
    ),
    Scenario(
        "together",
        "a keyed write 3 times at once: one row, one 201, the others its replay or 409",
        together,
    ),
)
