"""Pages of a list: keyset paging on the primary key, with an opaque cursor."""

import base64
from uuid import UUID

from orjson import Fragment

from db.errors import NotFound
from db.tenancy import Row

START = str(UUID(int=0))


def position(cursor: str | None) -> str:
    """Return the id behind which the page begins."""
    return str(UUID(bytes=base64.urlsafe_b64decode(cursor + "=="))) if cursor else START


def cursor(id: str) -> str:
    """Return the opaque form of a position: 22 characters of base64url (RFC 4648 section 5)."""
    return base64.urlsafe_b64encode(UUID(id).bytes)[:22].decode()


def page(rows: list[Row], limit: int) -> dict[str, object]:
    """Return `{items, next?}` of at most `limit` items from `limit + 1` rows of (id, JSON).

    One row without an id stands for a list that exists and has nothing here; no row at all for
    one that does not exist. Raises `NotFound`.
    """
    if not rows:
        raise NotFound
    items = [json for id, json in rows[:limit] if id is not None and json is not None]
    body: dict[str, object] = {"items": Fragment(b"[" + b",".join(items) + b"]")}
    if len(rows) > limit:
        body["next"] = cursor((rows[limit - 1][0] or b"").decode())
    return body
