"""Who waits: first come, first served within a share (a tenant), and the shares take turns."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """The lines of those who wait; a share has one while somebody of it waits."""

    def __init__(self) -> None:
        self.lines: OrderedDict[str, OrderedDict[T, None]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def items(self) -> list[T]:
        return [item for line in self.lines.values() for item in line]

    def add(self, share: str, item: T, most: float) -> T | None:
        """Let `item` wait, and return who must leave so that `most` wait.

        That is the last of the longest line, or `item` where its own is no shorter.
        """
        left = None
        if self._count >= most:
            line = self.lines.get(share, ())
            longest = max(self.lines, key=lambda name: len(self.lines[name]), default=share)
            if len(self.lines.get(longest, ())) <= len(line) + 1:
                return item
            left = next(reversed(self.lines[longest]))
            self.remove(longest, left)
        self.lines.setdefault(share, OrderedDict())[item] = None
        self._count += 1
        return left

    def pop(self, busy: Collection[str] = ()) -> T | None:
        """Return whose turn it is among the shares that are not `busy`."""
        share = next((name for name in self.lines if name not in busy), None)
        if share is None:
            return None
        line = self.lines[share]
        item, _ = line.popitem(last=False)
        self._count -= 1
        if line:
            self.lines.move_to_end(share)
        else:
            del self.lines[share]
        return item

    def remove(self, share: str, item: T) -> None:
        """Forget `item`, if it still waits."""
        line = self.lines.get(share)
        if line is not None and item in line:
            del line[item]
            self._count -= 1
            if not line:
                del self.lines[share]


class SemaphoreFull(Exception):
    """Too many wait already, or the wait was too long."""


class FairSemaphore:
    """So many places to be taken at once, and one more for a share that has none.

    Up to `most` wait for one.
    """

    def __init__(self, places: int, most: int) -> None:
        self._places, self._most = places, most
        self._taken: list[str] = []
        self._waiting: FairQueue[tuple[str, asyncio.Future[None]]] = FairQueue()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @asynccontextmanager
    async def place(self, share: str, patience: float) -> AsyncIterator[None]:
        """Hold a place. Raises `Full`: at once, or after `patience` seconds."""
        await self._enter(share, patience)
        try:
            yield
        finally:
            self._leave(share)

    async def _enter(self, share: str, patience: float) -> None:
        if len(self._taken) < self._places + (share not in self._taken):
            self._taken.append(share)
            return
        turn = asyncio.get_running_loop().create_future()
        waits = share, turn
        left = self._waiting.add(share, waits, self._most)
        if left and not left[1].done():
            left[1].set_exception(SemaphoreFull("too many wait"))
        try:
            async with asyncio.timeout(patience):
                await turn
        except (TimeoutError, asyncio.CancelledError) as error:
            if turn.done() and not turn.cancelled() and not turn.exception():
                self._leave(share)  # the turn came too late
            if isinstance(error, TimeoutError):
                raise SemaphoreFull(f"waited {patience} s") from None
            raise
        finally:
            self._waiting.remove(share, waits)

    def _leave(self, share: str) -> None:
        self._taken.remove(share)
        while len(self._taken) <= self._places:
            busy = self._taken if len(self._taken) == self._places else ()
            if (waits := self._waiting.pop(busy)) is None:
                return
            if not waits[1].done():
                self._taken.append(waits[0])
                waits[1].set_result(None)
