"""A raw connection to the service, for bytes that no proper HTTP client would send."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from tests.platform.fix_problems import check_response

TIMEOUT_SECONDS = 10.0


class RawConnection:
    """One connection. Every response on it is read completely and checked like any other."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_SECONDS)
        self._received = b""

    def send(self, *chunks: bytes) -> "RawConnection":
        for chunk in chunks:
            self._socket.sendall(chunk)
        return self

    def response(self, method: str = "GET", timeout: float = TIMEOUT_SECONDS) -> httpx.Response:
        """Return the next response; the request's `method` says whether it has a body.

        Raises `TimeoutError`, and `AssertionError` when the connection ends first.
        """
        self._socket.settimeout(timeout)
        while b"\r\n\r\n" not in self._received:
            self._receive()
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        status, *lines = head.split(b"\r\n")
        headers = [(n.strip(), v.strip()) for n, _, v in (line.partition(b":") for line in lines)]
        length = next((int(v) for n, v in headers if n.lower() == b"content-length"), 0)
        length = 0 if method == "HEAD" else length
        while len(self._received) < length:
            self._receive()
        body, self._received = self._received[:length], self._received[length:]
        response = httpx.Response(
            int(status.split()[1]),
            headers=headers,
            content=body,
            request=httpx.Request(method, "http://service/"),
        )
        check_response(response)
        return response

    def is_closed(self, timeout: float = TIMEOUT_SECONDS, *, ignore_data: bool = False) -> bool:
        """Return whether the service closes the connection in time.

        Bytes that it sends before that count as a failure unless `ignore_data`.
        """
        self._socket.settimeout(timeout)
        try:
            while chunk := self._socket.recv(65536):
                self._received += chunk
        except TimeoutError:
            return False
        except ConnectionResetError:
            pass
        return ignore_data or not self._received

    def close(self) -> None:
        self._socket.close()

    def _receive(self) -> None:
        chunk = self._socket.recv(65536)
        assert chunk, f"the connection ended after {self._received!r}"
        self._received += chunk


@contextmanager
def raw(port: int) -> Iterator[RawConnection]:
    connection = RawConnection(port)
    try:
        yield connection
    finally:
        connection.close()
