"""`python -m service COMMAND`: imports only the code of that command."""

import importlib
import sys

from service.exits import exit_with

COMMANDS = {
    "serve": ("service.serve", "serve"),
    "check": ("service.serve", "assemble"),
    "migrate": ("db.migrate", "main"),
}

if __name__ == "__main__":
    command = sys.argv[1] if len(sys.argv) == 2 else ""
    if command not in COMMANDS:
        exit_with(f"usage: python -m service {' | '.join(COMMANDS)}", 2)
    try:
        if command in ("serve", "check"):
            importlib.import_module("service.startup").load_and_validate()
        module, function = COMMANDS[command]
        getattr(importlib.import_module(module), function)()
    except KeyboardInterrupt:
        exit_with("interrupted", 130)
