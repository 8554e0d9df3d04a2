"""Bounds on what all clients use together: connections, and memory for incomplete bodies."""

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest

from evidence.harness.processes import free_port
from service.operations import bodies
from tests.platform.fix_metrics import MonitoredService
from tests.platform.fix_postgres import Database
from tests.platform.fix_raw import RawConnection, raw
from tests.platform.fix_service import Tenant, has_status, serving, tenant

GET = b"GET /health HTTP/1.1\r\nHost: service\r\n\r\n"
MAX_CONNECTIONS = 30
# The limit of descriptors determines how many connections the service accepts.
SERVE_FEW_CONNECTIONS = f"""
import resource
from service import serve
from service.http import server
descriptors = server.RESERVED_DESCRIPTORS + {MAX_CONNECTIONS}
resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, 4096))
serve.serve()
"""


def response_or_none(connection: RawConnection, timeout: float) -> httpx.Response | None:
    """Return the response, None when there is none in time, or a 503 when it was cut off."""
    try:
        return connection.response(timeout=timeout)
    except TimeoutError:
        return None
    except (AssertionError, OSError):
        return httpx.Response(503, headers={"retry-after": "1"}, json={"detail": "cut off"})


def rejections(connections: list[RawConnection]) -> list[httpx.Response]:
    """Return the responses on these connections; the last one is waited for longest."""
    responses = [response_or_none(connections[-1], 3)]
    responses += [response_or_none(connection, 0.02) for connection in connections[:-1]]
    return [response for response in responses if response is not None]


def no_room(service: MonitoredService) -> float:
    return service.samples().get("covenant_unavailable_total|no_room", 0)


def test_idle_connections_are_closed_for_new_ones_and_then_clients_are_rejected(
    tmp_path: Path, database: Database
) -> None:
    command = ("-c", SERVE_FEW_CONNECTIONS)
    port = free_port()
    with (
        serving(tmp_path, database.app_url, command=command, ADMIN_PORT=str(port)) as service,
        ExitStack() as stack,
    ):
        monitored = MonitoredService(service, port)
        idle = [stack.enter_context(raw(service.port)) for _ in range(MAX_CONNECTIONS)]
        for connection in idle:
            assert connection.send(GET).response().status_code == 200
        for _ in range(5):
            new = stack.enter_context(raw(service.port))
            assert new.send(GET).response().status_code == 200
            assert has_status(f"{service.url}/health")
        assert no_room(monitored) == 0
        busy = [
            stack.enter_context(raw(service.port)).send(GET[:-2])
            for _ in range(2 * MAX_CONNECTIONS)
        ]
        rejected = rejections(busy)
        assert MAX_CONNECTIONS - 5 <= len(rejected) <= MAX_CONNECTIONS + 5
        assert {response.status_code for response in rejected} == {503}
        assert all(response.headers["retry-after"] == "1" for response in rejected)
        assert rejected[0].json()["detail"] == "There are too many connections"
        assert no_room(monitored) == len(rejected)
        for connection in busy:
            connection.close()
        assert has_status(f"{service.url}/health")


@pytest.fixture
def monitored(tmp_path: Path, database: Database) -> Iterator[MonitoredService]:
    port = free_port()
    with serving(tmp_path, database.app_url, ADMIN_PORT=str(port)) as service:
        yield MonitoredService(service, port)


def test_large_bodies_share_a_bounded_budget_and_small_ones_are_always_accepted(
    monitored: MonitoredService,
) -> None:
    service, limit = monitored.service, bodies.MAX_TOTAL_BYTES // 1_000_000
    with tenant(service, "Acme") as acme, ExitStack() as stack:
        incomplete = [stack.enter_context(raw(service.port)) for _ in range(limit + 10)]
        for connection in incomplete:
            with suppress(OSError):  # rejected while it is sent
                connection.send(_head(acme, 1_048_576), b" " * 1_000_000)
        rejected = rejections(incomplete)
        assert 5 <= len(rejected) <= 15
        assert {response.status_code for response in rejected} == {503}
        assert no_room(monitored) == len(rejected)
        assert acme.post("/orgs", name="Small")["name"] == "Small"


def _head(acme: Tenant, length: int) -> bytes:
    return (
        "POST /orgs HTTP/1.1\r\nHost: service\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {acme.token}\r\nContent-Length: {length}\r\n\r\n"
    ).encode()
