"""Access to PostgreSQL: sessions, connections, SQL, migrations."""
