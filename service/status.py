"""The lifecycle of the service: serving, stopping, or refusing to serve."""

from dataclasses import dataclass


@dataclass
class Status:
    """`stopping` is set by the first signal; `fatal_error` says why the service must not serve."""

    stopping: bool = False
    fatal_error: str | None = None

    def fail(self, reason: str) -> None:
        """Record why the service must not serve; the server then stops and exits with an error.

        The first reason is kept.
        """
        self.fatal_error = self.fatal_error or reason
