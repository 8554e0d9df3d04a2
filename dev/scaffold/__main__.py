"""`make resource`: write one more resource into the contract, which is its owner's from then on.

    make resource NAME=tasks FIELDS="title:string(1..200) done:boolean=false due:date-time?"

NAME is the plural in snake_case: the table, the tag and the last part of the path. VERBS are its
operations: create list get update delete, unless said otherwise; replace too. SINGULAR helps where
English is irregular. Lines are only added, and only when the contract is without a fault then.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dev import lint
from dev.scaffold import insertion
from dev.scaffold.fields import GRAMMAR, ScaffoldError
from dev.scaffold.request import ResourceRequest, resource
from dev.scaffold.resource import Resource
from openapi import contract
from openapi.contract import Contract, ContractError
from openapi.yaml_loader import display


def write(file: Path, handlers: Path, asked: ResourceRequest) -> tuple[int, Resource]:
    """Add the resource to `file`; return how many lines that are.

    Raises `ScaffoldError` and `ContractError`; the file is as it was then.
    """
    file = file.resolve()
    declared = contract.load(file, handlers)
    modules = frozenset(p.stem for p in handlers.iterdir() if not p.name.startswith("__"))
    made = resource(declared, modules, asked)
    text = file.read_bytes().decode()
    new = insertion.add(text, declared, made)
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".") as folder:
        copy = Path(folder) / file.name
        copy.write_bytes(new.encode())
        shutil.copymode(file, copy)
        try:
            _demand_clean(copy, handlers, declared)
        except ContractError as error:
            name = f"{display(file)} with {made.name}"
            raise ContractError(replace(fault, file=name) for fault in error.issues) from None
        os.replace(copy, file)
    return new.count("\n") - text.count("\n"), made


def _demand_clean(copy: Path, handlers: Path, before: Contract) -> None:
    after = contract.load(copy, handlers)
    if not _holds(after.document, before.document):
        raise ScaffoldError("the contract is written in a way that lines cannot be added to")
    if found := lint.lint(after):
        raise ContractError(found)


def _holds(new: Any, old: Any) -> bool:
    """Whether everything of `old` is in `new`, lists at their beginning."""
    if isinstance(old, dict):
        return isinstance(new, dict) and all(k in new and _holds(new[k], old[k]) for k in old)
    if isinstance(old, list):
        return isinstance(new, list) and all(map(_holds, new, old)) and len(new) >= len(old)
    return bool(new == old)


def main(environment: Mapping[str, str] = os.environ) -> int:
    """Write the resource that the environment asks for; return 1, with a line, when refused."""
    given = [environment.get(key, "") for key in ("NAME", "FIELDS", "VERBS", "SINGULAR")]
    if not any(given[:2]):
        print(f"{__doc__}\n{GRAMMAR}", file=sys.stderr)
        return 1
    try:
        added, made = write(contract.DEFAULT, contract.DEFAULT_HANDLERS, ResourceRequest(*given))
    except (ScaffoldError, ContractError) as error:
        print(f"{error}\nNothing was written.", file=sys.stderr)
        return 1
    verbs = " ".join(made.verbs)
    print(f"{display(contract.DEFAULT)}: {added} lines for {made.name}: {verbs}")
    print("Next: make migration, make generate, make run")
    return 0


if __name__ == "__main__":
    sys.exit(main())
