"""A queue that serves its keys (tenants) in turn, and a semaphore whose waiters use one."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """First in, first out within a key; the keys take turns."""

    def __init__(self) -> None:
        self._lines: OrderedDict[str, OrderedDict[T, None]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def items(self) -> list[T]:
        """Return all items, those of one key together."""
        return [item for line in self._lines.values() for item in line]

    def add(self, key: str, item: T, capacity: float) -> T | None:
        """Add `item`; return the item that is evicted when more than `capacity` would wait.

        That is the last item of the longest line, or `item` itself if its line would be as long.
        """
        evicted = None
        if self._count >= capacity:
            line = self._lines.get(key, ())
            longest = max(self._lines, key=lambda name: len(self._lines[name]), default=key)
            if len(self._lines.get(longest, ())) <= len(line) + 1:
                return item
            evicted = next(reversed(self._lines[longest]))
            self.remove(longest, evicted)
        self._lines.setdefault(key, OrderedDict())[item] = None
        self._count += 1
        return evicted

    def pop(self, busy: Collection[str] = ()) -> T | None:
        """Return the next item of the next key that is not `busy`, or None."""
        key = next((name for name in self._lines if name not in busy), None)
        if key is None:
            return None
        line = self._lines[key]
        item, _ = line.popitem(last=False)
        self._count -= 1
        if line:
            self._lines.move_to_end(key)
        else:
            del self._lines[key]
        return item

    def remove(self, key: str, item: T) -> None:
        """Remove `item` if it still waits."""
        line = self._lines.get(key)
        if line is not None and item in line:
            del line[item]
            self._count -= 1
            if not line:
                del self._lines[key]


class SemaphoreFull(Exception):
    """Too many callers wait already, or the wait took too long."""


class FairSemaphore:
    """Slots: `slots` for all keys, and one more for a key that holds none.

    Up to `max_waiting` callers wait for a slot.
    """

    def __init__(self, slots: int, max_waiting: int) -> None:
        self._slots, self._max_waiting = slots, max_waiting
        self._holders: list[str] = []
        self._queue: FairQueue[tuple[str, asyncio.Future[None]]] = FairQueue()

    @property
    def waiting(self) -> int:
        """How many wait for a slot."""
        return len(self._queue)

    @asynccontextmanager
    async def slot(self, key: str, timeout: float) -> AsyncIterator[None]:  # noqa: ASYNC109
        """Hold a slot. Raises `SemaphoreFull` at once, or after `timeout` seconds."""
        await self._acquire(key, timeout)
        try:
            yield
        finally:
            self._release(key)

    async def _acquire(self, key: str, timeout: float) -> None:  # noqa: ASYNC109
        if len(self._holders) < self._slots + (key not in self._holders):
            self._holders.append(key)
            return
        turn = asyncio.get_running_loop().create_future()
        waiter = key, turn
        evicted = self._queue.add(key, waiter, self._max_waiting)
        if evicted and not evicted[1].done():
            evicted[1].set_exception(SemaphoreFull("too many wait"))
        try:
            async with asyncio.timeout(timeout):
                await turn
        except (TimeoutError, asyncio.CancelledError) as error:
            if turn.done() and not turn.cancelled() and not turn.exception():
                self._release(key)  # the turn came too late
            if isinstance(error, TimeoutError):
                raise SemaphoreFull(f"waited {timeout} s") from None
            raise
        finally:
            self._queue.remove(key, waiter)

    def _release(self, key: str) -> None:
        self._holders.remove(key)
        while len(self._holders) <= self._slots:
            busy = self._holders if len(self._holders) == self._slots else ()
            if (waiter := self._queue.pop(busy)) is None:
                return
            if not waiter[1].done():
                self._holders.append(waiter[0])
                waiter[1].set_result(None)
