"""Requests with an Idempotency-Key: the work is done once, and later ones get the first answer.

The answer is stored in the transaction of the write, so that both are there or neither is. Errors
are not stored: after one the same key may be sent again.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

import orjson

from db.errors import Unavailable
from db.queries import idempotency_keys
from db.queries.idempotency_keys import Key, Response
from db.tenancy import Session
from service.http.problems import RETRY_AFTER_SECONDS, Problem

ARGUMENT = "idempotency_key"
REPLAYED_HEADER = {"Idempotency-Replayed": "true"}
IN_USE = "idempotency-key-in-use"
# Seconds within which a lost connection is made good, and between two attempts.
RETRY_FOR_SECONDS, RETRY_EVERY_SECONDS = 2.5, 0.05

Run = Callable[[Session], Awaitable[Response]]


def request_key(
    sent: str, operation: str, arguments: Mapping[str, Any], principal: Mapping[str, Any], door: str
) -> Key:
    """Return the key of a request to an operation that asks for the door `door`.

    Each subject has keys of its own, within the tenant or, at the door `subject`, in all it does.
    """
    text = re.sub(r"\\(.)", r"\1", sent[1:-1]) if sent.startswith('"') else sent
    org_id = principal["org_id"] if door == "tenant" else ""
    request = orjson.dumps([operation, arguments], option=orjson.OPT_SORT_KEYS)
    return idempotency_keys.make_key(text, org_id, principal["sub"], request)


async def run_once(door: Session, key: Key, run: Run) -> Response:
    """Return the answer that is kept for `key`, else that of `run`, which is kept then.

    What a lost connection cut off is done again, for `PATIENCE` seconds: the key makes it safe.
    Raises `DbError`, and `Problem`: 409 while the first still runs, 422 for another request's key.
    """
    loop = asyncio.get_running_loop()
    end, again = loop.time() + RETRY_FOR_SECONDS, False
    while True:
        try:
            return await _attempt(door, key, run, again)
        except Unavailable as error:
            if not error.lost or loop.time() + RETRY_EVERY_SECONDS >= end:
                raise
        except Problem as problem:
            # The lost one may hold its lock until the server notices.
            if not again or problem.code != IN_USE or loop.time() + RETRY_EVERY_SECONDS >= end:
                raise
        await asyncio.sleep(RETRY_EVERY_SECONDS)
        again, door = True, replace(door, patience=end - loop.time())


async def _attempt(door: Session, key: Key, run: Run, again: bool) -> Response:
    async with door.transaction() as tx:
        if not await idempotency_keys.lock(tx, key):
            detail = "The first request with this Idempotency-Key still runs"
            headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
            raise Problem(IN_USE, detail, hint="Try again", headers=headers)
        kept = await idempotency_keys.find(tx, key)
        if kept is None:
            answer = await run(replace(door, within=tx))
            if answer[0] < 400:
                await idempotency_keys.insert(tx, key, answer)
            return answer
    if kept.request != key.request:
        detail = "This Idempotency-Key was sent with another request before"
        raise Problem("idempotency-key-reused", detail, hint="Send a new key with a new request")
    status, content, headers = kept.answer
    return status, content, headers if again else {**headers, **REPLAYED_HEADER}
