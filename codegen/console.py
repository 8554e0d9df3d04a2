"""Errors and output of the commands: a user's mistake is one line per issue, not a traceback."""

import os
import sys
from collections.abc import Callable

from openapi.contract import ContractError

EXIT_ERROR = 2  # as argparse ends for unknown options


def run(command: Callable[[], int]) -> int:
    """Return the exit code of `command`; print a contract or file system error and return 2."""
    try:
        return command()
    except ContractError as error:
        message = str(error)
    except OSError as error:
        # Of two paths (os.replace) the second is the user's.
        path = error.filename2 or error.filename
        message = f"{path}: {error.strerror}" if path else str(error)
    sys.stderr.write(f"{message}\n")
    return EXIT_ERROR


def write_stdout(text: str) -> None:
    """Write `text` and flush. A reader that closes the pipe early, such as `head`, is no error."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        # Python flushes stdout once more at exit: docs.python.org, signal, "Note on SIGPIPE".
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            raise
