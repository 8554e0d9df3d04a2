"""Bytes to the service and back, where a proper HTTP client would not send them."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from tests.platform.fix_problems import on_response

PATIENCE = 10.0


class Raw:
    """One connection. Every answer on it is read whole and checked as that of any client is."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self._pending = b""

    def send(self, *data: bytes) -> "Raw":
        for piece in data:
            self._socket.sendall(piece)
        return self

    def answer(self, method: str = "GET", patience: float = PATIENCE) -> httpx.Response:
        """Return the next answer; `method` says whether it has a body."""
        self._socket.settimeout(patience)
        while b"\r\n\r\n" not in self._pending:
            self._receive()
        head, _, self._pending = self._pending.partition(b"\r\n\r\n")
        status, *lines = head.split(b"\r\n")
        headers = [(n.strip(), v.strip()) for n, _, v in (line.partition(b":") for line in lines)]
        length = next((int(v) for n, v in headers if n.lower() == b"content-length"), 0)
        length = 0 if method == "HEAD" else length
        while len(self._pending) < length:
            self._receive()
        body, self._pending = self._pending[:length], self._pending[length:]
        response = httpx.Response(
            int(status.split()[1]),
            headers=headers,
            content=body,
            request=httpx.Request(method, "http://service/"),
        )
        on_response(response)
        return response

    def ends(self, patience: float = PATIENCE, *, but_for_answers: bool = False) -> bool:
        """Tell whether the service closes the connection, without another byte."""
        self._socket.settimeout(patience)
        try:
            while chunk := self._socket.recv(65536):
                self._pending += chunk
        except TimeoutError:
            return False
        except ConnectionResetError:
            pass
        return but_for_answers or not self._pending

    def close(self) -> None:
        self._socket.close()

    def _receive(self) -> None:
        chunk = self._socket.recv(65536)
        assert chunk, f"the connection ended after {self._pending!r}"
        self._pending += chunk


@contextmanager
def raw(port: int) -> Iterator[Raw]:
    connection = Raw(port)
    try:
        yield connection
    finally:
        connection.close()
