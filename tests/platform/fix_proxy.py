"""A TCP proxy in front of PostgreSQL: simulates a database that is down or does not respond."""

import contextlib
import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg


class Proxy:
    """Forwards to one server. `close` cuts clients off, `stall` only stops forwarding."""

    def __init__(self, url: str) -> None:
        parts = psycopg.conninfo.conninfo_to_dict(url)
        self._target = str(parts["host"]), int(parts["port"] or 5432)
        self._listener: socket.socket | None = None
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._lock = threading.Lock()
        self._is_stalled = False
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = int(probe.getsockname()[1])

    def url(self, url: str) -> str:
        """Return the URL of the same database through the proxy."""
        parts = psycopg.conninfo.conninfo_to_dict(url)
        login = f"{parts['user']}:{parts['password']}"
        return f"postgresql://{login}@127.0.0.1:{self.port}/{parts['dbname']}"

    def open(self) -> None:
        """Accept connections and forward bytes."""
        self._is_stalled = False
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self.port))
            threading.Thread(target=self._serve, args=(self._listener,), daemon=True).start()

    def stall(self) -> None:
        """Keep accepting connections, but forward nothing."""
        self._is_stalled = True

    def close(self) -> None:
        """End every connection and accept no new one."""
        with self._lock:
            listener, self._listener = self._listener, None
        if listener:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for side in tuple(self._pairs):
            self._drop(side)

    def _serve(self, listener: socket.socket) -> None:
        selector = selectors.DefaultSelector()
        selector.register(listener, selectors.EVENT_READ)
        while self._listener is listener:
            for key, _ in selector.select(0.05):
                if key.fileobj is listener:
                    self._accept(listener, selector)
                elif not self._is_stalled:
                    self._forward(key.fileobj, selector)  # type: ignore[arg-type]
            if self._is_stalled:
                threading.Event().wait(0.01)
        selector.close()

    def _accept(self, listener: socket.socket, selector: selectors.BaseSelector) -> None:
        with contextlib.suppress(OSError):
            client = listener.accept()[0]
            server = socket.create_connection(self._target)
            with self._lock:
                self._pairs |= {client: server, server: client}
            for side in (client, server):
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                selector.register(side, selectors.EVENT_READ)

    def _forward(self, source: socket.socket, selector: selectors.BaseSelector) -> None:
        target = self._pairs.get(source)
        with contextlib.suppress(OSError):
            data = source.recv(65536) if target else b""
            if data and target:
                target.sendall(data)
                return
        for side in (source, target):
            if side is not None:
                with contextlib.suppress(KeyError, ValueError):
                    selector.unregister(side)
        self._drop(source)

    def _drop(self, side: socket.socket) -> None:
        with self._lock:
            other = self._pairs.pop(side, None)
            if other is not None:
                self._pairs.pop(other, None)
        for connection in (side, other):
            if connection is not None:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
                connection.close()


@contextmanager
def proxy(url: str) -> Iterator[Proxy]:
    """Yield a proxy to the server of `url`; it is closed until it is opened."""
    created = Proxy(url)
    try:
        yield created
    finally:
        created.close()
