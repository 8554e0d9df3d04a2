"""`make resource`: add a resource to the contract, as plain YAML to edit from then on."""

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
from dev.scaffold.field_types import ScaffoldError
from dev.scaffold.request import ResourceRequest, build_resource
from dev.scaffold.resource import Resource
from openapi import contract
from openapi.contract import Contract, ContractError
from openapi.yaml_loader import display

HELP = """\
Add a resource to the contract: its schemas, its table, and operations that need no code.

    make resource NAME=tasks FIELDS="title:string(1..200) done:boolean=false due:date-time?"

Arguments
  NAME      Plural in snake_case: the name of the table and the tag, and part of the path.
  FIELDS    Fields, keys and indexes, separated by spaces.
  VERBS     Operations, by default "create list get update delete". Also available: replace.
  SINGULAR  Singular of NAME; required unless NAME is a regular plural:
            NAME=people SINGULAR=person

Fields: name:type, followed by ? if the field may be absent or null, or by =default
  title:string(1..200)       One line of 1 to 200 characters. string(200) and string mean the same.
  notes:text?                Several lines, up to 10,000 characters. text(50000) allows more.
  hours:number(0..24)        A number. Without a range: as far as JSON readers are exact.
  count:integer(1..10)       An integer, likewise.
  done:boolean=false         A flag. Strings, numbers, booleans and enums can have a default.
  due:date-time?             A time (RFC 3339). Likewise: date, uuid, email.
  state:enum(open|closed)    One of these values.
  labels:array(string(1..40),20)
                             Up to 20 items of a type. Without a number: up to 100.
  project_id:ref(projects)   The id of a row of that table. Deleting that row deletes this one.
                             ref(projects,restrict) rejects the deletion instead.

Keys and indexes
  unique(project_id,title)   No two rows of an organization may share these values.
  index(due)                 Lists can be filtered by ?due=…. References are indexed anyway.

The command only inserts lines, and writes nothing unless the result is a valid contract.
Next: make migration, make generate, make run."""


def write(file: Path, handlers: Path, request: ResourceRequest) -> tuple[int, Resource]:
    """Add the resource to `file`; return the number of new lines, and the resource.

    Raises `ScaffoldError` and `ContractError`, and leaves the file unchanged then.
    """
    file = file.resolve()
    loaded = contract.load(file, handlers)
    modules = frozenset(p.stem for p in handlers.iterdir() if not p.name.startswith("__"))
    resource = build_resource(loaded, modules, request)
    text = file.read_bytes().decode()
    new_text = insertion.insert(text, loaded, resource)
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".") as directory:
        copy = Path(directory) / file.name
        copy.write_bytes(new_text.encode())
        shutil.copymode(file, copy)
        try:
            _check_result(copy, handlers, loaded)
        except ContractError as error:
            name = f"{display(file)} with {resource.name}"
            raise ContractError(replace(issue, file=name) for issue in error.issues) from None
        os.replace(copy, file)
    return new_text.count("\n") - text.count("\n"), resource


def _check_result(copy: Path, handlers: Path, before: Contract) -> None:
    after = contract.load(copy, handlers)
    if not _contains(after.document, before.document):
        raise ScaffoldError("the layout of the contract does not allow to insert lines")
    if issues := lint.lint(after):
        raise ContractError(issues)


def _contains(new: Any, old: Any) -> bool:
    """Return whether `new` has all of `old`, in which lists may only grow at their end."""
    if isinstance(old, dict):
        return isinstance(new, dict) and all(
            key in new and _contains(new[key], child) for key, child in old.items()
        )
    if isinstance(old, list):
        return isinstance(new, list) and len(new) >= len(old) and all(map(_contains, new, old))
    return bool(new == old)


def main(environment: Mapping[str, str] = os.environ) -> int:
    """Add the resource that the environment describes, or print the help if it names none.

    Return 0, or 1 after printing one line per issue.
    """
    name, fields, verbs, singular = (
        environment.get(key, "") for key in ("NAME", "FIELDS", "VERBS", "SINGULAR")
    )
    if not name and not fields:
        print(HELP)
        return 0
    request = ResourceRequest(name, fields, verbs, singular)
    try:
        added, resource = write(contract.DEFAULT, contract.DEFAULT_HANDLERS, request)
    except (ScaffoldError, ContractError) as error:
        print(f"{error}\nNothing was written.", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"cannot write {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    file = display(contract.DEFAULT)
    print(f"{file}: added {added} lines for {resource.name} ({', '.join(resource.verbs)})")
    print("Next: make migration, make generate, make run")
    return 0


if __name__ == "__main__":
    sys.exit(main())
