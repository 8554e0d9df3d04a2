"""Ends a command that cannot continue."""

import sys
from typing import NoReturn


def exit_with(reason: str, code: int = 1) -> NoReturn:
    """Print the reason on standard error and exit."""
    print(reason, file=sys.stderr)
    raise SystemExit(code)
