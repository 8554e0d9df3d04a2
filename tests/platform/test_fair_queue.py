"""Tenants that wait for the database take turns; a flood of one leaves the others their share."""

import asyncio
import time
import uuid
from collections import Counter

import pytest

from db.connections.database import Database as Connections
from db.connections.fair_queue import FairQueue, FairSemaphore, SemaphoreFull
from db.errors import Unavailable
from db.tenancy import Session, tenant_session
from tests.platform.fix_postgres import Database
from tests.platform.test_database import run

FLOOD, QUIET = (str(uuid.UUID(int=n)) for n in (1, 2))
SECONDS = 0.1
SLOW = f"select pg_sleep({SECONDS})"


def test_shares_take_turns_and_each_is_first_come_first_served() -> None:
    waiting: FairQueue[str] = FairQueue()
    for item in ("a1", "a2", "a3", "b1", "c1", "c2"):
        assert waiting.add(item[0], item, 10) is None
    waiting.remove("a", "a2")
    waiting.remove("a", "a2")
    assert len(waiting) == 5
    assert waiting.pop({"a"}) == "b1"
    assert [waiting.pop() for _ in range(5)] == ["a1", "c1", "a3", "c2", None]
    assert not waiting.lines


def test_where_no_more_fit_the_longest_line_loses_its_last() -> None:
    waiting: FairQueue[str] = FairQueue()
    for item in ("a1", "a2", "a3", "b1"):
        assert waiting.add(item[0], item, 4) is None
    assert waiting.add("a", "a4", 4) == "a4"
    assert waiting.add("c", "c1", 4) == "a3"
    assert waiting.add("c", "c2", 4) == "c2"
    assert [waiting.pop() for _ in range(4)] == ["a1", "b1", "c1", "a2"]


def test_a_place_goes_to_who_waits_in_turn_and_none_is_lost() -> None:
    async def ask() -> None:
        places, order = FairSemaphore(2, most=6), []

        async def one(share: str, seconds: float, patience: float = 5) -> None:
            async with places.place(share, patience):
                order.append(share)
                await asyncio.sleep(seconds)

        flood = [asyncio.create_task(one("a", 0.05)) for _ in range(8)]
        await asyncio.sleep(0)
        others = [asyncio.create_task(one(share, 0.05)) for share in "bc"]
        done = await asyncio.gather(*flood, *others, return_exceptions=True)
        # Two at once, one beside them who has none, then in turn; two of the flood must leave.
        assert order[:3] == ["a", "a", "b"]
        assert "c" in order[3:5]
        assert Counter(type(error) for error in done if error) == {SemaphoreFull: 1}
        for cancelled in (True, False) * 20:
            late = [asyncio.create_task(one("a", 0.01)) for _ in range(4)]
            await asyncio.sleep(0.01)
            if cancelled:
                late[2].cancel()
            await asyncio.gather(*late, return_exceptions=True)
        async with places.place("a", 1), places.place("a", 1), places.place("b", 1):
            with pytest.raises(SemaphoreFull):
                await one("b", 0, patience=0.3)

    asyncio.run(ask())


@pytest.mark.parametrize("several", [False, True], ids=["statements", "transactions"])
@pytest.mark.parametrize("read_only", [True, False], ids=["reads", "writes"])
def test_a_tenant_that_floods_leaves_another_its_pace(
    database: Database, several: bool, read_only: bool
) -> None:
    """A hundred at once, where two fit, of one tenant; the other asks one at a time."""

    async def one(door: Session) -> float:
        began = time.monotonic()
        if several:
            async with door.transaction() as tx:
                await tx.fetch(SLOW)
        else:
            await door.fetch(SLOW)
        return time.monotonic() - began

    async def ask(connections: Connections) -> None:
        quiet = tenant_session(connections, QUIET, read_only=read_only)
        flood = tenant_session(connections, FLOOD, read_only=read_only)
        alone = sorted([await one(quiet) for _ in range(10)])
        ends, served, refused = time.monotonic() + 3, 0, 0

        async def ask_again() -> None:
            nonlocal served, refused
            while time.monotonic() < ends:
                try:
                    await one(flood)
                    served += 1
                except Unavailable:
                    refused += 1
                    await asyncio.sleep(0.02)

        flooding = [asyncio.create_task(ask_again()) for _ in range(100)]
        await asyncio.sleep(0.5)
        beside = sorted([await one(quiet) for _ in range(20)])
        await asyncio.gather(*flooding)
        # Of three quarters: other tests share the processors.
        assert beside[14] < 2 * alone[7], (alone, beside)
        assert served > 0.6 * 2 * 3 / SECONDS
        assert refused

    run(database.app_url, ask, connections=2)


def test_who_waits_too_long_is_refused_at_once_instead(database: Database) -> None:
    """More wait than half of the time suffices for: the last are told so, and nothing expires."""

    async def ask(connections: Connections) -> None:
        door = tenant_session(connections, FLOOD, read_only=True)
        for _ in range(30):
            await door.fetch("select pg_sleep(0.05)")
        took: dict[bool, list[float]] = {True: [], False: []}

        async def one() -> None:
            began = time.monotonic()
            try:
                await door.fetch("select pg_sleep(0.05)")
                took[True].append(time.monotonic() - began)
            except Unavailable:
                took[False].append(time.monotonic() - began)

        await asyncio.gather(*[one() for _ in range(200)])
        assert len(took[True]) >= 10
        assert max(took[False]) < 0.5

    run(database.app_url, ask, connections=1, timeout=1.0)
