"""A TCP proxy before PostgreSQL: a database that goes away, falls silent, and comes back."""

import contextlib
import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg


class Proxy:
    """Forwards to one address; `close` ends it for clients, `mute` only stops the bytes."""

    def __init__(self, url: str) -> None:
        parts = psycopg.conninfo.conninfo_to_dict(url)
        self._target = str(parts["host"]), int(parts["port"] or 5432)
        self._listener: socket.socket | None = None
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._lock = threading.Lock()
        self._muted = False
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = int(probe.getsockname()[1])

    def url(self, url: str) -> str:
        """The same database through the proxy."""
        parts = psycopg.conninfo.conninfo_to_dict(url)
        login = f"{parts['user']}:{parts['password']}"
        return f"postgresql://{login}@127.0.0.1:{self.port}/{parts['dbname']}"

    def open(self) -> None:
        """Take connections and forward their bytes."""
        self._muted = False
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self.port))
            threading.Thread(target=self._serve, args=(self._listener,), daemon=True).start()

    def mute(self) -> None:
        """Go on taking connections, and forward nothing."""
        self._muted = True

    def close(self) -> None:
        """Refuse and reset every connection."""
        with self._lock:
            listener, self._listener = self._listener, None
        if listener:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for end in tuple(self._pairs):
            self._drop(end)

    def _serve(self, listener: socket.socket) -> None:
        selector = selectors.DefaultSelector()
        selector.register(listener, selectors.EVENT_READ)
        while self._listener is listener:
            for key, _ in selector.select(0.05):
                if key.fileobj is listener:
                    self._accept(listener, selector)
                elif not self._muted:
                    self._forward(key.fileobj, selector)  # type: ignore[arg-type]
            if self._muted:
                threading.Event().wait(0.01)
        selector.close()

    def _accept(self, listener: socket.socket, selector: selectors.BaseSelector) -> None:
        with contextlib.suppress(OSError):
            client = listener.accept()[0]
            server = socket.create_connection(self._target)
            with self._lock:
                self._pairs |= {client: server, server: client}
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                selector.register(end, selectors.EVENT_READ)

    def _forward(self, source: socket.socket, selector: selectors.BaseSelector) -> None:
        target = self._pairs.get(source)
        with contextlib.suppress(OSError):
            data = source.recv(65536) if target else b""
            if data and target:
                target.sendall(data)
                return
        for end in (source, target):
            if end is not None:
                with contextlib.suppress(KeyError, ValueError):
                    selector.unregister(end)
        self._drop(source)

    def _drop(self, end: socket.socket) -> None:
        with self._lock:
            other = self._pairs.pop(end, None)
            if other is not None:
                self._pairs.pop(other, None)
        for one in (end, other):
            if one is not None:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()


@contextmanager
def proxy(url: str) -> Iterator[Proxy]:
    """Yield a proxy to the server of `url`, closed at first."""
    made = Proxy(url)
    try:
        yield made
    finally:
        made.close()
