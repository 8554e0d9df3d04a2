"""`make breaking`: fail when the contract breaks its clients or loosens security."""

import argparse
import sys
from pathlib import Path

from dev.breaking.gate import GateError, compare_revisions, read, read_revision, report
from openapi import contract
from openapi.contract import ContractError
from openapi.yaml_loader import display


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m dev.breaking")
    parser.add_argument("--base", required=True, help="the git revision to compare with")
    parser.add_argument("--contract", type=Path, default=contract.DEFAULT)
    given = parser.parse_args(arguments)
    try:
        name = display(given.contract)
        new = read(given.contract.read_bytes(), name)
        judgement = compare_revisions(read_revision(given.base, given.contract), new)
    except (GateError, ContractError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    print(report(judgement))
    return 1 if judgement.refused else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
