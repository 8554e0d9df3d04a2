"""A contract's text, read into what JSON has: the document, and the line of each place in it."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from openapi.documents import NodePath, format_path

YamlIssue = tuple[int, NodePath, str]  # line, place and reason of what YAML has and JSON has not
MAX_BYTES = 4 * 2**20
MAX_LEVELS = 64

_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_NO_NUMBER = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
# What people do that makes YAML's own reasons.
_HINTS = {
    "did not find expected": ": is this line, or the one above, indented as its neighbours?",
    "mapping values are not allowed": ": quote text with `: ` in it, or indent as the neighbours",
    "cannot start any token": ": indent with spaces, and quote text that begins so",
}
_WORDS = {"null": None, "true": True, "false": False, "": None}


@dataclass(frozen=True, order=True)
class Issue:
    """One reason to refuse a contract; `where` is dotted, as in `paths./orgs.get`."""

    file: str
    line: int
    where: str
    reason: str

    def __str__(self) -> str:
        text = f"{self.file}:{self.line}: {self.where}: {' '.join(self.reason.split())}"
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class ContractError(Exception):
    """A contract that is refused: all its faults, by line."""

    def __init__(self, faults: Iterable[Issue]) -> None:
        self.faults = tuple(sorted(set(faults)))
        super().__init__("\n".join(map(str, self.faults)))


def read(file: Path, name: str) -> bytes:
    """Return the bytes of `file`. Raises `ContractError` under `name`."""
    try:
        with file.open("rb") as stream:
            source = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ContractError([Issue(name, 1, "document", f"cannot be read: {reason}")]) from error
    if len(source) > MAX_BYTES:
        raise ContractError([Issue(name, 1, "document", "is over 4 MiB")])
    return source


class _Unreadable(Exception):
    """What stops the reading of a YAML document: line, place, reason."""


def parse(source: bytes, name: str) -> tuple[dict[str, Any], dict[NodePath, int], list[YamlIssue]]:
    """Return the document, the line of each place, and what JSON does not have.

    Raises `ContractError` for what stops the reading.
    From events, and not by PyYAML's composer: that recurses in C without a limit, and resolves
    `no`, `1:30` and dates as YAML 1.1 does.
    """
    lines: dict[NodePath, int] = {(): 1}
    flaws: list[YamlIssue] = []
    place: NodePath = ()
    try:
        text = source.decode()
        events = yaml.parse(text, Loader=yaml.CSafeLoader)
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                break
        else:
            raise _Unreadable(1, (), "is empty")
        document = _value(next(events), (), events, lines, flaws)
        next(events)
        if not isinstance(extra := next(events), yaml.StreamEndEvent):
            raise _Unreadable(extra.start_mark.line + 1, (), "is followed by a second document")
        if not isinstance(document, dict):
            raise _Unreadable(1, (), "must be a mapping")
        return document, lines, flaws
    except UnicodeDecodeError as error:
        line, reason = source[: error.start].count(b"\n") + 1, "is not UTF-8"
    except yaml.reader.ReaderError as error:
        head = source[: error.position]
        line, reason = head.count(b"\n") + 1, f"holds a character that YAML has not: {error.reason}"
    except yaml.MarkedYAMLError as error:
        line = min(error.problem_mark.line, source.count(b"\n")) + 1
        reason = f"not YAML: {', '.join(filter(None, (error.context, error.problem)))}"
        reason += "".join(hint for words, hint in _HINTS.items() if words in reason)
    except _Unreadable as error:
        line, place, reason = error.args
    raise ContractError([Issue(name, line, format_path(place), reason)])


def _value(
    event: Any,
    place: NodePath,
    events: Iterator[Any],
    lines: dict[NodePath, int],
    flaws: list[YamlIssue],
) -> Any:
    line = event.start_mark.line + 1
    lines.setdefault(place, line)
    if len(place) > MAX_LEVELS:
        raise _Unreadable(line, place[:8], f"is nested deeper than {MAX_LEVELS} levels")
    if event.anchor is not None:
        flaws.append((line, place, "anchors and aliases are not read: write a $ref"))
    if isinstance(event, yaml.AliasEvent):
        return None
    if event.tag is not None:
        flaws.append((line, place, f"tags such as {event.tag} are not read"))
    if isinstance(event, yaml.ScalarEvent):
        return _scalar(event, place, flaws)
    if isinstance(event, yaml.SequenceStartEvent):
        items: list[Any] = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            items.append(_value(event, (*place, len(items)), events, lines, flaws))
        return items
    mapping: dict[str, Any] = {}
    while not isinstance(event := next(events), yaml.MappingEndEvent):
        line = event.start_mark.line + 1
        key = event.value if isinstance(event, yaml.ScalarEvent) else f"?{len(mapping)}"
        here = (*place, key)
        if not isinstance(event, yaml.ScalarEvent):
            _value(event, here, events, {}, [])
            flaws.append((line, here, "a key must be a string"))
        elif event.anchor or not isinstance(_scalar(event, here, []), str):
            flaws.append((line, here, f"a key must be a plain string: write '{key}'"))
        if key in mapping:
            flaws.append((line, here, f"is there already, on line {lines[here]}"))
            _value(next(events), here, events, {}, [])
            continue
        lines[here] = line
        mapping[key] = _value(next(events), here, events, lines, flaws)
    return mapping


def _scalar(event: Any, place: NodePath, flaws: list[YamlIssue]) -> Any:
    """Return what a scalar is in JSON: a plain `no`, `0o17` or date is a string."""
    text: str = event.value
    if event.style:
        return text
    if text in _WORDS:
        return _WORDS[text]
    line = event.start_mark.line + 1
    if _INTEGER.fullmatch(text):
        if len(text) > 20 or not -(2**63) <= int(text) < 2**63:
            flaws.append((line, place, "does not fit in 64 bits"))
            return None
        return int(text)
    if _NUMBER.fullmatch(text) and math.isfinite(float(text)):
        return float(text)
    if _NUMBER.fullmatch(text) or _NO_NUMBER.fullmatch(text):
        flaws.append((line, place, "JSON has no number that is infinite or none"))
    return text


def line_of(lines: Mapping[NodePath, int], place: NodePath) -> int:
    """Return the line of `place`, or of the nearest that holds it."""
    while place not in lines:
        place = place[:-1]
    return lines[place]


def display(file: Path) -> str:
    """Return the file's path, from the working directory where it is below that."""
    path = file.absolute()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
