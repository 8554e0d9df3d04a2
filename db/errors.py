"""Errors of the database, by what they mean to a handler. They say nothing about HTTP.

DbError
├── NotFound             no such row, or another tenant's (the same error by design)
│   └── BrokenReference  a foreign key references no row, or rows still reference this one
├── Conflict             a unique key is taken
│   └── InUse            other rows reference the row to delete
├── VersionMismatch      the row has changed since the caller read it
├── InvalidValue         a value that the table does not accept
└── Unavailable          not now: the database is down or the service is busy
    ├── StatementTimeout the statement exceeded its time limit and was rolled back
    └── DiskFull         the database has no disk space left for writes
"""

from enum import StrEnum

from psycopg import Error, errors


class DbError(Exception):
    """Base of the errors that a handler may let propagate."""


class NotFound(DbError):
    """No such row, or the row of another tenant."""


class BrokenReference(NotFound):
    """A written row references a row that does not exist, or a deleted row is still referenced.

    `column` is the referencing column, where the caller can correct it.
    """

    def __init__(self, constraint: str, column: str | None = None) -> None:
        super().__init__(constraint)
        self.constraint = constraint
        self.column = column


class Conflict(DbError):
    """A unique key of this tenant is taken."""


class InUse(Conflict):
    """Other rows of this tenant reference the row, and are not deleted with it."""


class VersionMismatch(DbError):
    """The row has changed since the caller read it."""


class InvalidValue(DbError):
    """A value that the contract allows and the table does not accept.

    `where` is `body` or `query`, `pointer` a JSON Pointer (RFC 6901) into it.
    """

    def __init__(self, where: str, pointer: str, detail: str) -> None:
        super().__init__(detail)
        self.where = where
        self.pointer = pointer
        self.detail = detail


BUSY = "The service is busy"


class Reason(StrEnum):
    """Why a request was not served: the label `reason` of `covenant_unavailable_total`."""

    NOT_READY = "not_ready"
    NO_ROOM = "no_room"
    TOO_SLOW = "too_slow"
    DISK_FULL = "disk_full"
    DATABASE_AWAY = "database_away"
    UNCOUNTED = "uncounted"
    POSTGRES_ERROR = "postgres_error"  # its metric label is the name of the error


class Unavailable(DbError):
    """The request got no result; it may be repeated later.

    `detail` is a sentence for the client, which says so if a write may have been applied.
    `connection_lost` says that another connection may succeed at once.
    """

    def __init__(
        self,
        reason: Reason,
        detail: str = BUSY,
        *,
        postgres_error: str | None = None,
        connection_lost: bool = False,
    ) -> None:
        super().__init__(f"{reason}: {postgres_error or detail}")
        self.reason = reason
        self.detail = detail
        self.postgres_error = postgres_error
        self.connection_lost = connection_lost

    @property
    def label(self) -> str:
        """The value of the metric label and of the field `reason` in the log."""
        is_postgres = self.reason is Reason.POSTGRES_ERROR and self.postgres_error
        return is_postgres or self.reason.value


class StatementTimeout(Unavailable):
    """The server cancelled the statement at its time limit."""

    def __init__(self) -> None:
        super().__init__(Reason.TOO_SLOW, "The database exceeded this operation's time limit")


class DiskFull(Unavailable):
    """The database has no disk space left: nothing was written, and reads still work."""

    def __init__(self) -> None:
        super().__init__(Reason.DISK_FULL, "The database has no disk space left")


_INVALID_VALUE = (
    errors.DataError,
    errors.CheckViolation,
    errors.NotNullViolation,
    errors.ProgramLimitExceeded,  # for example a value that is too long for its index
)
_RETRYABLE = (
    errors.LockNotAvailable,
    errors.SerializationFailure,
    errors.DeadlockDetected,
    errors.InsufficientResources,
    errors.OperatorIntervention,
    errors.IdleInTransactionSessionTimeout,
    errors.TransactionTimeout,
    errors.ReadOnlySqlTransaction,
)


def from_postgres(error: Error) -> DbError | None:
    """Return what a database error means to the caller, or None for a bug of the service.

    A policy violation and a missing privilege share SQLSTATE 42501. Only the former is raised by
    the server's function ExecWithCheckOptions, whatever the language of its messages.
    """
    if isinstance(error, errors.UniqueViolation):
        return Conflict()
    if isinstance(error, errors.RestrictViolation):
        return InUse()
    if isinstance(error, errors.ForeignKeyViolation):
        return BrokenReference(error.diag.constraint_name or "")
    if isinstance(error, _INVALID_VALUE):
        return InvalidValue("body", "", "contains a value that cannot be stored")
    if isinstance(error, errors.InsufficientPrivilege):
        return NotFound() if error.diag.source_function == "ExecWithCheckOptions" else None
    if isinstance(error, errors.QueryCanceled):
        return StatementTimeout()
    if isinstance(error, errors.DiskFull):
        return DiskFull()
    if is_connection_lost(error):
        return unavailable_connection(error)
    if isinstance(error, (errors.OperationalError, *_RETRYABLE)):
        return Unavailable(Reason.POSTGRES_ERROR, postgres_error=type(error).__name__)
    return None


def unavailable_connection(error: Error, detail: str = BUSY) -> Unavailable:
    """Return the error of a request whose connection was lost."""
    name = type(error).__name__
    return Unavailable(Reason.DATABASE_AWAY, detail, postgres_error=name, connection_lost=True)


def is_connection_lost(error: Error) -> bool:
    """Return whether the connection broke: libpq says so (no SQLSTATE), or the server closed it.

    psycopg raises an InternalError without SQLSTATE when a pooler closes with its own message.
    """
    state = error.sqlstate or ""
    return isinstance(error, (errors.OperationalError, errors.InternalError)) and (
        not state or state.startswith(("08", "57P"))
    )


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type where the message is empty.

    The lines below contain hints and the statement. libpq names host and port in the first one,
    never the password.
    """
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__
