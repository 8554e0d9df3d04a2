"""Regular expressions of ECMA 262, as a contract has them, for PostgreSQL (18, section 9.7.3)."""

import re

_ESCAPE = r"\\(?P<escape>x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|.)"
_TOKEN = re.compile(
    rf"""\[(?P<not>\^?)(?P<class>(?:\\.|[^\]\\])+)\] | {_ESCAPE}
    | \{{(?P<least>[0-9]+)(?:,(?P<most>[0-9]*))?\}} | \(\?: | \((?!\?) | [^\\\[\]{{}}(\0]""",
    re.VERBOSE | re.DOTALL,
)
_IN_CLASS = re.compile(rf"{_ESCAPE}|[^\0]", re.DOTALL)
_SETS = {"d": "[0-9]", "D": "[^0-9]", "w": "[A-Za-z0-9_]", "W": "[^A-Za-z0-9_]"}
_MOST_TIMES = 255


def pattern_of(pattern: str) -> str | None:
    """Return the pattern for the operator `~`, None where that might refuse what it lets through.

    It may let more through: its `.` matches the end of a line too.
    """
    found, at = "", 0
    while at < len(pattern):
        token = _TOKEN.match(pattern, at)
        one = _translated(token) if token else None
        if token is None or one is None:
            return None
        found, at = found + one, token.end()
    return found


def _translated(token: re.Match[str]) -> str | None:
    if token["class"]:
        inner = [_of_class(part) for part in _IN_CLASS.finditer(token["class"])]
        # A hyphen behind a range is itself to ECMA 262, and an error to PostgreSQL.
        if re.search(r"&&|--|~~|-(\\.|[^\\])-(?!$)", token["class"]) or None in inner:
            return None
        return f"[{token['not']}{''.join(map(str, inner))}]"
    if token["escape"]:
        return _SETS.get(token["escape"]) or _escape(token["escape"], ".[]{}()*+?^$|\\")
    times = [int(n) for n in (token["least"], token["most"]) if n]
    return None if max(times, default=0) > _MOST_TIMES else token[0]


def _of_class(token: re.Match[str]) -> str | None:
    if token["escape"] in ("d", "w"):
        return _SETS[token["escape"]][1:-1]
    if token["escape"]:
        return _escape(token["escape"], "[]^-\\")
    return "\\[" if token[0] == "[" else token[0]


def _escape(escaped: str, special: str) -> str | None:
    if escaped[1:]:
        code = int(escaped[1:], 16)
        return None if 0xD800 <= code < 0xE000 else f"\\u{code:04x}"
    if escaped in "tnrfv":
        return f"\\{escaped}"
    if escaped.isalnum():
        return None
    return f"\\{escaped}" if escaped in special else escaped
