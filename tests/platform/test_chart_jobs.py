"""The scripts in the chart's Jobs, run against the service and a fake API server."""

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
    """Return the container of a Job."""
    pods = dict(pod_specs(shipped(environment)))
    container: Manifest = pods[f"Job/covenant-{name}"]["containers"][0]
    return container


def run(container: Manifest, script: str, **settings: str) -> "subprocess.CompletedProcess[str]":
    """Run a script with the environment variables of its container."""
    assert container["command"] == ["python", "-c"]
    environment = {v["name"]: v["value"] for v in container["env"] if "value" in v}
    return subprocess.run(
        [sys.executable, "-c", script],
        env={"PATH": os.environ["PATH"], **environment, **settings},
        capture_output=True,
        text=True,
        timeout=120,
    )


# helm test


@pytest.mark.parametrize("name", ["test-sign-in", "test-create", "test-tenants"])
def test_the_charts_tests_pass_against_the_service(service: Service, name: str) -> None:
    container = job(name)
    result = run(container, container["args"][0], BASE_URL=service.url)
    assert result.returncode == 0, result.stderr
    if name == "test-tenants":
        paths = [o.path for o in contract.load(handlers=None).operations.values()]
        count = sum("{org_id}" in path for path in paths)
        assert f"with {count} operations" in result.stdout


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        # Each change makes the script see a service with the defect it tests for.
        ("test-sign-in", 'payload["iss"] == os.environ["ISSUER"]', 'payload["iss"] == "other"'),
        ("test-sign-in", "check_status(id, 401,", "check_status(id, 200,"),
        ("test-create", "listed == [tenant]", "listed == []"),
        ("test-tenants", "TENANT: other_tenant}\n", "TENANT: other_tenant}; token = other_token\n"),
        ("test-tenants", "same = comparable(foreign)", "same = foreign"),
    ],
)
def test_the_charts_tests_fail_for_a_defective_service(
    service: Service, name: str, old: str, new: str
) -> None:
    container = job(name)
    assert old in container["args"][0]
    result = run(container, container["args"][0].replace(old, new), BASE_URL=service.url)
    assert result.returncode == 1, result.stdout


# Bootstrap


class Api(BaseHTTPRequestHandler):
    """A fake API server that only creates Secrets and responds with 409 if the name exists."""

    secrets: ClassVar[dict[str, Any]] = {}

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = body["metadata"]["name"]
        allowed = (
            self.headers["Authorization"] == "Bearer the-token"
            and self.path == "/api/v1/namespaces/here/secrets"
        )
        exists = name in self.secrets
        if allowed and not exists:
            self.secrets[name] = body
        self.send_response(403 if not allowed else 409 if exists else 201)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


@pytest.fixture
def api(tmp_path: Path) -> Iterator[HTTPServer]:
    """Start an API server; its token and certificate are in `tmp_path`, as mounted in a pod."""
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
    """Run the bootstrap Job against `api`, with the token and certificate in `folder`."""
    container = job("bootstrap")
    return run(
        container,
        container["args"][0].replace('"/run/api"', repr(str(folder))),
        NAMESPACE="here",
        KUBERNETES_SERVICE_HOST="localhost",
        KUBERNETES_SERVICE_PORT_HTTPS=str(api.server_port),
    )


def test_the_bootstrap_creates_missing_secrets_and_keeps_existing_ones(
    api: HTTPServer, tmp_path: Path
) -> None:
    first = bootstrap(api, tmp_path)
    assert first.returncode == 0, first.stderr
    created = json.loads(json.dumps(Api.secrets))
    assert created.keys() == {"covenant-keys", "covenant-database", "covenant-migration"}
    second = bootstrap(api, tmp_path)
    assert second.returncode == 0
    assert second.stdout.count("already exists") == 3
    assert Api.secrets == created
    del Api.secrets["covenant-database"]
    assert "covenant-database: created" in bootstrap(api, tmp_path).stdout


def test_the_service_and_postgresql_can_read_the_created_secrets(
    api: HTTPServer, tmp_path: Path
) -> None:
    bootstrap(api, tmp_path)
    data = {
        name: {k: base64.b64decode(v).decode() for k, v in secret["data"].items()}
        for name, secret in Api.secrets.items()
    }
    folder = tmp_path / "keys"
    folder.mkdir()
    for name, text in data["covenant-keys"].items():
        (folder / name).write_text(text)
    assert keys.KeyRing(folder)
    for name, user in (("database", "covenant_app"), ("migration", "covenant_owner")):
        secret = data[f"covenant-{name}"]
        assert Api.secrets[f"covenant-{name}"]["type"] == "kubernetes.io/basic-auth"
        assert secret["username"] == user
        assert re.fullmatch(
            rf"postgresql://{user}:{secret['password']}@covenant-db-rw:5432/covenant\?sslmode=require",
            secret["url"],
        )
    assert data["covenant-database"]["password"] != data["covenant-migration"]["password"]


def test_the_bootstrap_fails_without_permission(api: HTTPServer, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("another")
    result = bootstrap(api, tmp_path)
    assert result.returncode == 1
    assert "the API server responded with 403" in result.stderr
