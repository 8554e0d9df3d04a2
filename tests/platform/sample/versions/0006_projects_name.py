"""Projects: projects_name_pattern added."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Each statement is its own transaction and safe to re-run.
    with op.get_context().autocommit_block():
        op.execute(r"""
            alter table projects
                drop constraint if exists projects_name_pattern,
                add constraint projects_name_pattern check (name ~ '^[^\u0000-\u001f\u007f]+$') not valid
        """)
        op.execute("alter table projects validate constraint projects_name_pattern")


def downgrade() -> None:
    op.execute("alter table projects drop constraint projects_name_pattern")
