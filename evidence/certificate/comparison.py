"""Whether two responses are the same: byte for byte, or except for what is new each time."""

import json
import re
from collections.abc import Callable, Iterator, Set
from typing import Any

from evidence.certificate.results import Response

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT[0-9:.]+(Z|[+-]\d\d:\d\d)")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}")
_TOLERANCE_SECONDS = 2  # of whole numbers, since they may count seconds

Mask = Callable[[str], str]


def differences(
    response: Response, control: Response, known_ids: Set[str], sent: Set[str]
) -> list[str]:
    """Return how a response differs from the control response, an empty list for not at all.

    Outside 2xx only the request id and the date may differ. In 2xx also what is new each time:
    ids other than `known_ids`, times, tokens, digits in texts, the values in `sent`, and the ETag,
    which covers all of these.
    """
    if response.status != control.status:
        return [f"status {response.status}, but {control.status} for the control request"]
    if not 200 <= response.status < 300:
        is_equal = _without_request_id(response) == _without_request_id(control)
        issues = [] if is_equal else ["the bodies differ"]
        return issues + _header_differences(_headers(response), _headers(control))
    mask = _mask(known_ids, sent)
    issues = _header_differences(_masked_headers(response, mask), _masked_headers(control, mask))
    return issues + list(_value_differences(_json(response), _json(control), mask, sent, "body"))


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _without_request_id(response: Response) -> bytes:
    request_id = dict(response.headers).get("x-request-id", "")
    return response.body.replace(request_id.encode(), b"*") if request_id else response.body


def _headers(response: Response) -> list[tuple[str, str]]:
    return [pair for pair in response.headers if pair[0] not in ("date", "x-request-id")]


def _masked_headers(response: Response, mask: Mask) -> list[tuple[str, str]]:
    return [
        (name, "<etag>" if name == "etag" else mask(value))
        for name, value in _headers(response)
        if name != "content-length"
    ]


def _header_differences(
    headers: list[tuple[str, str]], control: list[tuple[str, str]]
) -> list[str]:
    names = sorted({name for name, _ in {*headers} ^ {*control}})
    if not names and headers != control:
        return ["the header fields are in a different order"]
    return [f"header {name} differs" for name in names]


def _mask(known_ids: Set[str], sent: Set[str]) -> Mask:
    def mask(text: str) -> str:
        if text in sent:
            return "<sent>"
        text = _TOKEN.sub("<token>", text)
        text = UUID.sub(lambda m: m[0] if m[0] in known_ids else "<id>", text)
        text = _TIME.sub("<time>", text)
        return text if UUID.search(text) else re.sub(r"\d+", "<n>", text)

    return mask


def _json(response: Response) -> Any:
    try:
        return json.loads(response.body) if response.body else None
    except ValueError:
        return response.text


def _value_differences(
    value: Any, control: Any, mask: Mask, sent: Set[str], path: str
) -> Iterator[str]:
    if isinstance(value, dict) and isinstance(control, dict):
        if value.keys() != control.keys():
            yield f"{path}: the members differ"
            return
        for key in value:
            yield from _value_differences(value[key], control[key], mask, sent, f"{path}/{key}")
    elif isinstance(value, list) and isinstance(control, list):
        if len(value) != len(control):
            yield f"{path}: {len(value)} items, but {len(control)} for the control request"
            return
        for n, (item, control_item) in enumerate(zip(value, control, strict=True)):
            yield from _value_differences(item, control_item, mask, sent, f"{path}/{n}")
    elif isinstance(value, str) and isinstance(control, str):
        if mask(value) != mask(control):
            yield f"{path}: the text differs"
    elif is_number(value) and is_number(control):
        tolerance = _TOLERANCE_SECONDS if type(value) is type(control) is int else 0
        if abs(value - control) > tolerance and not {str(value), str(control)} <= sent:
            yield f"{path}: the number differs"
    elif value != control:
        yield f"{path}: the value differs"
