"""`python -m dev.local run | watch`: run the service on this machine (`make run`, `make dev`)."""

import importlib
import sys

from service.exits import exit_with

COMMANDS = {"run": ("dev.local.stack", "run_service"), "watch": ("dev.local.reloader", "watch")}

if __name__ == "__main__":
    command = sys.argv[1] if len(sys.argv) == 2 else ""
    if command not in COMMANDS:
        exit_with(f"usage: python -m dev.local {' | '.join(COMMANDS)}", 2)
    module, function = COMMANDS[command]
    try:
        getattr(importlib.import_module(module), function)()
    except KeyboardInterrupt:
        exit_with("interrupted", 130)
