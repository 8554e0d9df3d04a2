"""Where the service is in its life."""

from dataclasses import dataclass


@dataclass
class Status:
    """`stopping` from the first signal on; `refusal` says why the service must not serve."""

    stopping: bool = False
    refusal: str | None = None

    def refuse(self, reason: str) -> None:
        """Stop the service, which then exits with an error."""
        self.refusal = self.refusal or reason
