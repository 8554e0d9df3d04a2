"""The service with a clock that a test controls: CLOCK_FILE holds seconds to add to the time."""

import os
import time
from pathlib import Path

from handlers.runtime import serve, settings, telemetry
from handlers.runtime.app import create_app
from openapi import contract


def clock() -> float:
    return time.time() + float(Path(os.environ["CLOCK_FILE"]).read_text() or 0)


if __name__ == "__main__":
    environment = settings.read()
    telemetry.configure(environment.log_format)
    parts = create_app(environment, contract.load(), clock)
    serve.run(environment, parts)
