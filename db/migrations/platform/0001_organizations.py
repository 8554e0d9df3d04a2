"""Create the serving role and organizations; each organization is a tenant."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    # The role cannot log in until the server's administrator sets its password.
    op.execute("""
        do $$ begin
            if not exists (select from pg_roles where rolname = 'covenant_app') then
                create role covenant_app login
                    nosuperuser nobypassrls nocreatedb nocreaterole noreplication;
            end if;
        end $$
    """)
    op.execute("revoke all on schema public from public")
    op.execute("grant usage on schema public to covenant_app")
    # A temporary table could shadow a real one.
    op.execute("""
        do $$ begin
            execute format('revoke temporary on database %I from public', current_database());
        end $$
    """)
    op.execute("grant select on alembic_version to covenant_app")

    op.execute("""
        create table organizations (
            id uuid primary key,
            name text not null
                constraint organizations_name_check check (char_length(name) between 1 and 100),
            status text not null default 'active'
                constraint organizations_status_check check (status = 'active'),
            created_at timestamptz not null default now()
        )
    """)
    op.execute("alter table organizations enable row level security")
    op.execute("alter table organizations force row level security")
    op.execute("""
        create policy tenant_isolation on organizations
            using      (id = (select nullif(current_setting('app.org_id', true), '')::uuid))
            with check (id = (select nullif(current_setting('app.org_id', true), '')::uuid))
    """)
    op.execute("grant select, insert, delete on organizations to covenant_app")


def downgrade() -> None:
    op.execute("drop table organizations")
    op.execute("revoke select on alembic_version from covenant_app")
    op.execute("revoke usage on schema public from covenant_app")
    op.execute("grant usage on schema public to public")
    op.execute("""
        do $$ begin
            execute format('grant temporary on database %I to public', current_database());
        end $$
    """)
