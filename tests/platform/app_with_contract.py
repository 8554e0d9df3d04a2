"""Serves the contract in CONTRACT; handlers in the directory HANDLERS, if set, come first."""

import os
from pathlib import Path

import handlers
from openapi import contract
from service import serve, settings
from service.app import create_app
from service.telemetry import logs

if __name__ == "__main__":
    loaded_settings = settings.load()
    logs.configure(loaded_settings.log_format)
    if folder := os.environ.get("HANDLERS"):
        handlers.__path__.insert(0, folder)
    app = create_app(loaded_settings, contract.load(Path(os.environ["CONTRACT"])))
    serve.run(loaded_settings, app)
