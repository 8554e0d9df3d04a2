"""Idempotency keys: the response to the first request with a key is kept for 24 hours.

A row belongs to the organization that the write bound, and is deleted with it. Only a hash
of the request and an id derived from its key are stored.
"""

import hashlib
from dataclasses import dataclass
from uuid import UUID

import orjson

from db.tenancy import Transaction

Response = tuple[int, bytes, dict[str, str]]  # status, content, headers
PURGE_BATCH = 10  # expired rows of the tenant that each insert deletes


@dataclass(frozen=True)
class Key:
    """A key of `subject` in the tenant `org_id`, or "" for operations outside any tenant.

    `request` is the hash of the request.
    """

    id: str
    org_id: str
    subject: str
    request: str


@dataclass(frozen=True)
class StoredResponse:
    """A response, and the hash of the request that it belongs to."""

    request: str
    response: Response


def make_key(text: str, org_id: str, subject: str, request: bytes) -> Key:
    """Return the key for `text` that `subject` sent with `request`."""
    id = UUID(bytes=hashlib.sha256(orjson.dumps([subject, text])).digest()[:16])
    return Key(str(id), org_id, subject, hashlib.sha256(request).hexdigest())


async def lock(tx: Transaction, key: Key) -> bool:
    """Lock the key until the transaction ends; return False while another transaction has it.

    The lock is a statement of its own, so that the next one sees what the last holder committed.
    """
    name = hashlib.sha256(f"idempotency_keys {key.org_id} {key.id}".encode()).digest()
    number = int.from_bytes(name[:8], "big", signed=True)
    rows = await tx.fetch("select pg_try_advisory_xact_lock($1::bigint)", str(number))
    return rows[0][0] == b"t"


async def find(tx: Transaction, key: Key) -> StoredResponse | None:
    """Return the response stored for the key, or None when there is none or it has expired."""
    owner = "org_id = $1::uuid" if key.org_id else "subject = $1"
    rows = await tx.fetch(
        f"""select request, status, content, headers from idempotency_keys
            where {owner} and id = $2 and created_at > now() - interval '24 hours'""",  # noqa: S608
        key.org_id or key.subject,
        key.id,
    )
    if not rows:
        return None
    request, status, content, headers = (value or b"" for value in rows[0])
    return StoredResponse(request.decode(), (int(status), content, orjson.loads(headers)))


async def insert(tx: Transaction, key: Key, response: Response) -> None:
    """Store the response for the bound organization, and delete some of its expired rows."""
    status, content, headers = response
    await tx.run(
        f"""with bound as (
                select nullif(current_setting('app.org_id', true), '')::uuid as org_id),
            gone as (
                delete from idempotency_keys
                where org_id = (select org_id from bound)
                    and created_at <= now() - interval '24 hours'
                    and id in (
                        select $1::uuid
                        union all (
                            select id from idempotency_keys
                            where org_id = (select org_id from bound)
                                and created_at <= now() - interval '24 hours'
                            order by created_at limit {PURGE_BATCH}))
                returning id)
            insert into idempotency_keys (org_id, id, subject, request, status, content, headers)
            select org_id, $1, nullif($2, ''), $3, $4::smallint, $5, $6::json
            from bound, (select count(*) from gone) first""",  # noqa: S608
        key.id,
        "" if key.org_id else key.subject,
        key.request,
        str(status),
        content.decode(),
        orjson.dumps(headers).decode(),
    )
