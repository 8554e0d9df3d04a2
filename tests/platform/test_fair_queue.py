"""Requests that wait for the database are served by tenant in turn: none can starve another."""

import asyncio
import time
import uuid
from collections import Counter

import pytest

from db.connections.database import Database as Connections
from db.connections.fair_queue import FairQueue, FairSemaphore, SemaphoreFull
from db.errors import Reason, Unavailable
from db.tenancy import Session, tenant_session
from tests.platform.fix_database import run_connected
from tests.platform.fix_postgres import Database

BUSY_TENANT, QUIET_TENANT = (str(uuid.UUID(int=n)) for n in (1, 2))
SECONDS = 0.1
SLOW = f"select pg_sleep({SECONDS})"


def test_keys_take_turns_and_each_is_first_in_first_out() -> None:
    queue: FairQueue[str] = FairQueue()
    for item in ("a1", "a2", "a3", "b1", "c1", "c2"):
        assert queue.add(item[0], item, 10) is None
    queue.remove("a", "a2")
    queue.remove("a", "a2")
    assert len(queue) == 5
    assert queue.pop({"a"}) == "b1"
    assert [queue.pop() for _ in range(5)] == ["a1", "c1", "a3", "c2", None]
    assert (len(queue), queue.items()) == (0, [])


def test_a_full_queue_evicts_the_last_item_of_the_longest_line() -> None:
    queue: FairQueue[str] = FairQueue()
    for item in ("a1", "a2", "a3", "b1"):
        assert queue.add(item[0], item, 4) is None
    assert queue.add("a", "a4", 4) == "a4"
    assert queue.add("c", "c1", 4) == "a3"
    assert queue.add("c", "c2", 4) == "c2"
    assert [queue.pop() for _ in range(4)] == ["a1", "b1", "c1", "a2"]


def test_slots_are_given_in_turn_and_none_is_lost() -> None:
    async def main() -> None:
        semaphore, order = FairSemaphore(2, max_waiting=6), []

        async def hold(key: str, seconds: float, timeout: float = 5) -> None:  # noqa: ASYNC109
            async with semaphore.slot(key, timeout):
                order.append(key)
                await asyncio.sleep(seconds)

        busy = [asyncio.create_task(hold("a", 0.05)) for _ in range(8)]
        await asyncio.sleep(0)
        others = [asyncio.create_task(hold(key, 0.05)) for key in "bc"]
        results = await asyncio.gather(*busy, *others, return_exceptions=True)
        # Two slots, one more for a key that holds none, then in turn; one waiter is evicted.
        assert order[:3] == ["a", "a", "b"]
        assert "c" in order[3:5]
        assert Counter(type(error) for error in results if error) == {SemaphoreFull: 1}
        for is_cancelled in (True, False) * 20:
            tasks = [asyncio.create_task(hold("a", 0.01)) for _ in range(4)]
            await asyncio.sleep(0.01)
            if is_cancelled:
                tasks[2].cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        async with semaphore.slot("a", 1), semaphore.slot("a", 1), semaphore.slot("b", 1):
            with pytest.raises(SemaphoreFull):
                await hold("b", 0, timeout=0.3)

    asyncio.run(main())


@pytest.mark.parametrize("in_transaction", [False, True], ids=["statements", "transactions"])
@pytest.mark.parametrize("read_only", [True, False], ids=["reads", "writes"])
def test_a_busy_tenant_does_not_slow_down_a_quiet_one(
    database: Database, in_transaction: bool, read_only: bool
) -> None:
    """One tenant sends a hundred requests at once where two fit, the other one at a time."""

    async def request(session: Session) -> float:
        started = time.monotonic()
        if in_transaction:
            async with session.transaction() as tx:
                await tx.fetch(SLOW)
        else:
            await session.fetch(SLOW)
        return time.monotonic() - started

    async def test(connections: Connections) -> None:
        quiet = tenant_session(connections, QUIET_TENANT, read_only=read_only)
        busy = tenant_session(connections, BUSY_TENANT, read_only=read_only)
        alone = sorted([await request(quiet) for _ in range(10)])
        end, served, reasons = time.monotonic() + 3, 0, Counter[Reason]()

        async def request_repeatedly() -> None:
            nonlocal served
            while time.monotonic() < end:
                try:
                    await request(busy)
                    served += 1
                except Unavailable as error:
                    reasons[error.reason] += 1
                    await asyncio.sleep(0.02)

        tasks = [asyncio.create_task(request_repeatedly()) for _ in range(100)]
        await asyncio.sleep(0.5)
        beside = sorted([await request(quiet) for _ in range(20)])
        await asyncio.gather(*tasks)
        # The 75th percentile, because other tests share the processors.
        assert beside[14] < 2 * alone[7], (alone, beside)
        assert served > 0.6 * 2 * 3 / SECONDS
        assert set(reasons) == {Reason.NO_ROOM}

    run_connected(database.app_url, test, connections=2)


def test_a_request_that_would_wait_too_long_is_rejected_at_once(database: Database) -> None:
    """No more wait than can be sent within half the timeout, so no request times out."""

    async def test(connections: Connections) -> None:
        session = tenant_session(connections, BUSY_TENANT, read_only=True)
        for _ in range(30):
            await session.fetch("select pg_sleep(0.05)")
        served: list[float] = []
        rejected: list[float] = []

        async def request() -> None:
            started = time.monotonic()
            try:
                await session.fetch("select pg_sleep(0.05)")
                served.append(time.monotonic() - started)
            except Unavailable:
                rejected.append(time.monotonic() - started)

        await asyncio.gather(*[request() for _ in range(200)])
        assert len(served) >= 10
        assert max(rejected) < 0.5

    run_connected(database.app_url, test, connections=1, timeout=1.0)
