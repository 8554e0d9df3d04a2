"""How a rule says what is wrong."""

import difflib
import json
from collections.abc import Iterable
from typing import Any

from openapi.documents import NodePath

Violation = tuple[NodePath, str]


def quote(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:59]}…"


def enumerate_names(words: Iterable[Any], join: str = "or") -> str:
    *first, last = (word if isinstance(word, str) else json.dumps(word) for word in words)
    return f"{', '.join(first)} {join} {last}" if first else last


def suggest(word: Any, known: Iterable[Any]) -> str:
    near = suggest_ref(word, known)
    return f"; did you mean `{near}`?" if near else ""


def suggest_ref(word: Any, known: Iterable[Any]) -> str | None:
    words = sorted(w for w in known if isinstance(w, str))
    near = difflib.get_close_matches(word, words, 1) if isinstance(word, str) else []
    return near[0] if near else None


def not_in(value: Any, options: list[Any]) -> str:
    return f"{quote(value)} is not {enumerate_names(options)}{suggest(value, options)}"
