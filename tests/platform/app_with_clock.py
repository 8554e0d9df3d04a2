"""Serves with a clock that a test controls: CLOCK_FILE contains seconds to add to the time."""

import os
import time
from pathlib import Path

from openapi import contract
from service import serve, settings
from service.app import create_app
from service.telemetry import logs


def clock() -> float:
    return time.time() + float(Path(os.environ["CLOCK_FILE"]).read_text() or 0)


if __name__ == "__main__":
    loaded_settings = settings.load()
    logs.configure(loaded_settings.log_format)
    app = create_app(loaded_settings, contract.load(), clock)
    serve.run(loaded_settings, app)
