"""Pages of a list: keyset pagination with an opaque cursor."""

import base64
from uuid import UUID

import orjson
from orjson import Fragment

from db.errors import InvalidValue, NotFound
from db.tenancy import Row

FIRST_ID = str(UUID(int=0))
ID_CURSOR_LENGTH = 22  # base64url of 16 bytes


def decode_cursor(cursor: str | None) -> str:
    """Return the id after which the page begins. Raises `InvalidValue`."""
    if cursor is None:
        return FIRST_ID
    try:
        return str(UUID(bytes=_decode(cursor)))
    except ValueError:
        raise invalid_cursor() from None


def is_id_cursor(cursor: str) -> bool:
    """Return whether a cursor is of a list in order of its ids."""
    return len(cursor) == ID_CURSOR_LENGTH


def decode_sorted_cursor(cursor: str) -> tuple[str, str | None, str]:
    """Return the order, the value and the id after which a page begins. Raises `InvalidValue`."""
    try:
        sort, value, id = orjson.loads(_decode(cursor))
    except (ValueError, TypeError):
        raise invalid_cursor() from None
    if not isinstance(sort, str) or not isinstance(value, str | None) or not _is_id(id):
        raise invalid_cursor()
    return sort, value, id


def encode_cursor(id: str) -> str:
    """Return the cursor of a list in order of its ids (RFC 4648 section 5)."""
    return base64.urlsafe_b64encode(UUID(id).bytes)[:ID_CURSOR_LENGTH].decode()


def encode_sorted_cursor(sort: str, value: str | None, id: str) -> str:
    """Return the cursor of a sorted list."""
    return base64.urlsafe_b64encode(orjson.dumps([sort, value, id])).rstrip(b"=").decode()


def page_body(rows: list[Row], limit: int, sort: str | None = None) -> dict[str, object]:
    """Return `{items, next?}` of at most `limit` items from `limit + 1` rows of (id, JSON).

    With `sort`, a row also has the value it is sorted by. A single row without an id means that
    the list exists and is empty. Raises `NotFound` if there is no row at all.
    """
    if not rows:
        raise NotFound
    items = [row[1] for row in rows[:limit] if row[0] is not None and row[1] is not None]
    body: dict[str, object] = {"items": Fragment(b"[" + b",".join(items) + b"]")}
    if len(rows) > limit:
        last = rows[limit - 1]
        id = (last[0] or b"").decode()
        value = last[2].decode() if sort and last[2] is not None else None
        body["next"] = encode_sorted_cursor(sort, value, id) if sort else encode_cursor(id)
    return body


def invalid_cursor() -> InvalidValue:
    """Return the error for a cursor that no page of this list contained."""
    return InvalidValue("query", "/cursor", "is not a cursor of this list in this order")


def _decode(cursor: str) -> bytes:
    return base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)


def _is_id(id: object) -> bool:
    try:
        return isinstance(id, str) and str(UUID(id)) == id
    except ValueError:
        return False
