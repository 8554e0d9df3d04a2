"""The metrics of a running service, scraped from its admin port."""

import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from evidence.harness.processes import ROOT, free_port
from openapi import contract
from service.identity import keys
from tests.platform.fix_metrics import MonitoredService
from tests.platform.fix_postgres import Database
from tests.platform.fix_raw import raw
from tests.platform.fix_redis import redis
from tests.platform.fix_service import Service, Tenant, has_status, serving, tenant, until
from tests.platform.fix_tools import tool


@contextmanager
def monitoring(
    folder: Path, database_url: str, *, ready: bool = True, **settings: str
) -> Iterator[MonitoredService]:
    """Run a service with an admin port until the end of the block."""
    port = free_port()
    with serving(folder, database_url, ready=ready, ADMIN_PORT=str(port), **settings) as service:
        yield MonitoredService(service, port)


@pytest.fixture(scope="module")
def monitored(
    tmp_path_factory: pytest.TempPathFactory, database: Database
) -> Iterator[MonitoredService]:
    with monitoring(tmp_path_factory.mktemp("monitored"), database.app_url) as running:
        yield running


def test_requests_are_counted_by_operation_method_and_status(monitored: MonitoredService) -> None:
    before = monitored.samples()
    with tenant(monitored.service, "Acme") as acme:
        acme.get(f"/orgs/{acme.org}")
        acme.http.head(f"/orgs/{acme.org}")
        acme.get("/nowhere")
    after = monitored.samples()

    def increase(name: str) -> float:
        return after[name] - before.get(name, 0)

    assert increase("covenant_requests_total|GET|orgs.get|200") == 1
    assert increase("covenant_requests_total|HEAD|orgs.get|200") == 1
    assert increase("covenant_requests_total|GET|none|404") == 1
    assert increase("covenant_request_seconds_count|orgs.get") == 2
    assert increase("covenant_request_seconds_bucket|+Inf|orgs.get") == 2
    assert 0 < increase("covenant_request_seconds_sum|orgs.get") < 2
    assert after["covenant_requests_in_flight"] == 0
    assert sum(v for k, v in after.items() if k.startswith("covenant_undeclared")) == 0


def test_rejected_tokens_are_counted_by_reason(monitored: MonitoredService) -> None:
    before = monitored.samples()
    with monitored.service.http() as client:
        client.get("/auth/me")
        client.get("/auth/me", headers={"Authorization": "Basic x"})
    after = monitored.samples()
    for reason in ("missing", "scheme"):
        name = f"covenant_token_failures_total|{reason}"
        assert after[name] - before.get(name, 0) == 1


def test_a_request_that_is_not_http_is_counted_too(monitored: MonitoredService) -> None:
    before = monitored.samples()
    with raw(monitored.service.port) as connection:
        connection.send(b"nonsense\r\n\r\n")
        assert connection.response().status_code == 400
    name = "covenant_requests_total|other|none|400"
    assert monitored.samples()[name] - before.get(name, 0) == 1


def test_the_state_of_database_keys_and_process_is_exposed(monitored: MonitoredService) -> None:
    samples = monitored.samples()
    assert samples["covenant_database_ready"] == 1
    assert samples["covenant_database_connections|reads"] >= 1
    assert samples["covenant_database_waiting|writes"] == 0
    assert samples["covenant_database_in_flight|transactions"] == 0
    assert samples["covenant_stopping"] == 0
    assert samples["covenant_keys"] == 1
    assert "covenant_redis_ready" not in samples
    assert 86_400 <= samples["covenant_signing_key_age_seconds"] < 90_000
    assert samples["process_resident_memory_bytes"] > 1_000_000
    loaded = contract.load()
    assert samples[f"covenant_build_info|{loaded.hash}|{loaded.version}"] == 1


def test_odd_requests_add_no_metric_and_expose_nothing(monitored: MonitoredService) -> None:
    methods = ("GET", "PROPFIND", "TRACE", "LOCK", "OPTIONS", "DELETE", "HEAD", "PURGE")

    def flood(acme: Tenant, path: str, text: str) -> None:
        for n in range(40):
            acme.http.request(
                methods[n % len(methods)],
                f"/{text}/{n}" if n % 2 else path,
                params={"q": text},
                headers={"Authorization": f"Bearer {text}{n}"},
            )

    with tenant(monitored.service, "Flood") as acme:
        project = acme.project("canary-project")["id"]
        path = f"/orgs/{acme.org}/projects/{project}"
        flood(acme, path, "one")
        names = monitored.samples().keys()
        flood(acme, path, "canary-path")
    assert monitored.samples().keys() == names
    text = monitored.text()
    for secret in (acme.org, acme.subject, project, "canary", "PURGE"):
        assert secret not in text
    assert len(names) < 1500


def test_the_admin_port_serves_only_the_metrics_and_only_it_does(
    monitored: MonitoredService,
) -> None:
    assert has_status(f"{monitored.admin_url}/", 404)
    assert has_status(f"{monitored.admin_url}/health", 404)
    rejected = httpx.post(f"{monitored.admin_url}/metrics")
    assert (rejected.status_code, rejected.headers["allow"]) == (405, "GET")
    assert has_status(f"{monitored.service.url}/metrics", 404)


def test_a_slow_request_to_the_admin_port_is_a_request_timeout(
    monitored: MonitoredService,
) -> None:
    with raw(monitored.admin_port) as connection:
        connection.send(b"GET /metrics HTTP/1.1\r\n")
        assert connection.response(timeout=10).status_code == 408
        assert connection.is_closed()


def test_there_is_no_admin_port_by_default(service: Service) -> None:
    connections = psutil.Process(service.process.pid).net_connections("tcp")
    assert [c.laddr.port for c in connections if c.status == "LISTEN"] == [service.port]


def test_metrics_are_served_until_the_service_has_drained(
    tmp_path: Path, database: Database
) -> None:
    with monitoring(tmp_path, database.app_url, DRAIN_SECONDS="1.5") as monitored:
        service = monitored.service
        service.process.send_signal(signal.SIGTERM)
        until(lambda: has_status(f"{service.url}/ready", 503))
        assert monitored.samples()["covenant_stopping"] == 1
        assert monitored.samples()["covenant_unavailable_total|not_ready"] >= 1
        assert service.process.wait(20) == 0
        assert "Traceback" not in service.log_text()


def test_a_rejected_key_directory_and_changed_keys_are_exposed(
    tmp_path: Path, database: Database
) -> None:
    with monitoring(tmp_path, database.app_url) as monitored:
        directory = monitored.service.keys_dir
        assert monitored.samples()["covenant_keys_refused"] == 0
        weak = directory / "20200101T000000Z"
        weak.write_text("changeme")
        until(lambda: monitored.samples()["covenant_keys_refused"] == 1)
        assert monitored.samples()["covenant_keys"] == 1
        weak.unlink()
        until(lambda: monitored.samples()["covenant_keys_refused"] == 0)
        assert monitored.samples()["covenant_key_changes_total"] == 0
        keys.create_key(directory, time.time() + 60)
        until(lambda: monitored.samples()["covenant_key_changes_total"] == 1)
        assert monitored.samples()["covenant_keys"] == 2


def test_an_unavailable_redis_is_exposed(tmp_path: Path, database: Database) -> None:
    with (
        redis() as server,
        monitoring(tmp_path, database.app_url, REDIS_URL=server.url, GUEST_LIMIT="") as monitored,
    ):
        until(lambda: monitored.samples()["covenant_redis_ready"] == 1)
        server.kill()

        def is_noticed() -> bool:
            httpx.post(f"{monitored.service.url}/auth/guest")
            return monitored.samples()["covenant_redis_ready"] == 0

        until(is_noticed)


def test_a_blocked_event_loop_is_exposed(tmp_path: Path, database: Database) -> None:
    with monitoring(tmp_path, database.app_url) as monitored:
        process = monitored.service.process
        before = monitored.samples()["covenant_loop_late_seconds_total"]
        process.send_signal(signal.SIGSTOP)
        time.sleep(1)
        process.send_signal(signal.SIGCONT)
        until(lambda: monitored.samples()["covenant_loop_late_seconds_total"] - before > 0.7)


def test_an_unavailable_database_is_exposed(tmp_path: Path) -> None:
    nowhere = f"postgresql://covenant_app@127.0.0.1:{free_port()}/covenant"
    with monitoring(tmp_path, nowhere, ready=False) as monitored:
        url = monitored.service.url
        until(lambda: has_status(f"{url}/health"))
        until(lambda: "database_not_ready" in monitored.service.log_text())
        before = monitored.samples()
        assert before["covenant_database_ready"] == 0
        assert before["covenant_database_connections|reads"] == 0
        assert has_status(f"{url}/ready", 503)
        name = "covenant_unavailable_total|database_away"
        assert monitored.samples()[name] - before.get(name, 0) == 1


def test_promtool_accepts_the_metrics(monitored: MonitoredService) -> None:
    done = subprocess.run(
        [tool("promtool", "prometheus"), "check", "metrics"],
        input=monitored.text(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_documentation_lists_every_metric_and_every_token_failure(
    monitored: MonitoredService,
) -> None:
    page = (ROOT / "docs" / "observability.md").read_text()
    documented = set(re.findall(r"^\| `((?:covenant)_[a-z_]+)` \|", page, re.MULTILINE))
    assert documented == monitored.families()
    sources = [file.read_text() for file in (ROOT / "service/identity").glob("*.py")]
    reasons = set(re.findall(r"InvalidToken\(\"([a-z]+)\"", "".join(sources)))
    assert len(reasons) == 15
    assert all(f"`{reason}`" in page for reason in reasons)
