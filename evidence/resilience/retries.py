"""Writes with an Idempotency-Key by a client that tries again until it is told."""

import asyncio
import collections
import random
import secrets
import signal
import threading
import time

from evidence.harness.postgres import postgres
from evidence.harness.services import serving
from evidence.resilience.load import Connection, Reply, at_once
from evidence.resilience.scenario import Scenario, Trial
from evidence.resilience.tenants import Tenant, created, tenant

PAUSE = 0.05


def killed(trial: Trial) -> None:
    """The service is killed at random points of many keyed writes, and started again."""
    count, clients, most = (200, 4, 70) if trial.short else (500, 8, 80)
    chance = random.Random(trial.folder.name)
    with (
        postgres(trial.folder, fsync=True) as database,
        serving(trial.folder, database.app_url) as service,
    ):
        acme = tenant(service.port)
        writing = Writing(service.port, acme, count, clients)
        kills = 0
        while writing.runs():
            # By count, since a fast machine does them all within a few moments.
            goal = len(writing.acknowledged) + chance.randint(1, most)
            while writing.runs() and len(writing.acknowledged) < goal:
                time.sleep(chance.uniform(0, 0.003))
            if not writing.runs():
                break
            service.send_signal(signal.SIGKILL)
            service.wait()
            service.start()
            kills += 1
        acknowledged = writing.acknowledged
        rows = {str(row[0]) for row in database.rows("select id from projects")}
        kept = database.rows("select count(*) from idempotency_keys")[0][0]
    trial.note(f"{kills} kills, {writing.attempts:,} attempts of {count} writes")
    trial.note(f"{len(rows)} rows, {kept} keys, {len(acknowledged)} acknowledged")
    trial.demand(kills >= count // most - 1, f"only {kills} kills: nothing was tried")
    trial.demand(len(rows) == kept == count, f"{len(rows)} rows and {kept} keys of {count}")
    trial.demand(set(acknowledged.values()) == rows, "what was acknowledged is not what there is")
    trial.demand(not writing.odd, f"answers: {dict(writing.odd)}")


class Writing:
    """Clients on a thread that each send a write again and again until it is answered 201."""

    def __init__(self, port: int, acme: Tenant, count: int, clients: int) -> None:
        self.acknowledged: dict[str, str] = {}  # id by key
        self.attempts = 0
        self.odd: collections.Counter[int] = collections.Counter()
        self._port, self._acme = port, acme
        self._left = [secrets.token_hex(12) for _ in range(count)]
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(clients)), daemon=True)
        self._thread.start()

    def runs(self) -> bool:
        return self._thread.is_alive()

    async def _run(self, clients: int) -> None:
        await asyncio.gather(*[self._client() for _ in range(clients)])

    async def _client(self) -> None:
        connection = Connection(self._port)
        while self._left:
            key = self._left.pop()
            request = self._acme.create(f"project {key}", Idempotency_Key=key)
            while True:
                self.attempts += 1
                reply = await connection.ask("keyed", request)
                if reply.status == 201:
                    self.acknowledged[key] = created(reply)["id"]
                    break
                if reply.status not in (0, 409, 503):
                    self.odd[reply.status] += 1
                    break
                await asyncio.sleep(PAUSE)
        connection.close()


def together(trial: Trial) -> None:
    """The same write three times at the same moment, for many keys."""
    with (
        postgres(trial.folder) as database,
        serving(trial.folder, database.app_url) as service,
    ):
        acme, keys = tenant(service.port), 20 if trial.short else 200
        answers: collections.Counter[str] = collections.Counter()
        for _ in range(keys):
            key = secrets.token_hex(12)
            request = acme.create(f"project {key}", Idempotency_Key=key)
            replies = at_once(service.port, [request] * 3)
            answers.update(_kinds(trial, replies))
        rows = len(database.rows("select from projects"))
    trial.note(f"{keys} keys, {rows} rows; {dict(answers)}")
    trial.demand(rows == keys, f"{rows} rows of {keys} keys")


def _kinds(trial: Trial, replies: list[Reply]) -> list[str]:
    made = [reply for reply in replies if reply.status == 201]
    first = [reply for reply in made if "idempotency-replayed" not in reply.headers]
    others = [str(reply.status) for reply in replies if reply.status != 201]
    trial.demand(len(first) == 1, f"{len(first)} first answers")
    trial.demand(len({reply.body for reply in made}) == 1, "two answers differ")
    trial.demand(set(others) <= {"409"}, f"other answers: {others}")
    return ["first"] * len(first) + ["again"] * (len(made) - len(first)) + others


SCENARIOS = (
    Scenario(
        "killed",
        "the service killed at random points of 500 keyed writes, retried: rows = keys = 500",
        killed,
        limit=240,
        short=True,
    ),
    Scenario(
        "together",
        "a keyed write 3 times at once: one row, one first answer, the others equal or 409",
        together,
    ),
)
