"""Translates the contract's regular expressions (ECMA 262) to PostgreSQL (18, section 9.7.3)."""

import re

_ESCAPE = r"\\(?P<escape>x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|.)"
_TOKEN = re.compile(
    rf"""\[(?P<negation>\^?)(?P<class>(?:\\.|[^\]\\])+)\] | {_ESCAPE}
    | \{{(?P<minimum>[0-9]+)(?:,(?P<maximum>[0-9]*))?\}} | \(\?: | \((?!\?) | [^\\\[\]{{}}(\0]""",
    re.VERBOSE | re.DOTALL,
)
_CLASS_TOKEN = re.compile(rf"{_ESCAPE}|[^\0]", re.DOTALL)
_CLASSES = {"d": "[0-9]", "D": "[^0-9]", "w": "[A-Za-z0-9_]", "W": "[^A-Za-z0-9_]"}
_MAX_REPETITIONS = 255  # PostgreSQL's limit


def to_postgres(pattern: str) -> str | None:
    """Return the pattern for the operator `~`, or None if that might reject what `pattern` accepts.

    The result may accept more: its `.` also matches line terminators.
    """
    translation, position = "", 0
    while position < len(pattern):
        token = _TOKEN.match(pattern, position)
        translated = _translate(token) if token else None
        if token is None or translated is None:
            return None
        translation, position = translation + translated, token.end()
    return translation


def _translate(token: re.Match[str]) -> str | None:
    if token["class"]:
        members = [_translate_in_class(part) for part in _CLASS_TOKEN.finditer(token["class"])]
        # A hyphen after a range is a literal in ECMA 262, and an error in PostgreSQL.
        if re.search(r"&&|--|~~|-(\\.|[^\\])-(?!$)", token["class"]) or None in members:
            return None
        return f"[{token['negation']}{''.join(map(str, members))}]"
    if token["escape"]:
        return _CLASSES.get(token["escape"]) or _translate_escape(
            token["escape"], ".[]{}()*+?^$|\\"
        )
    repetitions = [int(n) for n in (token["minimum"], token["maximum"]) if n]
    return None if max(repetitions, default=0) > _MAX_REPETITIONS else token[0]


def _translate_in_class(token: re.Match[str]) -> str | None:
    if token["escape"] in ("d", "w"):
        return _CLASSES[token["escape"]][1:-1]
    if token["escape"]:
        return _translate_escape(token["escape"], "[]^-\\")
    return "\\[" if token[0] == "[" else token[0]


def _translate_escape(escaped: str, special: str) -> str | None:
    if escaped[1:]:
        code = int(escaped[1:], 16)
        is_surrogate = 0xD800 <= code < 0xE000
        return None if is_surrogate else f"\\u{code:04x}"
    if escaped in "tnrfv":
        return f"\\{escaped}"
    if escaped.isalnum():
        return None
    return f"\\{escaped}" if escaped in special else escaped
