"""Create idempotency_keys: the stored responses to requests with an Idempotency-Key.

`subject` is set for operations outside any organization, such as creating one. Those responses are
looked up by subject, whichever organization the token is bound to.
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        create table idempotency_keys (
            org_id uuid not null references organizations on delete cascade,
            id uuid not null,
            subject text
                constraint idempotency_keys_subject_check
                check (char_length(subject) between 1 and 128),
            request text not null
                constraint idempotency_keys_request_check check (char_length(request) = 64),
            status smallint not null
                constraint idempotency_keys_status_check check (status between 200 and 399),
            content text not null,
            headers json not null,
            created_at timestamptz not null default now(),
            primary key (org_id, id)
        )
    """)
    op.execute(
        "create index idempotency_keys_org_id_created_at_idx "
        "on idempotency_keys (org_id, created_at)"
    )
    op.execute(
        "create index idempotency_keys_subject_id_idx "
        "on idempotency_keys (subject, id) where subject is not null"
    )
    op.execute("alter table idempotency_keys enable row level security")
    op.execute("alter table idempotency_keys force row level security")
    op.execute("""
        create policy tenant_isolation on idempotency_keys
            using      (org_id = (select nullif(current_setting('app.org_id', true), '')::uuid))
            with check (org_id = (select nullif(current_setting('app.org_id', true), '')::uuid))
    """)
    op.execute("""
        create policy member_read on idempotency_keys for select
            using (subject = (select nullif(current_setting('app.subject', true), '')))
    """)
    op.execute("grant select, insert, delete on idempotency_keys to covenant_app")


def downgrade() -> None:
    op.execute("drop table idempotency_keys")
