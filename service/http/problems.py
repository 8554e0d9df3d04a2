"""Every answer outside 2xx: an RFC 9457 problem that names the fault and never the value."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from db.errors import (
    BrokenReference,
    Conflict,
    DiskFull,
    InUse,
    InvalidValue,
    NotFound,
    StatementTimeout,
    Unavailable,
    VersionMismatch,
)
from service.identity.principals import MissingToken
from service.identity.tokens import InvalidToken

RETRY_AFTER_SECONDS = 1
DISK_FULL_RETRY_AFTER_SECONDS = 30  # space is made by people
MAX_ERRORS = 50
SIGN_IN_HINT = "POST /auth/guest answers with a token"
CONTRACT_HINT = "GET /openapi.json says what each operation takes"


class Problem(Exception):
    """A problem that is known by its code."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        hint: str | None = None,
        headers: Mapping[str, str] | None = None,
        errors: list["FieldError"] | None = None,
    ) -> None:
        super().__init__(code)
        self.code = code
        self.status, self.title = CODES[code]
        self.detail = detail
        self.hint = hint
        self.headers = dict(headers or {})
        self.errors = errors or []


@dataclass(frozen=True)
class FieldError:
    """One fault of a request; `pointer` is a JSON Pointer (RFC 6901) into the place `where`."""

    where: str
    pointer: str
    detail: str


CODES = {
    "invalid-request": (400, "Invalid request"),
    "unauthorized": (401, "Unauthorized"),
    "not-found": (404, "Not found"),
    "method-not-allowed": (405, "Method not allowed"),
    "request-timeout": (408, "Request timeout"),
    "conflict": (409, "Conflict"),
    "idempotency-key-in-use": (409, "Idempotency key in use"),
    "precondition-failed": (412, "Precondition failed"),
    "body-too-large": (413, "Body too large"),
    "unsupported-media-type": (415, "Unsupported media type"),
    "idempotency-key-reused": (422, "Idempotency key reused"),
    "too-many-requests": (429, "Too many requests"),
    "headers-too-large": (431, "Header fields too large"),
    "internal-error": (500, "Internal error"),
    "unavailable": (503, "Unavailable"),
    "statement-timeout": (503, "Statement timeout"),
    "disk-full": (503, "Disk full"),
}


def invalid_request(faults: list[FieldError]) -> Problem:
    """The request does not follow the contract, for each of these reasons."""
    count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    return Problem("invalid-request", count, hint=CONTRACT_HINT, errors=faults[:MAX_ERRORS])


def from_error(error: Exception) -> Problem:
    """Return the problem that an error is answered with; an unknown one tells nothing."""
    match error:
        case Problem():
            return error
        case BrokenReference(column=str(column)):
            fault = FieldError("body", f"/{column}", "refers to nothing that is here")
            return Problem("not-found", "There is nothing that the body names", errors=[fault])
        case NotFound():
            return Problem("not-found", "There is nothing here")
        case InUse():
            return Problem("conflict", "Others refer to it", hint="Delete those first")
        case Conflict():
            taken = "Another one has a value that only one may have"
            return Problem("conflict", taken, hint="Choose another value")
        case VersionMismatch():
            changed = "It has changed since the ETag that was sent"
            return Problem("precondition-failed", changed, hint="Get it again")
        case InvalidValue():
            return invalid_request([FieldError(error.where, error.pointer, error.detail)])
        case MissingToken():
            challenge = {"WWW-Authenticate": "Bearer"}
            return Problem(
                "unauthorized", "No token was sent", hint=SIGN_IN_HINT, headers=challenge
            )
        case InvalidToken():
            challenge = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
            return Problem("unauthorized", "No valid token", hint=SIGN_IN_HINT, headers=challenge)
        case StatementTimeout():
            slow = "The database took longer than the operation may; nothing was changed"
            return Problem(
                "statement-timeout", slow, headers={"Retry-After": str(RETRY_AFTER_SECONDS)}
            )
        case DiskFull():
            detail = "The database has no space left: nothing was written, and reads go on"
            return Problem(
                "disk-full", detail, headers={"Retry-After": str(DISK_FULL_RETRY_AFTER_SECONDS)}
            )
        case Unavailable():
            return unavailable(error)
    return Problem("internal-error", "The service failed", hint="Tell the operator the request id")


def unavailable(error: Unavailable) -> Problem:
    """Not now. Reasons with a space are written for people; others are names of errors."""
    reason = str(error)
    detail = reason[:1].upper() + reason[1:] if " " in reason else "The service is busy"
    if error.maybe_done:
        detail = "The database did not answer: the change may have happened all the same"
    return Problem(
        "unavailable", detail, hint="Try again", headers={"Retry-After": str(RETRY_AFTER_SECONDS)}
    )


def to_json(problem: Problem, request_id: str) -> bytes:
    """Return the problem as JSON (RFC 9457 section 3)."""
    members: dict[str, Any] = {
        "type": f"urn:covenant:problem:{problem.code}",
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
        "instance": f"urn:covenant:request:{request_id}",
        "code": problem.code,
        "request_id": request_id,
    }
    if problem.hint:
        members["hint"] = problem.hint
    if problem.errors:
        members["errors"] = [
            {"in": fault.where, "pointer": fault.pointer, "detail": fault.detail}
            for fault in problem.errors
        ]
    return orjson.dumps(members)
