"""PgBouncer in transaction mode in front of a database."""

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict

from evidence.harness import processes
from evidence.harness.postgres import urls
from evidence.harness.processes import HarnessError, find_program, free_port, wait_until

START_TIMEOUT_SECONDS = 40.0


@contextmanager
def pooler(folder: Path, app_url: str, size: int = 1, settings: str = "") -> Iterator[str]:
    """Yield the URL of a pooler with `size` connections to the database.

    `settings` are further lines of its configuration. Raises `HarnessError`.
    """
    pgbouncer = find_program("pgbouncer")
    if pgbouncer is None:
        raise HarnessError("pgbouncer is not installed (Debian: apt-get install pgbouncer)")
    parts, port = conninfo_to_dict(app_url), free_port()
    users, config, log = (folder / name for name in ("users.txt", "pgbouncer.ini", "log"))
    users.write_text(f'"{parts["user"]}" "{parts["password"]}"\n')
    config.write_text(
        f"""[databases]
{parts["dbname"]} = host={parts["host"]} port={parts["port"]} dbname={parts["dbname"]}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {users}
pool_mode = transaction
default_pool_size = {size}
query_wait_timeout = 5
server_login_retry = 0.2
{settings}
"""
    )
    command = [pgbouncer, str(config)]
    if os.geteuid() == 0:  # PgBouncer refuses to run as root
        command[1:1] = ["-u", "nobody"]
        nobody = pwd.getpwnam("nobody").pw_uid
        for path in (folder, users, config):
            os.chown(path, nobody, -1)
        folder.parent.chmod(0o711)  # a temporary folder, which only its owner may enter
    url = urls(app_url, str(parts["dbname"]), "127.0.0.1", port)()
    with processes.running(command, log) as process:
        wait_until(
            lambda: _connects(url) or process.poll() is not None, timeout=START_TIMEOUT_SECONDS
        )
        if not _connects(url):
            raise HarnessError(f"pgbouncer does not start: {processes.last_line(log)}")
        yield url


def _connects(url: str) -> bool:
    try:
        with psycopg.connect(url, connect_timeout=2, prepare_threshold=None) as connection:
            return connection.execute("select 1").fetchone() == (1,)
    except psycopg.Error:
        return False
