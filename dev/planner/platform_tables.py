"""The platform tables as SQLAlchemy Core metadata, which the migrations must produce.

`dev.planner.planning` checks the contract's tables.
"""

from sqlalchemy import (
    JSON,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    MetaData,
    PrimaryKeyConstraint,
    Sequence,
    SmallInteger,
    Table,
    Text,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import TIMESTAMP


def metadata() -> MetaData:
    """Return the platform tables; all except `used_org_ids` contain tenant data."""
    tables = MetaData()
    Table(
        "organizations",
        tables,
        Column("id", Uuid, primary_key=True),
        Column("name", Text, nullable=False),
        Column("status", Text, nullable=False, server_default="active"),
        _created_at(),
        CheckConstraint("char_length(name) between 1 and 100", name="organizations_name_check"),
        CheckConstraint("status = 'active'", name="organizations_status_check"),
    )
    Table(
        "memberships",
        tables,
        _org_id(),
        Column("subject", Text, nullable=False),
        Column("role", Text, nullable=False),
        _created_at(),
        PrimaryKeyConstraint("org_id", "subject"),
        CheckConstraint("char_length(subject) between 1 and 128", name="memberships_subject_check"),
        CheckConstraint("role = 'owner'", name="memberships_role_check"),
        Index("memberships_subject_org_id_idx", "subject", "org_id"),
    )
    Table(
        "idempotency_keys",
        tables,
        _org_id(),
        Column("id", Uuid, nullable=False),
        Column("subject", Text),
        Column("request", Text, nullable=False),
        Column("status", SmallInteger, nullable=False),
        Column("content", Text, nullable=False),
        Column("headers", JSON, nullable=False),
        _created_at(),
        PrimaryKeyConstraint("org_id", "id"),
        CheckConstraint(
            "char_length(subject) between 1 and 128", name="idempotency_keys_subject_check"
        ),
        CheckConstraint("char_length(request) = 64", name="idempotency_keys_request_check"),
        CheckConstraint("status between 200 and 399", name="idempotency_keys_status_check"),
        Index("idempotency_keys_org_id_created_at_idx", "org_id", "created_at"),
        Index(
            "idempotency_keys_subject_id_idx",
            "subject",
            "id",
            postgresql_where=text("subject is not null"),
        ),
    )
    Table("used_org_ids", tables, Column("org_id", Uuid, primary_key=True))
    Sequence("guest_number", metadata=tables)
    return tables


def _org_id() -> "Column[object]":
    return Column(
        "org_id", Uuid, ForeignKey("organizations.id", ondelete="CASCADE"), nullable=False
    )


def _created_at() -> "Column[object]":
    return Column("created_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now())
