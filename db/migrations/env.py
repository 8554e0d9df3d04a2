"""How Alembic reaches the database; `db.migrate` hands it the connection."""

from alembic import context

from db.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata(),
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
