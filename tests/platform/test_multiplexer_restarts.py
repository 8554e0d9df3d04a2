"""The multiplexer while its server or its pooler restarts."""

import asyncio
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from db.connections.multiplexer import Multiplexer
from db.connections.pipeline import ConnectionUnavailable
from dev.local.embedded import Server, running
from evidence.harness.processes import free_port
from tests.platform.fix_multiplexer import (
    GET,
    ORG_IDS,
    Route,
    direct_only,
    org,
    outcome,
    pgbouncer,
    pooler_conninfo,
    until,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend(route: Route) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": route.use_uvloop}


class RestartingServer:
    """A server that is stopped and started again; libpq reads its port from a service file."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "service"
        # Linux ends the server together with the thread that started it.
        self.thread = ThreadPoolExecutor(1)
        self.server: AbstractContextManager[Server] | None = None

    async def start(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self.thread, self._start)

    async def stop(self, number: int = signal.SIGINT) -> None:
        pid = int((self.folder / "data" / "postmaster.pid").read_text().split()[0])
        os.kill(pid, number)
        await asyncio.get_running_loop().run_in_executor(self.thread, self._stop)

    def _start(self) -> None:
        self.server = running(self.folder, fsync=False)
        server = self.server.__enter__()
        draft = self.file.with_suffix(".new")
        draft.write_text(
            f"[s]\nhost={server.host}\nport={server.port}\nuser=postgres\n"
            f"password={server.password}\ndbname=postgres\n"
        )
        draft.rename(self.file)

    def _stop(self) -> None:
        if self.server:
            self.server.__exit__(None, None, None)
        self.server = None

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self.thread, self._stop)
        self.thread.shutdown()


@pytest.fixture
def restarting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RestartingServer:
    folder = tmp_path / "server"
    folder.mkdir(0o700)
    server = RestartingServer(folder)
    server.file.write_text(f"[s]\nhost=127.0.0.1\nport={free_port()}\n")
    monkeypatch.setenv("PGSERVICEFILE", str(server.file))
    return server


@direct_only
async def test_reads_survive_restarts_of_the_server_and_writes_fail(
    route: Route, restarting: RestartingServer
) -> None:
    reader = Multiplexer("service=s", read_only=True, timeout=10)
    writer = Multiplexer("service=s", read_only=False, timeout=0.3)
    await reader.open()
    await writer.open()
    try:
        started = time.monotonic()
        with pytest.raises(ConnectionUnavailable) as error:
            await writer.fetch([], "select 1")
        assert not error.value.maybe_applied
        assert 0.2 < time.monotonic() - started < 2
        first = asyncio.create_task(reader.fetch([], "select 1"))
        await restarting.start()
        server_started = time.monotonic()
        assert await first == [(b"1",)]
        await until(lambda: reader.is_connected and writer.is_connected)
        assert time.monotonic() - server_started < 3

        stop = asyncio.Event()

        async def read_continuously() -> int:
            count = 0
            while not stop.is_set():
                assert await reader.fetch([], "select 1 from pg_sleep(0.01)") == [(b"1",)]
                count += 1
            return count

        reads = [asyncio.create_task(read_continuously()) for _ in range(8)]
        for number in (signal.SIGINT, signal.SIGKILL):
            write = asyncio.create_task(
                outcome(writer, [], "select pg_sleep(9)", statement_timeout=9)
            )
            await until(lambda: writer.stats.in_flight == 1)
            await restarting.stop(number)
            assert await write is ConnectionUnavailable
            await until(lambda: not reader.is_connected)
            await restarting.start()
            server_started = time.monotonic()
            await reader.fetch([], "select 1")
            assert time.monotonic() - server_started < 3
            await until(lambda: writer.stats.connections == reader.stats.connections == 2, 3)
        stop.set()
        assert min(await asyncio.gather(*reads)) > 2
    finally:
        await reader.close(timeout=1)
        await writer.close(timeout=1)
        await restarting.close()


@direct_only
async def test_reads_survive_restarts_of_the_pooler(
    route: Route, multiplexer_server: Server, tmp_path: Path
) -> None:
    port = free_port()
    reader = Multiplexer(pooler_conninfo(port), read_only=True)
    await reader.open()
    for _ in range(2):
        with pgbouncer(multiplexer_server, tmp_path, port):
            assert await reader.fetch(org(1), GET, [ORG_IDS[1], "1"]) == [(b"2/1",)]
            read = asyncio.create_task(outcome(reader, [], "select 1 from pg_sleep(0.3)"))
            await until(lambda: reader.stats.in_flight == 1)
    with pgbouncer(multiplexer_server, tmp_path, port):
        assert await read == [(b"1",)]
    await reader.close(timeout=1)
