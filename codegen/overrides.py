"""The user's own files in overrides/: Helm values that win over generated ones, and templates."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from codegen.files import files_below
from openapi.contract import ContractError, Issue
from openapi.documents import NodePath, format_path

FOLDER = "overrides"
VALUES_FILE = re.compile(r"values(?:\.(?P<environment>[^.].*))?\.yaml")
MAX_DEPTH = 64  # levels of nesting, as in the contract


@dataclass(frozen=True)
class Overrides:
    """Helm values by environment (None: all environments), and Helm templates by relative path."""

    values: Mapping[str | None, Mapping[str, Any]] = field(default_factory=dict)
    templates: Mapping[str, str] = field(default_factory=dict)


def read(folder: Path) -> Overrides:
    """Return the overrides in `folder`, which need not exist.

    Raises `ContractError` with at most one issue for each file, and `OSError` for a folder that
    cannot be read.
    """
    values: dict[str | None, dict[str, Any]] = {}
    templates: dict[str, str] = {}
    issues: list[Issue] = []
    for file in files_below(folder):
        path = file.relative_to(folder).as_posix()
        try:
            if path.startswith("templates/"):
                templates[path.removeprefix("templates/")] = _text(file, path)
            elif file.parent == folder and fnmatchcase(path, "values*.yaml"):
                values[_environment(path)] = _values(file, path)
        except ContractError as error:
            issues += error.issues
    if issues:
        raise ContractError(issues)
    return Overrides(values, templates)


def values_file(environment: str | None) -> str:
    """Return the path of the values of one environment (None: of all environments)."""
    return f"{FOLDER}/values.{environment}.yaml" if environment else f"{FOLDER}/values.yaml"


def merged(below: Any, above: Any) -> Any:
    """Return `below` overlaid with `above` as Helm does: mappings merge, all else is replaced."""
    if not isinstance(below, Mapping) or not isinstance(above, Mapping):
        return above
    return {**below, **{key: merged(below.get(key), value) for key, value in above.items()}}


def _environment(path: str) -> str | None:
    match = VALUES_FILE.fullmatch(path)
    if not match:
        raise _error(path, "unknown file name. Use values.yaml or values.<environment>.yaml")
    return match["environment"]


def _values(file: Path, path: str) -> dict[str, Any]:
    """Return the values in a file, reduced to what JSON can represent."""
    text = _text(file, path)
    try:
        values = yaml.safe_load(text)
    except RecursionError as error:
        raise _error(path, "is nested too deeply") from error
    except (yaml.YAMLError, ValueError) as error:
        # ValueError: PyYAML does not check dates (2026-02-30) and the size of integers.
        line, reason = _locate(error)
        raise _error(path, f"is not valid YAML: {reason}", line=line) from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise _error(path, "must be a mapping")
    for node, reason in _unsupported(values):
        raise _error(path, reason, node=node)
    plain: dict[str, Any] = _as_json(values)
    return plain


def _locate(error: Exception) -> tuple[int, str]:
    """Return the line of a YAML error, 1 if unknown, and its reason."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        parts = filter(None, (error.context, error.problem))
        return error.problem_mark.line + 1, ", ".join(parts)
    return 1, str(error)


def _unsupported(value: Any, node: NodePath = ()) -> Iterator[tuple[NodePath, str]]:
    """Yield what JSON cannot represent: YAML sets, binaries, aliases to a parent."""
    if len(node) > MAX_DEPTH:
        yield node[:8], f"is nested more than {MAX_DEPTH} levels deep"
    elif isinstance(value, dict):
        for key, child in value.items():
            if isinstance(key, str | int | float | date | None):
                yield from _unsupported(child, (*node, _key(key)))
            else:
                yield node, f"has a key of type {type(key).__name__}. Use a string"
    elif isinstance(value, list):
        for i, child in enumerate(value):
            yield from _unsupported(child, (*node, i))
    elif not isinstance(value, str | int | float | date | None):
        yield node, f"has the unsupported type {type(value).__name__}. Use a string"


def _as_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {_key(key): _as_json(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_as_json(child) for child in value]
    return value.isoformat() if isinstance(value, date) else value


def _key(key: Any) -> str:
    """Return a key as a JSON object has it: YAML 1.1 reads `on` as true and `1` as a number."""
    if isinstance(key, date):
        return key.isoformat()
    return key if isinstance(key, str) else json.dumps(key)


def _text(file: Path, path: str) -> str:
    try:
        return file.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise _error(path, "is not UTF-8") from error
    except OSError as error:
        raise _error(path, f"cannot be read: {error.strerror}") from error


def _error(path: str, reason: str, *, line: int = 1, node: NodePath = ()) -> ContractError:
    return ContractError([Issue(f"{FOLDER}/{path}", line, format_path(node), reason)])
