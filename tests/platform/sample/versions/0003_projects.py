"""Create projects."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        create table projects (
            org_id uuid not null references organizations on delete cascade,
            id uuid not null,
            name text not null
                constraint projects_name_check check (char_length(name) between 1 and 100),
            created_at timestamptz not null default now(),
            primary key (org_id, id),
            constraint projects_org_id_name_key unique (org_id, name)
        )
    """)
    op.execute("alter table projects enable row level security")
    op.execute("alter table projects force row level security")
    op.execute("""
        create policy tenant_isolation on projects
            using      (org_id = (select nullif(current_setting('app.org_id', true), '')::uuid))
            with check (org_id = (select nullif(current_setting('app.org_id', true), '')::uuid))
    """)
    op.execute("grant select, insert, delete on projects to covenant_app")


def downgrade() -> None:
    op.execute("drop table projects")
