"""A real PgBouncer in transaction mode before the database of a test."""

import os
import pwd
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from tests.fix_postgres import Database
from tests.fix_service import free_port, until
from tests.fix_tools import tool

SETTINGS = """
[databases]
{database} = host={host} port={port} dbname={database}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {users}
pool_mode = transaction
default_pool_size = {size}
query_wait_timeout = 5
"""


@contextmanager
def pooling(database: Database, size: int = 1) -> Iterator[str]:
    """Yield the URL of the serving role through a pool of `size` connections to the server."""
    program, listen = tool("pgbouncer"), free_port()
    parts = psycopg.conninfo.conninfo_to_dict(database.app_url)
    login = f"{parts['user']}:{parts['password']}"
    url = f"postgresql://{login}@127.0.0.1:{listen}/{database.name}"
    with tempfile.TemporaryDirectory() as name:
        users, settings, log = (Path(name, file) for file in ("users.txt", "pooler.ini", "log"))
        users.write_text(f'"{parts["user"]}" "{parts["password"]}"\n')
        settings.write_text(
            SETTINGS.format(
                database=database.name,
                host=parts["host"],
                port=parts["port"] or 5432,
                listen=listen,
                users=users,
                size=size,
            )
        )
        command = [program, str(settings)]
        if os.geteuid() == 0:  # it refuses to be root, and reads its files as whom it becomes
            command[1:1] = ["-u", "nobody"]
            for path in (name, users, settings):
                os.chown(path, pwd.getpwnam("nobody").pw_uid, -1)
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            until(lambda: _answers(url) or process.poll() is not None, 10)
            assert process.poll() is None, log.read_text()
            yield url
        finally:
            process.terminate()
            process.wait(10)


def _answers(url: str) -> bool:
    try:
        with psycopg.connect(url, connect_timeout=2, prepare_threshold=None) as connection:
            return connection.execute("select 1").fetchone() == (1,)
    except psycopg.Error:
        return False
