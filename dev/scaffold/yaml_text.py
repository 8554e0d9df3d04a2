"""Values as lines of YAML, in the style of the shipped contract."""

import re
from typing import Any

MAX_LINE_CHARACTERS = 96  # without the indentation of the surrounding block


def entry(key: str, value: Any) -> list[str]:
    """Return `key: value` on one line if it fits, else with the value as a block below it.

    `key` may be indented; the block is then indented further.
    """
    line = f"{key}: {flow(value)}"
    if len(line) <= MAX_LINE_CHARACTERS:
        return [line]
    indentation = len(key) - len(key.lstrip())
    return [f"{key}:", *(" " * (indentation + 2) + below for below in block(value))]


def block(value: Any) -> list[str]:
    """Return a value in block style."""
    lines: list[str] = []
    if isinstance(value, list):
        for item in value:
            first, *rest = block(item)
            lines += [f"- {first}", *(f"  {line}" for line in rest)]
        return lines
    if not isinstance(value, dict):
        return [scalar(value)]
    for key, child in value.items():
        has_mappings = isinstance(child, list) and any(isinstance(item, dict) for item in child)
        lines += [f"{key}:", *indented(block(child))] if has_mappings else entry(key, child)
    return lines


def flow(value: Any) -> str:
    """Return a value in flow style: `{key: value}`, `[item]`."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {flow(child)}" for key, child in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(flow, value))}]"
    return scalar(value)


def scalar(value: Any) -> str:
    """Return a scalar that is valid in both styles; text is quoted unless it is surely plain.

    YAML 1.1 reads `no` as a boolean, YAML 1.2 as text: such words are quoted.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return repr(value)
    keywords = r"(?i:true|false|yes|no|on|off|null)"
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9_ /-]*[A-Za-z0-9]|[A-Za-z]", value):
        return f"'{value}'" if re.fullmatch(keywords, value) else value
    if re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", value):
        return value
    quoted = value.replace("'", "''")
    return f"'{quoted}'"


def ref(kind: str, name: str) -> str:
    """Return a `$ref` to a component in flow style."""
    return f"{{$ref: '#/components/{kind}/{name}'}}"


def indented(lines: list[str], levels: int = 1) -> list[str]:
    """Return lines indented by two spaces per level; empty lines stay empty."""
    return [f"{'  ' * levels}{line}" if line else line for line in lines]
