"""`make breaking`: compare the contract with that of a git revision.

Exit status: 0 if the contract is accepted, 1 if it is rejected, 2 if a contract cannot be read.
"""

import argparse
import sys
from pathlib import Path

from dev.breaking.gate import (
    GateError,
    compare_revisions,
    load_revision,
    parse_revision,
    report,
)
from openapi import contract, yaml_loader
from openapi.contract import ContractError
from openapi.yaml_loader import display


def main(arguments: list[str]) -> int:
    """Print the report; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m dev.breaking",
        description="List what changed in the contract since a git revision, and reject changes"
        " that break clients or loosen security unless they are acknowledged.",
        epilog="Exit status: 0 accepted, 1 rejected, 2 a contract cannot be read.",
    )
    parser.add_argument("--base", required=True, help="git revision to compare with, such as main")
    parser.add_argument(
        "--contract",
        type=Path,
        default=contract.DEFAULT,
        metavar="FILE",
        help="the new contract; default: openapi/openapi.yaml",
    )
    options = parser.parse_args(arguments)
    name = display(options.contract)
    try:
        new = parse_revision(yaml_loader.read(options.contract, name), name)
        verdict = compare_revisions(load_revision(options.base, options.contract), new)
    except (GateError, ContractError) as error:
        print(error, file=sys.stderr)
        return 2
    print(report(verdict))
    return 1 if verdict.rejected else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
