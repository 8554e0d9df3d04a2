"""How a rule says what is wrong."""

import difflib
import json
from collections.abc import Iterable
from typing import Any

from openapi.documents import Place

Finding = tuple[Place, str]


def quoted(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:59]}…"


def listed(words: Iterable[Any], join: str = "or") -> str:
    *first, last = (word if isinstance(word, str) else json.dumps(word) for word in words)
    return f"{', '.join(first)} {join} {last}" if first else last


def nearest(word: Any, known: Iterable[Any]) -> str:
    near = nearest_of(word, known)
    return f"; did you mean `{near}`?" if near else ""


def nearest_of(word: Any, known: Iterable[Any]) -> str | None:
    words = sorted(w for w in known if isinstance(w, str))
    near = difflib.get_close_matches(word, words, 1) if isinstance(word, str) else []
    return near[0] if near else None


def not_one_of(value: Any, options: list[Any]) -> str:
    return f"{quoted(value)} is not {listed(options)}{nearest(value, options)}"
