"""The service with the contract of CONTRACT; handlers in the folder HANDLERS come before ours."""

import os
from pathlib import Path

import handlers
from openapi import contract
from service import serve, settings
from service.app import create_app
from service.telemetry import logs

if __name__ == "__main__":
    environment = settings.load()
    logs.configure(environment.log_format)
    if folder := os.environ.get("HANDLERS"):
        handlers.__path__.insert(0, folder)
    parts = create_app(environment, contract.load(Path(os.environ["CONTRACT"])))
    serve.run(environment, parts)
