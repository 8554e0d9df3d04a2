"""${message}

Create a table, its policy and its grants in one revision. A statement waits for a lock for at most
lock_timeout. Backfill rows between NO FORCE and FORCE ROW LEVEL SECURITY, and assert the row count:
with FORCE, the owner's UPDATE silently matches no rows.
"""

from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
