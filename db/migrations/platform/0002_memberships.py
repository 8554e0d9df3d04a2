"""Create memberships: the organizations that a subject can see, and those that it can delete."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        create table memberships (
            org_id uuid not null references organizations on delete cascade,
            subject text not null
                constraint memberships_subject_check check (char_length(subject) between 1 and 128),
            role text not null
                constraint memberships_role_check check (role = 'owner'),
            created_at timestamptz not null default now(),
            primary key (org_id, subject)
        )
    """)
    op.execute("create index memberships_subject_org_id_idx on memberships (subject, org_id)")
    op.execute("alter table memberships enable row level security")
    op.execute("alter table memberships force row level security")
    op.execute("""
        create policy tenant_isolation on memberships
            using      (org_id = (select nullif(current_setting('app.org_id', true), '')::uuid))
            with check (org_id = (select nullif(current_setting('app.org_id', true), '')::uuid))
    """)
    op.execute("""
        create policy member_read on memberships for select
            using (subject = (select nullif(current_setting('app.subject', true), '')))
    """)
    op.execute("grant select, insert on memberships to covenant_app")

    op.execute("""
        create policy member_read on organizations for select
            using (id in (
                select org_id from memberships
                where subject = (select nullif(current_setting('app.subject', true), ''))))
    """)
    op.execute("""
        create policy owner_delete on organizations for delete
            using (id in (
                select org_id from memberships
                where role = 'owner'
                    and subject = (select nullif(current_setting('app.subject', true), ''))))
    """)


def downgrade() -> None:
    op.execute("drop policy owner_delete on organizations")
    op.execute("drop policy member_read on organizations")
    op.execute("drop table memberships")
