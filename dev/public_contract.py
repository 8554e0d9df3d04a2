"""`python -m dev.public_contract`: print the contract as the service publishes it to clients."""

import json
import sys

from openapi import contract
from openapi.contract import ContractError


def main() -> int:
    """Print the contract as JSON and return 0, or print its issues and return 1."""
    try:
        document = contract.public_document(contract.load())
    except ContractError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(document, indent=2, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
