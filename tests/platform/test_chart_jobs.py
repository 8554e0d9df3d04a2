"""The scripts that the Jobs of the chart run: against the service, and against an API server."""

import base64
import json
import os
import re
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from openapi import contract
from service.identity import keys
from tests.platform.fix_chart import Manifest, pod_specs, shipped
from tests.platform.fix_service import Service
from tests.platform.fix_tools import tool


def job(name: str, environment: str = "local") -> Manifest:
    (found,) = [pod for at, pod in pod_specs(shipped(environment)) if at == f"Job/covenant-{name}"]
    container: Manifest = found["containers"][0]
    return container


def run(container: Manifest, script: str, **settings: str) -> "subprocess.CompletedProcess[str]":
    assert container["command"] == ["python", "-c"]
    given = {v["name"]: v["value"] for v in container["env"] if "value" in v}
    return subprocess.run(
        [sys.executable, "-c", script],
        env={"PATH": os.environ["PATH"], **given, **settings},
        capture_output=True,
        text=True,
        timeout=120,
    )


# helm test


@pytest.mark.parametrize("name", ["test-sign-in", "test-create", "test-tenants"])
def test_the_charts_tests_pass_against_the_service(service: Service, name: str) -> None:
    container = job(name)
    done = run(container, container["args"][0], BASE_URL=service.url)
    assert done.returncode == 0, done.stderr
    if name == "test-tenants":
        paths = [o.path for o in contract.load(handlers=None).operations.values()]
        count = sum("{org_id}" in path for path in paths)
        assert f"with {count} operations" in done.stdout


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        # What each script would see of a service that is broken in the way it looks for.
        ("test-sign-in", 'found["iss"] == os.environ["ISSUER"]', 'found["iss"] == "other"'),
        ("test-sign-in", "status == 401", "status == 200"),
        ("test-create", "[tenant]", "[]"),
        ("test-tenants", "ids = {TENANT: other}", "ids = {TENANT: other}; token = other_token"),
    ],
)
def test_the_charts_tests_fail_for_a_service_that_does_not_keep_its_word(
    service: Service, name: str, old: str, new: str
) -> None:
    container = job(name)
    assert old in container["args"][0]
    done = run(container, container["args"][0].replace(old, new), BASE_URL=service.url)
    assert done.returncode == 1, done.stdout


# Bootstrap


class Api(BaseHTTPRequestHandler):
    """As much of an API server as creates Secrets: 409 for a name that is taken."""

    secrets: ClassVar[dict[str, Any]] = {}

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = body["metadata"]["name"]
        allowed = (
            self.headers["Authorization"] == "Bearer the-token"
            and self.path == "/api/v1/namespaces/here/secrets"
        )
        taken = name in self.secrets
        if allowed and not taken:
            self.secrets[name] = body
        self.send_response(403 if not allowed else 409 if taken else 201)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


@pytest.fixture
def api(tmp_path: Path) -> Iterator[HTTPServer]:
    """An API server whose token and certificate are in `tmp_path`, as a pod has them."""
    key, certificate = tmp_path / "key.pem", tmp_path / "ca.crt"
    subprocess.run(
        [
            *(tool("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    (tmp_path / "token").write_text("the-token")
    Api.secrets = {}
    server = HTTPServer(("127.0.0.1", 0), Api)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def bootstrap(api: HTTPServer, folder: Path) -> "subprocess.CompletedProcess[str]":
    container = job("bootstrap")
    return run(
        container,
        container["args"][0].replace('"/run/api"', repr(str(folder))),
        NAMESPACE="here",
        KUBERNETES_SERVICE_HOST="localhost",
        KUBERNETES_SERVICE_PORT_HTTPS=str(api.server_port),
    )


def test_the_bootstrap_makes_what_is_missing_and_leaves_what_is_there(
    api: HTTPServer, tmp_path: Path
) -> None:
    first = bootstrap(api, tmp_path)
    assert first.returncode == 0, first.stderr
    made = json.loads(json.dumps(Api.secrets))
    assert made.keys() == {"covenant-keys", "covenant-database", "covenant-migration"}
    second = bootstrap(api, tmp_path)
    assert second.returncode == 0
    assert second.stdout.count("exists") == 3
    assert Api.secrets == made
    del Api.secrets["covenant-database"]
    assert "covenant-database: created" in bootstrap(api, tmp_path).stdout


def test_the_bootstraps_secrets_are_what_the_service_and_postgresql_read(
    api: HTTPServer, tmp_path: Path
) -> None:
    bootstrap(api, tmp_path)
    data = {
        name: {k: base64.b64decode(v).decode() for k, v in secret["data"].items()}
        for name, secret in Api.secrets.items()
    }
    ring = tmp_path / "ring"
    ring.mkdir()
    for name, text in data["covenant-keys"].items():
        (ring / name).write_text(text)
    assert keys.KeyRing(ring)
    for name, user in (("database", "covenant_app"), ("migration", "covenant_owner")):
        secret = data[f"covenant-{name}"]
        assert Api.secrets[f"covenant-{name}"]["type"] == "kubernetes.io/basic-auth"
        assert secret["username"] == user
        assert re.fullmatch(
            rf"postgresql://{user}:{secret['password']}@covenant-db-rw:5432/covenant\?sslmode=require",
            secret["url"],
        )
    assert data["covenant-database"]["password"] != data["covenant-migration"]["password"]


def test_the_bootstrap_fails_when_it_may_not(api: HTTPServer, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("another")
    done = bootstrap(api, tmp_path)
    assert done.returncode == 1
    assert "the API server answers 403" in done.stderr
