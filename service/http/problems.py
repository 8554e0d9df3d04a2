"""Problems (RFC 9457): every error response names the error, and never the value sent."""

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
from service.identity.authentication import MissingToken
from service.identity.verification import InvalidToken

RETRY_AFTER_SECONDS = 1
DISK_FULL_RETRY_AFTER_SECONDS = 30  # a person has to free the space
MAX_ERRORS = 50
MAX_BODY_BYTES = 1_048_576
SIGN_IN_HINT = "POST /auth/guest returns a token"
CONTRACT_HINT = "GET /openapi.json describes what each operation accepts"


class Problem(Exception):
    """A problem, identified by its code. `hint` says what the client can do."""

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
    """One error of a request; `pointer` is a JSON Pointer (RFC 6901) into `where`.

    `where` is path, query, header or body.
    """

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


def invalid_request(errors: list[FieldError]) -> Problem:
    """Return the 400 problem that lists these violations of the contract."""
    count = "1 error" if len(errors) == 1 else f"{len(errors)} errors"
    return Problem("invalid-request", count, hint=CONTRACT_HINT, errors=errors[:MAX_ERRORS])


def method_not_allowed(allow: str) -> Problem:
    """Return the 405 problem with the methods that the path supports."""
    return Problem("method-not-allowed", "Method not allowed", headers={"Allow": allow})


def body_too_large() -> Problem:
    """Return the 413 problem."""
    detail = f"The body must not exceed {MAX_BODY_BYTES} bytes"
    return Problem("body-too-large", detail, headers={"Connection": "close"})


def not_found() -> Problem:
    """Return the 404 problem: the same for a missing resource and for another tenant's."""
    return Problem("not-found", "Resource not found")


def from_error(error: Exception) -> Problem:
    """Return the problem for an error; the one for an unknown error reveals nothing about it."""
    match error:
        case Problem():
            return error
        case BrokenReference(column=str(column)):
            reason = "references a resource that does not exist"
            errors = [FieldError("body", f"/{column}", reason)]
            return Problem("not-found", "A referenced resource does not exist", errors=errors)
        case NotFound():
            return not_found()
        case InUse():
            detail = "Other resources still reference this resource"
            return Problem("conflict", detail, hint="Delete those resources first")
        case Conflict():
            detail = "A resource with this unique value already exists"
            return Problem("conflict", detail, hint="Choose another value")
        case VersionMismatch():
            detail = "The resource has changed since the version in If-Match"
            return Problem("precondition-failed", detail, hint="Get the resource again")
        case InvalidValue():
            return invalid_request([FieldError(error.where, error.pointer, error.detail)])
        case MissingToken():
            return _unauthorized("The request has no token", "Bearer")
        case InvalidToken():
            return _unauthorized("The token is not valid", 'Bearer error="invalid_token"')
        case StatementTimeout():
            detail = f"{error.detail}; nothing was changed"
            return _retry_later("statement-timeout", detail)
        case DiskFull():
            detail = f"{error.detail}: nothing was written, reads still work"
            headers = {"Retry-After": str(DISK_FULL_RETRY_AFTER_SECONDS)}
            return Problem("disk-full", detail, headers=headers)
        case Unavailable():
            detail = error.detail[:1].upper() + error.detail[1:]
            return _retry_later("unavailable", detail, "Try again")
    hint = "Give the request id to the operator"
    return Problem("internal-error", "The service failed", hint=hint)


def to_json(problem: Problem, request_id: str) -> bytes:
    """Return the body of a problem (RFC 9457 section 3)."""
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
            {"in": error.where, "pointer": error.pointer, "detail": error.detail}
            for error in problem.errors
        ]
    return orjson.dumps(members)


def _unauthorized(detail: str, challenge: str) -> Problem:
    headers = {"WWW-Authenticate": challenge}
    return Problem("unauthorized", detail, hint=SIGN_IN_HINT, headers=headers)


def _retry_later(code: str, detail: str, hint: str | None = None) -> Problem:
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
    return Problem(code, detail, hint=hint, headers=headers)
