"""What many clients may hold together: connections, and bodies that have not arrived whole."""

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest

from service.operations import bodies
from tests.platform.fix_postgres import Database
from tests.platform.fix_raw import Raw, raw
from tests.platform.fix_service import Service, Tenant, serving, tenant

GET = b"GET /health HTTP/1.1\r\nHost: service\r\n\r\n"
FEW = 30
NARROW = f"""
import resource
from service import lifecycle, serve
resource.setrlimit(resource.RLIMIT_NOFILE, (lifecycle.SPARE + {FEW}, 4096))
serve.serve()
"""


def test_connections_that_wait_make_room_and_beyond_that_clients_are_told(
    tmp_path: Path, database: Database
) -> None:
    with (
        serving(tmp_path, database.app_url, command=("-c", NARROW)) as service,
        ExitStack() as stack,
    ):
        kept = [stack.enter_context(raw(service.port)) for _ in range(FEW)]
        for connection in kept:
            assert connection.send(GET).answer().status_code == 200
        for _ in range(5):
            more = stack.enter_context(raw(service.port))
            assert more.send(GET).answer().status_code == 200
            assert _serves(service)
        busy = [stack.enter_context(raw(service.port)).send(GET[:-2]) for _ in range(2 * FEW)]
        told = [_answer_of(busy.pop(), 3), *[_answer_of(connection, 0.02) for connection in busy]]
        refused = [answer for answer in told if answer is not None]
        assert FEW - 5 <= len(refused) <= FEW + 5
        assert {answer.status_code for answer in refused} == {503}
        assert all(answer.headers["retry-after"] == "1" for answer in refused)
        assert refused[0].json()["detail"] == "Too many connections"
        for connection in busy:
            connection.close()
        assert _serves(service)


def _answer_of(connection: Raw, patience: float) -> httpx.Response | None:
    try:
        return connection.answer(patience=patience)
    except TimeoutError:
        return None
    except (AssertionError, OSError):
        return httpx.Response(503, headers={"retry-after": "1"}, json={"detail": "cut off"})


def _serves(service: Service) -> bool:
    with service.http() as client:
        return client.get("/health").status_code == 200


@pytest.fixture
def own(tmp_path: Path, database: Database) -> Iterator[Service]:
    with serving(tmp_path, database.app_url) as service:
        yield service


def test_large_bodies_together_are_bounded_and_small_ones_taken_all_the_same(own: Service) -> None:
    most = bodies.MAX_TOTAL_BYTES // 1_000_000
    with tenant(own, "Acme") as acme, ExitStack() as stack:
        slow = [stack.enter_context(raw(own.port)) for _ in range(most + 10)]
        for connection in slow:
            with suppress(OSError):  # refused while it was sent
                connection.send(_head(acme, 1_048_576), b" " * 1_000_000)
        told = [
            _answer_of(slow[-1], 3),
            *[_answer_of(connection, 0.02) for connection in slow[:-1]],
        ]
        refused = [answer for answer in told if answer is not None]
        assert 5 <= len(refused) <= 15
        assert {answer.status_code for answer in refused} == {503}
        assert acme.post("/orgs", name="Small")["name"] == "Small"


def _head(acme: Tenant, length: int) -> bytes:
    return (
        "POST /orgs HTTP/1.1\r\nHost: service\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {acme.token}\r\nContent-Length: {length}\r\n\r\n"
    ).encode()
