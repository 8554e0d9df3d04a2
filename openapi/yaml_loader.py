"""Read a contract's YAML as JSON: its document, and the line of each node."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from openapi.documents import NodePath, format_path

YamlIssue = tuple[int, NodePath, str]  # line, path and reason
MAX_BYTES = 4 * 2**20
MAX_LEVELS = 64

_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
# What to do about PyYAML's most frequent errors.
_HINTS = {
    "did not find expected key": "; check the indentation of this line and of the line above",
    "did not find expected '-'": "; check the indentation of this line and of the line above",
    "mapping values are not allowed": "; quote text that contains `: `, or fix the indentation",
    "cannot start any token": "; indent with spaces, and quote text that begins like this",
}
_CONSTANTS = {"null": None, "true": True, "false": False, "": None}


@dataclass(frozen=True, order=True)
class Issue:
    """One thing that is wrong with a contract; `path` is dotted, as in `paths./orgs.get`."""

    file: str
    line: int
    path: str
    reason: str

    def __str__(self) -> str:
        text = f"{self.file}:{self.line}: {self.path}: {' '.join(self.reason.split())}"
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class ContractError(Exception):
    """A rejected contract, with all its issues in the order of their lines."""

    def __init__(self, issues: Iterable[Issue]) -> None:
        self.issues = tuple(sorted(set(issues)))
        super().__init__("\n".join(map(str, self.issues)))


class _SyntaxIssue(Exception):
    """A YAML document that cannot be read any further: line, path, reason."""


def read(file: Path, name: str) -> bytes:
    """Return the bytes of `file`. Raises `ContractError` that shows the file as `name`."""
    try:
        with file.open("rb") as stream:
            source = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ContractError([Issue(name, 1, "document", f"cannot be read: {reason}")]) from error
    if len(source) > MAX_BYTES:
        raise ContractError([Issue(name, 1, "document", "is larger than 4 MiB")])
    return source


def parse(source: bytes, name: str) -> tuple[dict[str, Any], dict[NodePath, int], list[YamlIssue]]:
    """Return the document, the line of each node, and what is valid YAML but cannot be JSON.

    Raises `ContractError` for a document that cannot be read to its end.

    It reads events instead of using PyYAML's composer, which recurses in C without a limit and
    resolves `no`, `1:30` and dates as YAML 1.1 does.
    """
    lines: dict[NodePath, int] = {(): 1}
    issues: list[YamlIssue] = []
    path: NodePath = ()
    try:
        text = source.decode()
        events = yaml.parse(text, Loader=yaml.CSafeLoader)
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                break
        else:
            raise _SyntaxIssue(1, (), "is empty")
        document = _value(next(events), (), events, lines, issues)
        next(events)
        if not isinstance(event := next(events), yaml.StreamEndEvent):
            line = event.start_mark.line + 1
            raise _SyntaxIssue(line, (), "a second YAML document begins here; remove it")
        if not isinstance(document, dict):
            raise _SyntaxIssue(1, (), "must be a mapping")
        return document, lines, issues
    except UnicodeDecodeError as error:
        line, reason = source[: error.start].count(b"\n") + 1, "is not valid UTF-8"
    except yaml.reader.ReaderError as error:
        line = source[: error.position].count(b"\n") + 1
        reason = f"is not valid YAML: {error.reason}"
    except yaml.MarkedYAMLError as error:
        line = min(error.problem_mark.line, source.count(b"\n")) + 1
        reason = f"is not valid YAML: {', '.join(filter(None, (error.context, error.problem)))}"
        reason += "".join(hint for problem, hint in _HINTS.items() if problem in reason)
    except _SyntaxIssue as error:
        line, path, reason = error.args
    raise ContractError([Issue(name, line, format_path(path), reason)])


def _value(
    event: Any,
    path: NodePath,
    events: Iterator[Any],
    lines: dict[NodePath, int],
    issues: list[YamlIssue],
) -> Any:
    """Return the value that begins with `event`; add its lines and issues to the arguments."""
    line = event.start_mark.line + 1
    lines.setdefault(path, line)
    if len(path) > MAX_LEVELS:
        raise _SyntaxIssue(line, path[:8], f"is nested deeper than {MAX_LEVELS} levels")
    if event.anchor is not None:
        issues.append((line, path, "anchors and aliases are not supported; use a $ref"))
    if isinstance(event, yaml.AliasEvent):
        return None
    if event.tag is not None:
        tag = event.tag.replace("tag:yaml.org,2002:", "!!")
        issues.append((line, path, f"YAML tags are not supported; remove `{tag}`"))
    if isinstance(event, yaml.ScalarEvent):
        return _scalar(event, path, issues)
    if isinstance(event, yaml.SequenceStartEvent):
        items: list[Any] = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            items.append(_value(event, (*path, len(items)), events, lines, issues))
        return items
    mapping: dict[str, Any] = {}
    while not isinstance(event := next(events), yaml.MappingEndEvent):
        line = event.start_mark.line + 1
        key = event.value if isinstance(event, yaml.ScalarEvent) else f"?{len(mapping)}"
        key_path = (*path, key)
        if not isinstance(event, yaml.ScalarEvent):
            _value(event, key_path, events, {}, [])
            issues.append((line, key_path, "key must be a string"))
        elif event.anchor or not isinstance(_scalar(event, key_path, []), str):
            issues.append((line, key_path, f"key must be a plain string; write '{key}'"))
        if key in mapping:
            issues.append(
                (line, key_path, f"duplicate key, first defined on line {lines[key_path]}")
            )
            _value(next(events), key_path, events, {}, [])
            continue
        lines[key_path] = line
        mapping[key] = _value(next(events), key_path, events, lines, issues)
    return mapping


def _scalar(event: Any, path: NodePath, issues: list[YamlIssue]) -> Any:
    """Return the JSON value of a scalar: a plain `no`, `0o17` or date is a string."""
    text: str = event.value
    if event.style:
        return text
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    line = event.start_mark.line + 1
    if _INTEGER.fullmatch(text):
        if len(text) > 20 or not -(2**63) <= int(text) < 2**63:
            issues.append((line, path, "integer does not fit in 64 bits"))
            return None
        return int(text)
    if _NUMBER.fullmatch(text) and math.isfinite(float(text)):
        return float(text)
    if _NUMBER.fullmatch(text) or _NOT_FINITE.fullmatch(text):
        issues.append((line, path, "number must be finite: JSON has no infinity and no NaN"))
    return text


def line_of(lines: Mapping[NodePath, int], path: NodePath) -> int:
    """Return the line of the node at `path`, or of its nearest ancestor that has one."""
    while path not in lines:
        path = path[:-1]
    return lines[path]


def display(file: Path) -> str:
    """Return the path of `file`, relative to the working directory if it is below it."""
    path = file.absolute()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
