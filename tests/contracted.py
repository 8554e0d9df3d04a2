"""The service with the contract of CONTRACT; handlers in the folder HANDLERS come before ours."""

import os
from pathlib import Path

import handlers
from handlers.runtime import serve, settings, telemetry
from handlers.runtime.app import create_app
from openapi import contract

if __name__ == "__main__":
    environment = settings.read()
    telemetry.configure(environment.log_format)
    if folder := os.environ.get("HANDLERS"):
        handlers.__path__.insert(0, folder)
    parts = create_app(environment, contract.load(Path(os.environ["CONTRACT"])))
    serve.run(environment, parts)
