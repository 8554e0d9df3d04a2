"""One connection to the service, and answers byte for byte as they came."""

import time
from http.client import HTTPConnection, HTTPException

from evidence.certificate.results import Request, Response

TIMEOUT = 20.0


class Client:
    """Owns one connection, which is made anew when the service closes it."""

    def __init__(self, host: str, port: int) -> None:
        self._connection = HTTPConnection(host, port, timeout=TIMEOUT)

    def close(self) -> None:
        self._connection.close()

    def send(self, request: Request) -> Response:
        """Send a request and return its answer; 0 is the status of none."""
        for again in (False, True):
            try:
                return self._send(request)
            except (HTTPException, OSError) as error:
                self._connection.close()
                if again:
                    return Response(0, (), f"no answer: {type(error).__name__}".encode(), 0.0)
        raise AssertionError

    def _send(self, request: Request) -> Response:
        connection = self._connection
        started = time.perf_counter()
        connection.putrequest(request.method, request.target, skip_accept_encoding=True)
        for name, value in request.headers:
            connection.putheader(name, value)
        if request.body is not None:
            connection.putheader("Content-Type", "application/json")
            connection.putheader("Content-Length", str(len(request.body)))
        connection.endheaders(request.body)
        response = connection.getresponse()
        body = response.read()
        seconds = time.perf_counter() - started
        headers = tuple((name.lower(), value) for name, value in response.getheaders())
        return Response(response.status, headers, body, seconds)
