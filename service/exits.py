"""How a command ends that cannot go on."""

import sys
from typing import NoReturn


def exit_with(reason: str, code: int = 1) -> NoReturn:
    """Say why, on standard error, and exit."""
    print(reason, file=sys.stderr)
    raise SystemExit(code)
