"""Whether two answers are the same answer: byte for byte, or but for what is new each time."""

import json
import re
from collections.abc import Callable, Iterator, Set
from typing import Any

from evidence.certificate.results import Response

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT[0-9:.]+(Z|[+-]\d\d:\d\d)")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}")
_SLACK = 2  # seconds that a number which counts them may differ by


def differences(answer: Response, double: Response, known: Set[str], sent: Set[str]) -> list[str]:
    """Return how an answer differs from that to its double, an empty list for not at all.

    Outside 2xx nothing may differ but the request id. In 2xx what is made new each time may:
    ids but those `known`, times, tokens, numbers in names, the texts and numbers that were `sent`,
    and an ETag, which is of all of these.
    """
    if answer.status != double.status:
        return [f"status {answer.status}, and {double.status} for what nobody has"]
    if not 200 <= answer.status < 300:
        found = [] if _plain(answer) == _plain(double) else ["another body"]
        return found + _headers(_exact(answer), _exact(double))
    mask = _mask(known, sent)
    ours, theirs = (
        [(n, "<tag>" if n == "etag" else mask(v)) for n, v in _exact(one) if n != "content-length"]
        for one in (answer, double)
    )
    found = _headers(ours, theirs)
    return found + list(_bodies(_value(answer), _value(double), mask, sent, "body"))


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _plain(answer: Response) -> bytes:
    own = dict(answer.headers).get("x-request-id", "")
    return answer.body.replace(own.encode(), b"*") if own else answer.body


def _exact(answer: Response) -> list[tuple[str, str]]:
    return [pair for pair in answer.headers if pair[0] not in ("date", "x-request-id")]


def _headers(ours: list[tuple[str, str]], theirs: list[tuple[str, str]]) -> list[str]:
    odd = sorted({name for name, _ in {*ours} ^ {*theirs}})
    if not odd and ours != theirs:
        return ["header fields in another order"]
    return [f"another header {name}" for name in odd]


def _mask(known: Set[str], sent: Set[str]) -> Callable[[str], str]:
    def mask(text: str) -> str:
        if text in sent:
            return "<sent>"
        text = _TOKEN.sub("<token>", text)
        text = _ID.sub(lambda m: m[0] if m[0] in known else "<id>", text)
        text = _TIME.sub("<time>", text)
        return text if _ID.search(text) else re.sub(r"\d+", "<n>", text)

    return mask


def _value(answer: Response) -> Any:
    try:
        return json.loads(answer.body) if answer.body else None
    except ValueError:
        return answer.body.decode(errors="replace")


def _bodies(ours: Any, theirs: Any, mask: Any, sent: Set[str], where: str) -> Iterator[str]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        if ours.keys() != theirs.keys():
            yield f"{where}: other members"
            return
        for key in ours:
            yield from _bodies(ours[key], theirs[key], mask, sent, f"{where}/{key}")
    elif isinstance(ours, list) and isinstance(theirs, list):
        if len(ours) != len(theirs):
            yield f"{where}: {len(ours)} items, and {len(theirs)} for what nobody has"
            return
        for n, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from _bodies(one, other, mask, sent, f"{where}/{n}")
    elif isinstance(ours, str) and isinstance(theirs, str):
        if mask(ours) != mask(theirs):
            yield f"{where}: another text"
    elif is_number(ours) and is_number(theirs):
        slack = _SLACK if type(ours) is type(theirs) is int else 0
        if abs(ours - theirs) > slack and not {str(ours), str(theirs)} <= sent:
            yield f"{where}: another number"
    elif ours != theirs:
        yield f"{where}: another value"
