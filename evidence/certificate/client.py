"""One HTTP connection to the service; responses are kept byte for byte."""

import time
from http.client import HTTPConnection, HTTPException

from evidence.certificate.results import Request, Response

TIMEOUT_SECONDS = 20.0
NO_RESPONSE = 0  # the status when the connection failed


class Client:
    """Owns one connection and reopens it when the service closes it."""

    def __init__(self, host: str, port: int) -> None:
        self._connection = HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)

    def close(self) -> None:
        self._connection.close()

    def send(self, request: Request) -> Response:
        """Send a request and return its response, of status `NO_RESPONSE` after two failures."""
        try:
            return self._send(request)
        except (HTTPException, OSError):  # such as a keep-alive connection that was closed
            self._connection.close()
        try:
            return self._send(request)
        except (HTTPException, OSError) as error:
            self._connection.close()
            return Response(NO_RESPONSE, (), f"no response: {type(error).__name__}".encode(), 0.0)

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
