"""Values as lines of YAML, in the style of the shipped contract."""

import re
from typing import Any

WIDTH = 96  # of a line, without what it is indented by


def entry(head: str, value: Any) -> list[str]:
    """Return `head: value` in one line where it fits, else as a block."""
    line = f"{head}: {flow(value)}"
    if len(line) <= WIDTH:
        return [line]
    indent = len(head) - len(head.lstrip())
    return [f"{head}:", *(" " * (indent + 2) + below for below in block(value))]


def block(value: Any) -> list[str]:
    lines: list[str] = []
    if isinstance(value, list):
        for item in value:
            first, *rest = block(item)
            lines += [f"- {first}", *(f"  {line}" for line in rest)]
        return lines
    if not isinstance(value, dict):
        return [scalar(value)]
    for key, child in value.items():
        lines += [f"{key}:", *indented(block(child))] if _deep(child) else entry(key, child)
    return lines


def _deep(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(item, dict) for item in value)


def flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {flow(child)}" for key, child in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(flow, value))}]"
    return scalar(value)


def scalar(value: Any) -> str:
    """Return a scalar as it may stand anywhere: quoted where YAML 1.1 or 1.2 sees no text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return repr(value)
    words = r"(?i:true|false|yes|no|on|off|null)"
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9_ /-]*[A-Za-z0-9]|[A-Za-z]", value):
        return f"'{value}'" if re.fullmatch(words, value) else value
    if re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", value):
        return value
    quoted = value.replace("'", "''")
    return f"'{quoted}'"


def ref(kind: str, name: str) -> str:
    return f"{{$ref: '#/components/{kind}/{name}'}}"


def indented(lines: list[str], levels: int = 1) -> list[str]:
    return [f"{'  ' * levels}{line}" if line else line for line in lines]
