"""The commands of the service; each is imported only when it is asked for."""

import importlib
import sys

from handlers.runtime.exits import stop

COMMANDS = {
    "serve": "handlers.runtime.serve",
    "check": "handlers.runtime.serve",
    "migrate": "handlers.runtime.migrate",
    "local": "handlers.runtime.local",
    "dev": "handlers.runtime.dev",
}

if __name__ == "__main__":
    command = sys.argv[1] if len(sys.argv) == 2 else ""
    if command not in COMMANDS:
        stop(f"usage: python -m handlers.runtime {' | '.join(COMMANDS)}", 2)
    try:
        if command in ("serve", "check"):
            importlib.import_module("handlers.runtime.preflight").accepted()
        getattr(importlib.import_module(COMMANDS[command]), command)()
    except KeyboardInterrupt:
        stop("interrupted", 130)
