"""${message}

One table, its isolation and its grant, together. A statement that takes a lock waits at most
lock_timeout for it; a backfill runs between NO FORCE and FORCE, its row count asserted, because
the owner's UPDATE under FORCE touches no row and says nothing.
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
