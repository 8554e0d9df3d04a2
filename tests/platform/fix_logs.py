"""Reads the log of a running service."""

import json
from typing import Any

from tests.platform.fix_service import Service, until


def log_events(service: Service) -> list[dict[str, Any]]:
    """Return the lines of the JSON log."""
    return [json.loads(line) for line in service.log_lines()]


def wait_for_event(service: Service, event: str, **fields: Any) -> dict[str, Any]:
    """Return the first log line with this event and these fields; fail unless it is logged."""
    expected = {"event": event, **fields}

    def find() -> dict[str, Any] | None:
        return next((x for x in log_events(service) if expected.items() <= x.items()), None)

    line: dict[str, Any] = until(find)
    return line


def count_events(service: Service, event: str) -> int:
    return sum(line["event"] == event for line in log_events(service))
