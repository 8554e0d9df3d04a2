"""HTTP/1.1 on the wire: malformed requests, pipelining, bounds and timeouts."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress

import httpx
import psutil
import pytest

from tests.platform.fix_raw import RawConnection, raw
from tests.platform.fix_service import Service

HOST = b"Host: service\r\n"
GET = b"GET /health HTTP/1.1\r\n" + HOST
POST = b"POST /auth/guest HTTP/1.1\r\n" + HOST
CHUNKED = b"Transfer-Encoding: chunked\r\n"
LAST_CHUNK = b"0\r\n\r\n"

MALFORMED = {
    "no host": b"GET /health HTTP/1.1\r\n\r\n",
    "no host, HTTP/1.0": b"GET /health HTTP/1.0\r\n\r\n",
    "two hosts": GET + HOST + b"\r\n",
    "two lengths": POST + b"Content-Length: 0\r\nContent-Length: 5\r\n\r\nhello",
    "the same length twice": POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "a list of lengths": POST + b"Content-Length: 5, 5\r\n\r\nhello",
    "a length with a sign": POST + b"Content-Length: +5\r\n\r\nhello",
    "a length below zero": POST + b"Content-Length: -5\r\n\r\nhello",
    "a length with an underscore": POST + b"Content-Length: 1_0\r\n\r\nhello",
    "a length in hexadecimal": POST + b"Content-Length: 0x5\r\n\r\nhello",
    "a length beyond 64 bits": POST + b"Content-Length: " + b"9" * 30 + b"\r\n\r\nhello",
    "an empty length": POST + b"Content-Length: \r\n\r\nhello",
    "a space before the colon": POST + b"Content-Length : 5\r\n\r\nhello",
    "a length and a coding": POST + b"Content-Length: 5\r\n" + CHUNKED + b"\r\n" + LAST_CHUNK,
    "a coding and a length": POST + CHUNKED + b"Content-Length: 5\r\n\r\n" + LAST_CHUNK,
    "chunked twice": POST + CHUNKED + CHUNKED + b"\r\n" + LAST_CHUNK,
    "chunked and another coding": POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n" + LAST_CHUNK,
    "another coding and chunked": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + LAST_CHUNK,
    "an unknown coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n" + LAST_CHUNK,
    "a coding after a control character": POST
    + b"Transfer-Encoding:\x0bchunked\r\n\r\n"
    + LAST_CHUNK,
    "a coding before a space": POST + b"Transfer-Encoding : chunked\r\n\r\n" + LAST_CHUNK,
    "a coding in HTTP/1.0": b"POST /auth/guest HTTP/1.0\r\n"
    + HOST
    + CHUNKED
    + b"\r\n"
    + LAST_CHUNK,
    "a folded field": GET + b"X-A: b\r\n c\r\n\r\n",
    "a folded first field": b"GET /health HTTP/1.1\r\n " + HOST + b"\r\n",
    "bare line feeds": b"GET /health HTTP/1.1\nHost: service\n\n",
    "one bare line feed": b"GET /health HTTP/1.1\r\nHost: service\nX-A: b\r\n\r\n",
    "a bare carriage return": b"GET /health HTTP/1.1\r\nHost: service\rX-A: b\r\n\r\n",
    "a NUL in a value": GET + b"X-A: b\x00c\r\n\r\n",
    "a NUL in a name": GET + b"X\x00A: b\r\n\r\n",
    "a field without a name": GET + b": b\r\n\r\n",
    "a field without a colon": GET + b"nonsense\r\n\r\n",
    "a bare line feed in a chunk": POST + CHUNKED + b"\r\n0\n\n",
    "a chunk of size 0x0": POST + CHUNKED + b"\r\n0x0\r\n\r\n",
    "a chunk beyond 64 bits": POST + CHUNKED + b"\r\nfffffffffffffffff\r\n\r\n",
    "a chunk longer than its size": POST + CHUNKED + b"\r\n1\r\nabc\r\n" + LAST_CHUNK,
    "a path without a slash": b"GET health HTTP/1.1\r\n" + HOST + b"\r\n",
    "a path that is not ASCII": b"GET /\xff HTTP/1.1\r\n" + HOST + b"\r\n",
    "a query that is not ASCII": b"GET /health?\xff HTTP/1.1\r\n" + HOST + b"\r\n",
    "a space in the path": b"GET /he alth HTTP/1.1\r\n" + HOST + b"\r\n",
    "an unknown method": b"SHOUT /health HTTP/1.1\r\n" + HOST + b"\r\n",
    "a method in lower case": b"get /health HTTP/1.1\r\n" + HOST + b"\r\n",
    "a tunnel": b"CONNECT service:443 HTTP/1.1\r\n" + HOST + b"\r\n",
    "HTTP/0.9": b"GET /health\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/3": b"GET /health HTTP/3.0\r\n" + HOST + b"\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_or_ambiguous_request_is_rejected(service: Service, data: bytes) -> None:
    with raw(service.port) as connection:
        response = connection.send(data).response()
        assert response.status_code == 400
        assert response.json()["errors"][0]["in"] == "header"


def test_a_request_may_arrive_byte_by_byte(service: Service) -> None:
    request = POST + CHUNKED + b"\r\n1;a=b\r\nx\r\n" + LAST_CHUNK
    with raw(service.port) as connection:
        for n in range(len(request)):
            connection.send(request[n : n + 1])
        assert connection.response().status_code == 201
        assert connection.send(GET + b"\r\n").response().status_code == 200


def test_pipelined_requests_get_their_responses_in_order(
    service: Service,
) -> None:
    requests = [
        b"HEAD /health HTTP/1.1\r\n" + HOST + b"\r\n",
        POST + b"Content-Length: 2\r\n\r\n{}",
        b"GET /auth/me HTTP/1.1\r\n" + HOST + b"\r\n",
        GET + b"\r\n",
    ]
    with raw(service.port) as connection:
        for _ in range(3):
            connection.send(b"".join(requests))
            statuses = [connection.response(m).status_code for m in ("HEAD", "POST", "GET", "GET")]
            assert statuses == [200, 201, 401, 200]


def test_only_the_first_of_too_many_pipelined_requests_get_a_response(service: Service) -> None:
    with raw(service.port) as connection:
        connection.send((GET + b"\r\n") * 400)
        responses = [connection.response() for _ in range(1 + 32)]
        assert {response.status_code for response in responses} == {200}
        assert [r.headers.get("connection") for r in responses[-2:]] == [None, "close"]
        assert connection.is_closed()


def test_a_malformed_request_after_a_valid_one_does_not_suppress_its_response(
    service: Service,
) -> None:
    with raw(service.port) as connection:
        connection.send(POST + b"\r\n" + b"nonsense\r\n\r\n" + GET + b"\r\n")
        assert connection.response().status_code == 201
        assert connection.is_closed()


def test_trailers_are_not_header_fields(service: Service) -> None:
    trailers = b"Host: other\r\nX-Request-Id: trailer\r\nX-Forwarded-For: 192.0.2.1\r\n"
    with raw(service.port) as connection:
        response = connection.send(POST + CHUNKED + b"\r\n0\r\n" + trailers + b"\r\n").response()
        assert response.status_code == 201
        assert response.headers["x-request-id"] != "trailer"


def test_an_upgrade_is_ignored_and_ends_the_connection(service: Service) -> None:
    for protocol in (b"h2c", b"websocket"):
        upgrade = b"Connection: Upgrade\r\nUpgrade: " + protocol + b"\r\n\r\n"
        with raw(service.port) as connection:
            connection.send(GET + upgrade + GET + b"\r\n")
            response = connection.response()
            assert response.status_code == 200
            assert response.headers["connection"] == "close"
            assert connection.is_closed()


def test_the_host_of_an_absolute_target_is_ignored(service: Service) -> None:
    with raw(service.port) as connection:
        target = b"GET http://elsewhere.example/health/ HTTP/1.1\r\n" + HOST + b"\r\n"
        response = connection.send(target).response()
    assert response.status_code == 404
    assert "elsewhere" not in f"{response.text}{response.headers}"


@pytest.mark.parametrize(
    "head",
    {
        "101 fields": GET + b"".join(b"X-%d: a\r\n" % n for n in range(100)) + b"\r\n",
        "101 empty fields": GET + b"A:\r\n" * 100 + b"\r\n",
        "one field of 17 kB": GET + b"X: " + b"a" * 17_000 + b"\r\n\r\n",
        "a name of 17 kB": GET + b"a" * 17_000 + b": b\r\n\r\n",
        "17 kB in all": GET
        + b"".join(b"X-%d: %s\r\n" % (n, b"a" * 850) for n in range(20))
        + b"\r\n",
        "a path of 17 kB": b"GET /" + b"a" * 17_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
        "a query of 17 kB": b"GET /health?" + b"a" * 17_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
        "an endless field": GET + b"X: " + b"a" * 40_000,
    }.items(),
    ids=lambda case: case[0],
)
def test_a_head_of_more_than_16_kib_or_100_fields_is_rejected(
    service: Service, head: tuple[str, bytes]
) -> None:
    with raw(service.port) as connection:
        response = connection.send(head[1]).response()
        assert response.status_code == 431
        assert response.headers["connection"] == "close"
        assert connection.is_closed()


def test_a_head_of_100_fields_and_almost_16_kib_is_accepted(service: Service) -> None:
    fields = b"".join(b"X-%02d: %s\r\n" % (n, b"a" * 155) for n in range(99))
    with raw(service.port) as connection:
        assert connection.send(GET + fields + b"\r\n").response().status_code == 200
        assert connection.send(GET + fields + b"\r\n").response().status_code == 200


def test_an_endless_head_or_trailer_is_cut_off_before_it_costs_memory(service: Service) -> None:
    process = psutil.Process(service.process.pid)
    before = peak = process.memory_info().rss
    for start in (GET + b"X: ", POST + CHUNKED + b"\r\n0\r\nX: ", POST + CHUNKED + b"\r\n1;a="):
        with raw(service.port) as connection:
            connection.send(start)
            with suppress(OSError):
                for _ in range(400):
                    connection.send(b"a" * 65_536)
                    peak = max(peak, process.memory_info().rss)
            assert connection.is_closed(ignore_data=True)
    assert peak - before < 12 * 2**20


def test_a_body_that_is_too_large_is_rejected_before_it_is_sent(service: Service) -> None:
    with raw(service.port) as connection:
        expecting = b"Expect: 100-continue\r\nContent-Length: 2000000\r\n\r\n"
        response = connection.send(POST + expecting).response()
        assert response.status_code == 413
        assert connection.is_closed()
    with raw(service.port) as connection:
        expecting = (
            b"Expect: 100-continue\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"
        )
        head = b"POST /auth/token HTTP/1.1\r\n" + HOST + expecting + b"\r\n"
        assert connection.send(head).response().status_code == 401


def test_a_client_that_writes_before_it_reads_gets_its_response(service: Service) -> None:
    for _ in range(10):
        with raw(service.port) as connection:
            head = POST + b"Content-Length: 4000000\r\n\r\n"
            assert connection.send(head, b"x" * 4_000_000).response().status_code == 413


def test_a_slow_request_is_a_request_timeout(service: Service) -> None:
    """A head may take 5 s and a body 10 s, each measured from its beginning."""
    with service.http() as client:
        token = client.post("/auth/guest").json()["access_token"]
    bearer = b"Authorization: Bearer " + token.encode() + b"\r\n"
    head = b"POST /orgs HTTP/1.1\r\n" + HOST + bearer + b"Content-Type: application/json\r\n"
    length = b"Content-Length: 100\r\n\r\n"
    outcomes: dict[str, tuple[int, float]] = {}

    def measure(name: str, start: bytes, drip: bytes) -> None:
        with raw(service.port) as connection:
            started = time.monotonic()
            response = _drip(connection.send(start), drip)
            outcomes[name] = (response.status_code, time.monotonic() - started)

    requests: list[tuple[str, bytes, bytes]] = [
        ("silence", b"", b""),
        ("half a line", b"GET /hea", b""),
        ("an endless field", GET + b"X: ", b"a"),
        ("endless line ends", b"", b"\r\n"),
        ("no body", head + length, b""),
        ("an endless body", head + length, b" "),
        ("an endless chunked body", head + CHUNKED + b"\r\n", b"1\r\n \r\n"),
    ]
    _run_concurrently([lambda r=request: measure(*r) for request in requests])
    assert {name: status for name, (status, _) in outcomes.items()} == {
        name: 408 for name, *_ in requests
    }
    for name, (_, seconds) in outcomes.items():
        expected = 10 if "body" in name else 5
        assert expected - 0.5 < seconds < expected + 1.5, name


def _drip(connection: RawConnection, drip: bytes) -> httpx.Response:
    """Send `drip` repeatedly until a response arrives, and return it."""
    deadline = time.monotonic() + 15
    while True:
        try:
            return connection.response(timeout=0.5)
        except TimeoutError:
            assert time.monotonic() < deadline
            connection.send(drip)


def _run_concurrently(tasks: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=task) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
