"""Requests with an Idempotency-Key: the work is done once, repeated requests get the same response.

The response is stored in the transaction of the write: both are committed or neither is. Errors
are not stored, so that the key can be used again after one.
"""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson

from db.errors import Unavailable
from db.queries import idempotency_keys
from db.queries.idempotency_keys import Key
from db.tenancy import Session
from service.http.problems import RETRY_AFTER_SECONDS, Problem
from service.identity.tokens import Principal
from service.operations.invocation import HandlerError, Invocation, Response

ARGUMENT = "idempotency_key"
REPLAYED_HEADER = {"Idempotency-Replayed": "true"}
IN_USE = "idempotency-key-in-use"
# How long, and at which interval, a request whose connection was lost is tried again.
RETRY_FOR_SECONDS, RETRY_EVERY_SECONDS = 2.5, 0.05


class IdempotentInvocation:
    """Calls a handler once per key, and stores its response."""

    def __init__(self, invocation: Invocation) -> None:
        """Raise `HandlerError` when the handler has no session to store responses in."""
        if invocation.session not in ("tenant", "subject"):
            raise HandlerError(
                f"{invocation.id} accepts Idempotency-Key: its handler must take tenant or subject"
            )
        self._invocation = invocation

    async def __call__(self, arguments: dict[str, Any], principal: Principal | None) -> Response:
        """Return the stored response of the request's key, or call the handler.

        After a lost connection the request is tried again: the key makes that safe. Raises
        `DbError`, and `Problem`: 409 while the first request is being processed, 422 when the key
        was used with a different request.
        """
        text = arguments.pop(ARGUMENT, None)
        if text is None or principal is None:
            return await self._invocation(arguments, principal)
        session = self._invocation.open_session(principal)
        key = self._key(text, arguments, principal)
        loop = asyncio.get_running_loop()
        end, is_retry = loop.time() + RETRY_FOR_SECONDS, False
        while True:
            try:
                return await self._attempt(session, key, arguments, principal, is_retry=is_retry)
            except Unavailable as error:
                if not error.connection_lost or loop.time() + RETRY_EVERY_SECONDS >= end:
                    raise
            except Problem as problem:
                # The lost connection holds its lock until the server notices.
                is_locked = is_retry and problem.code == IN_USE
                if not is_locked or loop.time() + RETRY_EVERY_SECONDS >= end:
                    raise
            await asyncio.sleep(RETRY_EVERY_SECONDS)
            is_retry, session = True, replace(session, connect_timeout=end - loop.time())

    def _key(self, text: str, arguments: Mapping[str, Any], principal: Principal) -> Key:
        """Return the key: each subject has its own, per tenant if the handler takes `tenant`."""
        text = re.sub(r"\\(.)", r"\1", text[1:-1]) if text.startswith('"') else text
        org_id = principal.org_id if self._invocation.session == "tenant" else ""
        request = orjson.dumps(
            [self._invocation.id, canonical(arguments)], option=orjson.OPT_SORT_KEYS
        )
        return idempotency_keys.make_key(text, org_id, principal.subject, request)

    async def _attempt(
        self,
        session: Session,
        key: Key,
        arguments: Mapping[str, Any],
        principal: Principal,
        *,
        is_retry: bool,
    ) -> Response:
        async with session.transaction() as tx:
            if not await idempotency_keys.lock(tx, key):
                detail = "A request with this Idempotency-Key is still being processed"
                headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
                raise Problem(IN_USE, detail, hint="Try again", headers=headers)
            stored = await idempotency_keys.find(tx, key)
            if stored is None:
                within = replace(session, current=tx)
                response = await self._invocation.call(dict(arguments), principal, within)
                if response[0] < 400:
                    await idempotency_keys.insert(tx, key, response)
                return response
        if stored.request != key.request:
            detail = "This Idempotency-Key was already used with a different request"
            hint = "Send a new key with a new request"
            raise Problem("idempotency-key-reused", detail, hint=hint)
        status, content, headers = stored.response
        return status, content, headers if is_retry else {**headers, **REPLAYED_HEADER}


def canonical(value: Any) -> Any:
    """Return a JSON value in which equal numbers are written equally: 1.0 and 1e0 as 1."""
    if isinstance(value, dict):
        return {name: canonical(member) for name, member in value.items()}
    if isinstance(value, list):
        return [canonical(item) for item in value]
    # orjson cannot write integers of more than 64 bits.
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**63:
        return int(value)
    return value
