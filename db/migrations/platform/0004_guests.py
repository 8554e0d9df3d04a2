"""Create what outlives a tenant: the guest number sequence, and the ids of all organizations ever.

An organization id is never reused, so an old token never gives access to a new organization.
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("create table used_org_ids (org_id uuid primary key)")
    op.execute("grant insert on used_org_ids to covenant_app")
    op.execute("create sequence guest_number")
    op.execute("grant usage on sequence guest_number to covenant_app")


def downgrade() -> None:
    op.execute("drop sequence guest_number")
    op.execute("drop table used_org_ids")
