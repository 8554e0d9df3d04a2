"""Bytes on a connection: what no well-behaved client sends, and what every client relies on."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress

import httpx
import psutil
import pytest

from tests.platform.fix_raw import Raw, raw
from tests.platform.fix_service import Service

HOST = b"Host: service\r\n"
GET = b"GET /health HTTP/1.1\r\n" + HOST
POST = b"POST /auth/guest HTTP/1.1\r\n" + HOST
CHUNKED = b"Transfer-Encoding: chunked\r\n"
END = b"0\r\n\r\n"

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
    "a length and a coding": POST + b"Content-Length: 5\r\n" + CHUNKED + b"\r\n" + END,
    "a coding and a length": POST + CHUNKED + b"Content-Length: 5\r\n\r\n" + END,
    "chunked twice": POST + CHUNKED + CHUNKED + b"\r\n" + END,
    "chunked and another coding": POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n" + END,
    "another coding and chunked": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + END,
    "a coding that is none": POST + b"Transfer-Encoding: xchunked\r\n\r\n" + END,
    "a coding behind a control": POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n" + END,
    "a coding before a space": POST + b"Transfer-Encoding : chunked\r\n\r\n" + END,
    "a coding in HTTP/1.0": b"POST /auth/guest HTTP/1.0\r\n" + HOST + CHUNKED + b"\r\n" + END,
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
    "a chunk longer than it says": POST + CHUNKED + b"\r\n1\r\nabc\r\n" + END,
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
def test_what_could_be_read_in_two_ways_is_refused(service: Service, data: bytes) -> None:
    with raw(service.port) as connection:
        response = connection.send(data).answer()
        assert response.status_code == 400
        assert response.json()["errors"][0]["in"] == "header"


def test_one_request_is_one_answer_however_it_is_cut(service: Service) -> None:
    request = POST + CHUNKED + b"\r\n1;a=b\r\nx\r\n" + END
    with raw(service.port) as connection:
        for n in range(len(request)):
            connection.send(request[n : n + 1])
        assert connection.answer().status_code == 201
        assert connection.send(GET + b"\r\n").answer().status_code == 200


def test_a_connection_is_kept_and_pipelined_requests_are_answered_in_order(
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
            statuses = [connection.answer(m).status_code for m in ("HEAD", "POST", "GET", "GET")]
            assert statuses == [200, 201, 401, 200]


def test_of_too_many_pipelined_requests_the_first_are_answered(service: Service) -> None:
    with raw(service.port) as connection:
        connection.send((GET + b"\r\n") * 400)
        answers = [connection.answer() for _ in range(1 + 32)]
        assert {answer.status_code for answer in answers} == {200}
        assert [answer.headers.get("connection") for answer in answers[-2:]] == [None, "close"]
        assert connection.ends()


def test_a_broken_request_behind_a_good_one_does_not_take_its_answer(service: Service) -> None:
    with raw(service.port) as connection:
        connection.send(POST + b"\r\n" + b"nonsense\r\n\r\n" + GET + b"\r\n")
        assert connection.answer().status_code == 201
        assert connection.ends()


def test_trailers_are_not_header_fields(service: Service) -> None:
    trailers = b"Host: other\r\nX-Request-Id: trailer\r\nX-Forwarded-For: 192.0.2.1\r\n"
    with raw(service.port) as connection:
        response = connection.send(POST + CHUNKED + b"\r\n0\r\n" + trailers + b"\r\n").answer()
        assert response.status_code == 201
        assert response.headers["x-request-id"] != "trailer"


def test_an_upgrade_is_declined_and_ends_the_connection(service: Service) -> None:
    for protocol in (b"h2c", b"websocket"):
        upgrade = b"Connection: Upgrade\r\nUpgrade: " + protocol + b"\r\n\r\n"
        with raw(service.port) as connection:
            connection.send(GET + upgrade + GET + b"\r\n")
            response = connection.answer()
            assert response.status_code == 200
            assert response.headers["connection"] == "close"
            assert connection.ends()


def test_the_host_of_an_absolute_target_changes_nothing(service: Service) -> None:
    with raw(service.port) as connection:
        target = b"GET http://elsewhere.example/health/ HTTP/1.1\r\n" + HOST + b"\r\n"
        response = connection.send(target).answer()
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
        "a field without an end": GET + b"X: " + b"a" * 40_000,
    }.items(),
    ids=lambda case: case[0],
)
def test_a_head_above_16_kib_or_100_fields_is_refused(
    service: Service, head: tuple[str, bytes]
) -> None:
    with raw(service.port) as connection:
        response = connection.send(head[1]).answer()
        assert response.status_code == 431
        assert response.headers["connection"] == "close"
        assert connection.ends()


def test_a_head_of_100_fields_and_almost_16_kib_is_taken(service: Service) -> None:
    fields = b"".join(b"X-%02d: %s\r\n" % (n, b"a" * 155) for n in range(99))
    with raw(service.port) as connection:
        assert connection.send(GET + fields + b"\r\n").answer().status_code == 200
        assert connection.send(GET + fields + b"\r\n").answer().status_code == 200


def test_what_has_no_end_is_cut_off_before_it_costs_memory(service: Service) -> None:
    process = psutil.Process(service.process.pid)
    before = peak = process.memory_info().rss
    for start in (GET + b"X: ", POST + CHUNKED + b"\r\n0\r\nX: ", POST + CHUNKED + b"\r\n1;a="):
        with raw(service.port) as connection:
            connection.send(start)
            with suppress(OSError):
                for _ in range(400):
                    connection.send(b"a" * 65_536)
                    peak = max(peak, process.memory_info().rss)
            assert connection.ends(but_for_answers=True)
    assert peak - before < 12 * 2**20


def test_a_body_too_large_is_refused_before_it_is_sent(service: Service) -> None:
    with raw(service.port) as connection:
        expecting = b"Expect: 100-continue\r\nContent-Length: 2000000\r\n\r\n"
        response = connection.send(POST + expecting).answer()
        assert response.status_code == 413
        assert connection.ends()
    with raw(service.port) as connection:
        expecting = (
            b"Expect: 100-continue\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"
        )
        head = b"POST /auth/token HTTP/1.1\r\n" + HOST + expecting + b"\r\n"
        assert connection.send(head).answer().status_code == 401


def test_a_client_that_only_writes_still_gets_its_answer(service: Service) -> None:
    for _ in range(10):
        with raw(service.port) as connection:
            head = POST + b"Content-Length: 4000000\r\n\r\n"
            assert connection.send(head, b"x" * 4_000_000).answer().status_code == 413


def test_clients_that_are_too_slow_are_told_so(service: Service) -> None:
    """A head has 5 s and a body 10 s, both from their beginning."""
    with service.http() as client:
        token = client.post("/auth/guest").json()["access_token"]
    bearer = b"Authorization: Bearer " + token.encode() + b"\r\n"
    head = b"POST /orgs HTTP/1.1\r\n" + HOST + bearer + b"Content-Type: application/json\r\n"
    length = b"Content-Length: 100\r\n\r\n"
    took: dict[str, tuple[int, float]] = {}

    def measure(name: str, start: bytes, drip: bytes) -> None:
        with raw(service.port) as connection:
            begun = time.monotonic()
            response = _dripping(connection.send(start), drip)
            took[name] = (response.status_code, time.monotonic() - begun)

    jobs: list[tuple[str, bytes, bytes]] = [
        ("silence", b"", b""),
        ("half a line", b"GET /hea", b""),
        ("a field for ever", GET + b"X: ", b"a"),
        ("line ends", b"", b"\r\n"),
        ("no body", head + length, b""),
        ("a body for ever", head + length, b" "),
        ("a chunked body for ever", head + CHUNKED + b"\r\n", b"1\r\n \r\n"),
    ]
    _together([lambda job=job: measure(*job) for job in jobs])
    assert {name: status for name, (status, _) in took.items()} == {j[0]: 408 for j in jobs}
    for name, (_, seconds) in took.items():
        expected = 10 if "body" in name else 5
        assert expected - 0.5 < seconds < expected + 1.5, name


def _dripping(connection: Raw, drip: bytes) -> httpx.Response:
    """Send `drip` again and again until an answer comes."""
    deadline = time.monotonic() + 15
    while True:
        try:
            return connection.answer(patience=0.5)
        except TimeoutError:
            assert time.monotonic() < deadline
            connection.send(drip)


def _together(tasks: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=task) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
