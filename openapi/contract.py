"""The contract, loaded and checked before anything runs: operations, schemas and facts by name."""

import ast
import hashlib
import importlib.util
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from openapi import rules, table_operations, tables
from openapi.rules import Place, deref, function_of
from openapi.tables import Table

__all__ = ["Contract", "ContractError", "Fault", "Operation", "deref", "load", "public_document"]

HERE = Path(__file__).resolve().parent
DEFAULT = HERE / "openapi.yaml"
DEFAULT_HANDLERS = HERE.parent / "handlers"
Flaw = tuple[int, Place, str]  # line, place and reason of what YAML has and JSON has not
MOST_BYTES = 4 * 2**20
MOST_LEVELS = 64
ABSENT = "does not exist"

_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_NO_NUMBER = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS = {"null": None, "true": True, "false": False, "": None}


@dataclass(frozen=True, order=True)
class Fault:
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

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(sorted(set(faults)))
        super().__init__("\n".join(map(str, self.faults)))


@dataclass(frozen=True)
class Operation:
    """One method of one path, every `$ref` resolved, with the x- keys in force for it."""

    id: str
    tag: str
    verb: str
    method: str
    path: str
    line: int
    parameters: tuple[dict[str, Any], ...]
    body: dict[str, Any] | None
    responses: Mapping[str, dict[str, Any]]
    security: tuple[dict[str, list[str]], ...]
    extensions: Mapping[str, Any]

    @property
    def function(self) -> str:
        """The name of the handler in the tag's module: `list_` for projects.list."""
        return function_of(self.verb)


@dataclass(frozen=True)
class Contract:
    """A contract without faults; `document` is as written, its `$ref`s kept."""

    file: Path
    hash: str
    name: str
    title: str
    version: str
    document: dict[str, Any] = field(repr=False)
    operations: Mapping[str, Operation] = field(repr=False)
    service: Mapping[str, Any]
    token: Mapping[str, Any]
    tenant: Mapping[str, Any]
    tables: Mapping[str, Table] = field(repr=False)
    lines: Mapping[Place, int] = field(repr=False, compare=False)

    def line_of(self, *path: str | int) -> int:
        """Return the line of the value at `path`, or of the nearest that holds it."""
        return _line(self.lines, path)


def load(file: Path = DEFAULT, handlers: Path | None = DEFAULT_HANDLERS) -> Contract:
    """Return the contract of `file`; its handlers must exist below `handlers`, unless None.

    The verbs of a table need none: the generic handler serves them.
    Raises `ContractError` with all its faults at once.
    """
    name = _display(file)
    source = _read(file, name)
    document, lines, flaws = _parse(source, name)
    spoiled = {place for _, place, _ in flaws}
    functions_of = cache(partial(_functions, handlers))
    found = rules.check(
        document,
        json.loads(_openapi_schema().read_bytes()),
        json.loads((HERE / "extensions.schema.json").read_bytes()),
        _handler_faults(handlers, functions_of, tables.names(document)),
    )
    found += tables.check(document)
    found += table_operations.check(document, functions_of)
    flaws += [
        (_line(lines, place), place, reason) for place, reason in found if place not in spoiled
    ]
    if flaws:
        raise ContractError([Fault(name, line, _dotted(p), reason) for line, p, reason in flaws])
    return _contract(file, hashlib.sha256(source).hexdigest(), document, lines)


def public_document(contract: Contract) -> dict[str, Any]:
    """Return what clients are served: no x- keys, and requests go to the origin they came from.

    An enum that is nullable names null, which OpenAPI 3.0.3 demands and people forget.
    """
    document = deepcopy(contract.document)
    for _, kind, node in rules.walk(document):
        for key in [key for key in node if key.startswith("x-")]:
            del node[key]
        if kind == "schema" and node.get("nullable") is True and "enum" in node:
            node["enum"] = [value for value in node["enum"] if value is not None] + [None]
    return document | {"servers": [{"url": "/"}]}


def _contract(file: Path, digest: str, document: Any, lines: Mapping[Place, int]) -> Contract:
    operations = {}
    for place, item, node in rules.each_operation(document):
        id, (_, path, method) = node["operationId"], place
        tag, verb = id.split(".")
        operations[id] = Operation(
            id=id,
            tag=tag,
            verb=verb,
            method=str(method),
            path=str(path),
            line=_line(lines, place),
            parameters=tuple(
                deref(document, parameter)
                for _, parameter in rules.parameters_of(document, place).values()
            ),
            body=deref(document, node.get("requestBody")),
            responses=MappingProxyType(deref(document, node["responses"])),
            security=tuple(node.get("security", document.get("security", ()))),
            extensions=MappingProxyType(rules.in_force(document, item, node)),
        )
    schemes = rules.table(document, "components", "securitySchemes").values()
    words = {"x-token", "x-tenant"}
    bearer: dict[str, Any] = next((scheme for scheme in schemes if words <= scheme.keys()), {})
    return Contract(
        file=file,
        hash=digest,
        name=document["x-service"]["name"],
        title=document["info"]["title"],
        version=document["info"]["version"],
        document=document,
        operations=MappingProxyType(operations),
        service=MappingProxyType(document["x-service"]),
        token=MappingProxyType(bearer.get("x-token", {})),
        tenant=MappingProxyType(bearer.get("x-tenant", {})),
        tables=MappingProxyType(tables.of(document, lambda place: _line(lines, place))),
        lines=MappingProxyType(lines),
    )


def _read(file: Path, name: str) -> bytes:
    try:
        with file.open("rb") as stream:
            source = stream.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ContractError([Fault(name, 1, "document", f"cannot be read: {reason}")]) from error
    if len(source) > MOST_BYTES:
        raise ContractError([Fault(name, 1, "document", "is over 4 MiB")])
    return source


class _Unreadable(Exception):
    """What stops the reading of a YAML document: line, place, reason."""


def _parse(source: bytes, name: str) -> tuple[dict[str, Any], dict[Place, int], list[Flaw]]:
    """Return the document, the line of each place, and what JSON does not have.

    From events, and not by PyYAML's composer: that recurses in C without a limit, and resolves
    `no`, `1:30` and dates as YAML 1.1 does.
    """
    lines: dict[Place, int] = {(): 1}
    flaws: list[Flaw] = []
    place: Place = ()
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
    except _Unreadable as error:
        line, place, reason = error.args
    raise ContractError([Fault(name, line, _dotted(place), reason)])


def _value(
    event: Any, place: Place, events: Iterator[Any], lines: dict[Place, int], flaws: list[Flaw]
) -> Any:
    line = event.start_mark.line + 1
    lines.setdefault(place, line)
    if len(place) > MOST_LEVELS:
        raise _Unreadable(line, place[:8], f"is nested deeper than {MOST_LEVELS} levels")
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


def _scalar(event: Any, place: Place, flaws: list[Flaw]) -> Any:
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


def _handler_faults(
    handlers: Path | None, functions_of: Callable[[str], Set[str] | str], generic: Set[str]
) -> Callable[[str, str], str | None]:
    """Return what tells why a module's function cannot handle an operation.

    The tags of `generic` need no function for the verbs of a table.
    """

    def fault(tag: str, function: str) -> str | None:
        found = functions_of(tag)
        if handlers is None or (isinstance(found, Set) and function in found):
            return None
        is_verb = tag in generic and function in map(function_of, tables.VERBS)
        if is_verb and (isinstance(found, Set) or found == ABSENT):
            return None
        file = f"{handlers.name}/{tag}.py"
        hint = f"; the verbs of a table are {', '.join(tables.VERBS)}" if tag in generic else ""
        if isinstance(found, str):
            return f"{file} {found}: it should define `{function}`{hint}"
        return f"{file} has no function `{function}`{hint}"

    return fault


def _functions(handlers: Path | None, tag: str) -> frozenset[str] | str:
    """Return the functions of a tag's module, or what is wrong with it; imports nothing."""
    if handlers is None:
        return frozenset()
    try:
        body = ast.parse((handlers / f"{tag}.py").read_bytes()).body
    except OSError:
        return ABSENT
    except (SyntaxError, ValueError) as error:
        return f"is no Python ({error})"
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    return frozenset(node.name for node in body if isinstance(node, functions))


def _openapi_schema() -> Path:
    """Return where Connexion keeps the schema of OpenAPI 3.0; it is found, not imported."""
    spec = importlib.util.find_spec("connexion")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("connexion")
    return Path(spec.origin).parent / "resources" / "schemas" / "v3.0" / "schema.json"


def _line(lines: Mapping[Place, int], place: Place) -> int:
    while place not in lines:
        place = place[:-1]
    return lines[place]


def _dotted(place: Place) -> str:
    return ".".join(map(str, place)) or "document"


def _display(file: Path) -> str:
    path = file.absolute()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def main(arguments: list[str]) -> int:
    """Check the contract named, or ours: print its faults and return 1, or one line and 0."""
    file = Path(arguments[0]) if arguments else DEFAULT
    try:
        contract = load(file)
    except ContractError as error:
        print(error, file=sys.stderr)
        return 1
    count = len(contract.operations)
    print(f"{_display(file)}: {count} operation{'s' * (count != 1)}, 0 faults")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
