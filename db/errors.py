"""What can go wrong between a handler and the database; says nothing about HTTP.

DbError
├── NotFound      absent, or not this tenant's (the same answer by design)
│   └── BrokenReference  it refers to such a row, or others still refer to it
├── Conflict      a unique key is taken
│   └── InUse     others refer to what would be deleted
├── Stale         it is no longer what the caller has seen
├── Invalid       a value that the table does not take
└── Unavailable   not now: the database is away or busy
    ├── TooSlow   the statement took longer than it may; nothing of it was done
    └── DiskFull  the database has no space left to write to; reads go on
"""

from psycopg import Error, errors


class DbError(Exception):
    """Base of the errors that a handler may let pass."""


class NotFound(DbError):
    """Absent, or another tenant's."""


class BrokenReference(NotFound):
    """A reference would lead nowhere: of a row that is written, or to a row that is deleted.

    `column` is the one that a client may mend.
    """

    def __init__(self, constraint: str, column: str | None = None) -> None:
        super().__init__(constraint)
        self.constraint = constraint
        self.column = column


class Conflict(DbError):
    """A unique key of this tenant is taken."""


class InUse(Conflict):
    """Rows of this tenant refer to it, and would not go with it."""


class VersionMismatch(DbError):
    """The row has changed since the caller saw it."""


class InvalidValue(DbError):
    """A value that the contract lets through and the table does not take.

    `where` is body or query, `pointer` a JSON Pointer (RFC 6901) into it.
    """

    def __init__(self, where: str, pointer: str, detail: str) -> None:
        super().__init__(detail)
        self.where = where
        self.pointer = pointer
        self.detail = detail


class Unavailable(DbError):
    """The statement was not answered; `maybe_done` when a write may have happened all the same.

    `lost` when that is because a connection broke: another may answer.
    """

    def __init__(self, reason: str, *, maybe_done: bool = False, lost: bool = False) -> None:
        super().__init__(reason)
        self.maybe_done = maybe_done
        self.lost = lost


class StatementTimeout(Unavailable):
    """The server ended the statement at its time limit."""


class DiskFull(Unavailable):
    """The database has no space left: nothing was written, and reads go on."""


_INVALID_VALUE = (
    errors.DataError,
    errors.CheckViolation,
    errors.NotNullViolation,
    errors.ProgramLimitExceeded,  # such as a value too long for its index
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
    """Return what a database error means to a caller, None for a fault of ours.

    A policy that refuses a row and a missing privilege share SQLSTATE 42501. Only the first is
    raised by the function ExecWithCheckOptions, whatever the language of the server's messages.
    """
    if isinstance(error, errors.UniqueViolation):
        return Conflict()
    if isinstance(error, errors.RestrictViolation):
        return InUse()
    if isinstance(error, errors.ForeignKeyViolation):
        return BrokenReference(error.diag.constraint_name or "")
    if isinstance(error, _INVALID_VALUE):
        return InvalidValue("body", "", "holds a value that cannot be stored")
    if isinstance(error, errors.InsufficientPrivilege):
        return NotFound() if error.diag.source_function == "ExecWithCheckOptions" else None
    if isinstance(error, errors.QueryCanceled):
        return StatementTimeout(type(error).__name__)
    if isinstance(error, errors.DiskFull):
        return DiskFull(type(error).__name__)
    if isinstance(error, (errors.OperationalError, *_RETRYABLE)) or is_connection_lost(error):
        return Unavailable(type(error).__name__, lost=is_connection_lost(error))
    return None


def is_connection_lost(error: Error) -> bool:
    """Whether the connection broke, by libpq's own word (no SQLSTATE) or the server's last.

    An internal error without SQLSTATE is psycopg's, when a pooler hangs up with words of its own.
    """
    state = error.sqlstate or ""
    return isinstance(error, (errors.OperationalError, errors.InternalError)) and (
        not state or state.startswith(("08", "57P"))
    )


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, its type where it says nothing.

    What follows are hints, and the statement; libpq names host and port in it, never the password.
    """
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__
