"""Reads the documentation: the fenced code blocks and tables of Markdown files."""

import re
from dataclasses import dataclass
from pathlib import Path

from evidence.harness.processes import ROOT

DOCS = ROOT / "docs"
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced code block; `language` is empty if the fence names none."""

    language: str
    text: str


def blocks(text: str) -> list[Block]:
    """Return the code blocks of a Markdown text."""
    return [Block(*match) for match in _BLOCK.findall(text)]


def section(file: Path, heading: str) -> str:
    """Return the text below a heading such as `## Codes`, up to the next of its level or above."""
    level = len(heading) - len(heading.lstrip("#"))
    _, found, rest = file.read_text().partition(f"\n{heading}\n")
    assert found, f"{file.name} has no heading {heading!r}"
    return re.split(rf"^#{{1,{level}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str) -> list[list[str]]:
    """Return the cells of every table row of a Markdown text, without header and separator."""
    tables = re.findall(r"^\|.*\n\|[ :|-]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for table in tables
        for line in table.splitlines()
    ]
