"""Pages of a list: keyset paging, with an opaque cursor."""

import base64
from uuid import UUID

import orjson
from orjson import Fragment

from db.errors import InvalidValue, NotFound
from db.tenancy import Row

FIRST_ID = str(UUID(int=0))


def decode_cursor(cursor: str | None) -> str:
    """Return the id behind which the page begins. Raises `Invalid`."""
    if cursor is None:
        return FIRST_ID
    try:
        return str(UUID(bytes=_decoded(cursor)))
    except ValueError:
        raise invalid_cursor() from None


def is_id_cursor(cursor: str) -> bool:
    """Whether a cursor is one of a list in order of its ids."""
    return len(cursor) == 22


def decode_sorted_cursor(cursor: str) -> tuple[str, str | None, str]:
    """Return the order, the value and the id behind which a page begins. Raises `Invalid`."""
    try:
        sort, value, id = orjson.loads(_decoded(cursor))
    except (ValueError, TypeError):
        raise invalid_cursor() from None
    if not isinstance(sort, str) or not isinstance(value, str | None) or not _is_id(id):
        raise invalid_cursor()
    return sort, value, id


def encode_cursor(id: str) -> str:
    """Return the opaque form of a position: 22 characters of base64url (RFC 4648 section 5)."""
    return base64.urlsafe_b64encode(UUID(id).bytes)[:22].decode()


def encode_sorted_cursor(sort: str, value: str | None, id: str) -> str:
    """Return the opaque form of a position in a list that is sorted."""
    return base64.urlsafe_b64encode(orjson.dumps([sort, value, id])).rstrip(b"=").decode()


def page_body(rows: list[Row], limit: int, sort: str | None = None) -> dict[str, object]:
    """Return `{items, next?}` of at most `limit` items from `limit + 1` rows of (id, JSON).

    With `sort` a row has also the value that it sorts by. One row without an id stands for a list
    that exists and has nothing here; no row at all for one that does not exist.
    Raises `NotFound`.
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


def _decoded(cursor: str) -> bytes:
    return base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)


def _is_id(id: object) -> bool:
    try:
        return isinstance(id, str) and str(UUID(id)) == id
    except ValueError:
        return False


def invalid_cursor() -> InvalidValue:
    """The error of a position that no page gave."""
    return InvalidValue("query", "/cursor", "not a cursor of this list in this order")
