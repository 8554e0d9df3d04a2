"""What the service counts, and what it tells of it on the admin port."""

import re
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from service.identity.principals import MissingToken

from db.errors import StatementTimeout, Unavailable
from evidence.harness.processes import ROOT, free_port
from openapi import contract
from service.http.problems import Problem
from service.identity import keys
from service.identity.tokens import InvalidToken
from service.telemetry.metrics import BUCKETS, METHODS, NO_OPERATION, Metrics
from tests.platform.fix_postgres import Database
from tests.platform.fix_raw import raw
from tests.platform.fix_redis import redis
from tests.platform.fix_service import Service, Tenant, answers, serving, tenant, until
from tests.platform.fix_tools import tool

HERE = Path(__file__).parent


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(contract.load().operations)


def test_a_request_counts_once_and_its_time_in_one_bucket(metrics: Metrics) -> None:
    metrics.observe("orgs.get", "GET", 200, 0.001)
    metrics.observe("orgs.get", "GET", 200, 0.0011)
    metrics.observe("orgs.get", "GET", 404, 99)
    counted = {key: count for key, count in metrics.requests.items() if count}
    assert counted == {("orgs.get", "GET", 200): 2, ("orgs.get", "GET", 404): 1}
    row = metrics.seconds["orgs.get"]
    first = metrics.bounds.index(0.001)
    assert row[first : first + 2] == [1, 1]
    assert row[-2:] == [1, pytest.approx(99.0021)]
    assert sum(row[:-1]) == 3


def test_every_answer_that_is_declared_begins_at_zero(metrics: Metrics) -> None:
    """Else the first error of an operation would be no change, and no alert would see it."""
    assert metrics.requests["orgs.get", "GET", 500] == 0
    assert metrics.requests["orgs.create", "POST", 201] == 0


def test_what_a_client_invents_makes_no_new_name(metrics: Metrics) -> None:
    before = len(metrics.requests)
    for n in range(1000):
        metrics.observe(None, f"X{n}", 404, 0.001)
    for method in METHODS:
        metrics.observe(None, method, 405, 0.001)
    assert len(metrics.requests) == before + 1 + len(METHODS)
    assert metrics.requests[NO_OPERATION, "other", 404] == 1000


def test_refusals_count_by_reason(metrics: Metrics) -> None:
    for error in (
        InvalidToken("expired"),
        MissingToken(),
        Unavailable("Busy"),
        Unavailable("Full"),
        Unavailable("Late", maybe_done=True),
        Unavailable("the database is away"),
        Unavailable("OperationalError", lost=True),
        Unavailable("the migrations are behind (none of 0004)"),
        Unavailable("DiskFull"),
        StatementTimeout("QueryCanceled"),
        Problem("unavailable", "Requests cannot be counted"),
        ValueError("of no interest"),
    ):
        metrics.refused(error)
    assert metrics.token_failures == {"expired": 1, "missing": 1}
    assert metrics.unavailable == {
        "no_room": 3,
        "database_away": 2,
        "not_ready": 1,
        "DiskFull": 1,
        "too_slow": 1,
        "uncounted": 1,
    }


def test_every_latency_that_is_aimed_at_is_a_bound() -> None:
    operations = contract.load().operations
    aims = {
        operation.extensions.get("x-slo", {}).get("latency_ms", 5) / 1000
        for operation in operations.values()
    }
    assert aims | set(BUCKETS) == set(Metrics(operations).bounds)


# On the admin port


@dataclass(frozen=True)
class Told:
    """A service, and what its admin port tells."""

    service: Service
    admin: str

    def text(self) -> str:
        response = httpx.get(f"{self.admin}/metrics")
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
        return response.text

    def samples(self) -> dict[str, float]:
        """Return {name{label="value",…}: value}."""
        return {
            sample.name + "".join(f"|{v}" for _, v in sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(self.text())
            for sample in family.samples
        }


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, database: Database) -> Iterator[Told]:
    port = free_port()
    folder = tmp_path_factory.mktemp("told")
    with serving(folder, database.app_url, ADMIN_PORT=str(port)) as service:
        yield Told(service, f"http://127.0.0.1:{port}")


def test_requests_are_told_by_operation_method_and_status(told: Told) -> None:
    before = told.samples()
    with tenant(told.service, "Acme") as acme:
        acme.get(f"/orgs/{acme.org}")
        acme.http.head(f"/orgs/{acme.org}")
        acme.get("/nowhere")
    after = told.samples()

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0)

    assert grown("covenant_requests_total|GET|orgs.get|200") == 1
    assert grown("covenant_requests_total|HEAD|orgs.get|200") == 1
    assert grown("covenant_requests_total|GET|none|404") == 1
    assert grown("covenant_request_seconds_count|orgs.get") == 2
    assert grown("covenant_request_seconds_bucket|+Inf|orgs.get") == 2
    assert 0 < grown("covenant_request_seconds_sum|orgs.get") < 2
    assert after["covenant_requests_in_flight"] == 0
    assert sum(v for k, v in after.items() if k.startswith("covenant_undeclared")) == 0


def test_a_refused_token_is_told_by_its_reason(told: Told) -> None:
    before = told.samples()
    with told.service.http() as client:
        client.get("/auth/me")
        client.get("/auth/me", headers={"Authorization": "Basic x"})
    after = told.samples()
    for reason in ("missing", "scheme"):
        name = f"covenant_token_failures_total|{reason}"
        assert after[name] - before.get(name, 0) == 1


def test_a_request_that_is_no_http_is_counted_too(told: Told) -> None:
    before = told.samples()
    with raw(told.service.port) as connection:
        connection.send(b"nonsense\r\n\r\n")
        assert connection.answer().status_code == 400
    name = "covenant_requests_total|other|none|400"
    assert told.samples()[name] - before.get(name, 0) == 1


def test_the_state_of_the_database_and_of_the_keys_is_told(told: Told) -> None:
    now = told.samples()
    assert now["covenant_database_ready"] == 1
    assert now["covenant_database_connections|reads"] >= 1
    assert now["covenant_database_waiting|writes"] == 0
    assert now["covenant_database_in_flight|transactions"] == 0
    assert now["covenant_stopping"] == 0
    assert now["covenant_keys"] == 1
    assert "covenant_redis_ready" not in now
    assert 86_400 <= now["covenant_signing_key_age_seconds"] < 90_000
    assert now["process_resident_memory_bytes"] > 1_000_000
    loaded = contract.load()
    assert now[f"covenant_build_info|{loaded.hash}|{loaded.version}"] == 1


def test_a_flood_of_oddities_grows_nothing_and_tells_nothing(told: Told) -> None:
    methods = ("GET", "PROPFIND", "TRACE", "LOCK", "OPTIONS", "DELETE", "HEAD", "PURGE")

    def flood(acme: Tenant, path: str, seed: str) -> None:
        for n in range(40):
            acme.http.request(
                methods[n % len(methods)],
                f"/{seed}/{n}" if n % 2 else path,
                params={"q": seed},
                headers={"Authorization": f"Bearer {seed}{n}"},
            )

    with tenant(told.service, "Flood") as acme:
        project = acme.project("canary-project")["id"]
        path = f"/orgs/{acme.org}/projects/{project}"
        flood(acme, path, "one")
        once = told.samples().keys()
        flood(acme, path, "canary-path")
    assert told.samples().keys() == once
    text = told.text()
    for secret in (acme.org, acme.subject, project, "canary", "PURGE"):
        assert secret not in text
    assert len(once) < 1500


def test_the_admin_port_answers_one_question_and_the_service_does_not(told: Told) -> None:
    assert httpx.get(f"{told.admin}/").status_code == 404
    assert httpx.get(f"{told.admin}/health").status_code == 404
    refused = httpx.post(f"{told.admin}/metrics")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET")
    assert httpx.get(f"{told.service.url}/metrics").status_code == 404


def test_who_sends_no_request_to_the_admin_port_is_sent_away(told: Told) -> None:
    with raw(int(told.admin.rpartition(":")[2])) as connection:
        connection.send(b"GET /metrics HTTP/1.1\r\n")
        assert connection.answer(patience=10).status_code == 408
        assert connection.ends()


def test_without_the_setting_there_is_no_second_port(service: Service) -> None:
    connections = psutil.Process(service.process.pid).net_connections("tcp")
    assert [c.laddr.port for c in connections if c.status == "LISTEN"] == [service.port]


def test_the_metrics_are_told_until_the_end_of_the_drain(
    tmp_path: Path, database: Database
) -> None:
    port = free_port()
    with serving(tmp_path, database.app_url, ADMIN_PORT=str(port), DRAIN_SECONDS="1.5") as own:
        told = Told(own, f"http://127.0.0.1:{port}")
        own.process.send_signal(signal.SIGTERM)
        until(lambda: answers(f"{own.url}/ready", 503))
        assert told.samples()["covenant_stopping"] == 1
        assert told.samples()["covenant_unavailable_total|not_ready"] >= 1
        assert own.process.wait(20) == 0
        assert "Traceback" not in own.log_text()


def test_a_key_directory_that_is_refused_is_told(tmp_path: Path, database: Database) -> None:
    port = free_port()
    with serving(tmp_path, database.app_url, ADMIN_PORT=str(port)) as own:
        told = Told(own, f"http://127.0.0.1:{port}")
        assert told.samples()["covenant_keys_refused"] == 0
        weak = own.keys_dir / "20200101T000000Z"
        weak.write_text("changeme")
        until(lambda: told.samples()["covenant_keys_refused"] == 1)
        assert told.samples()["covenant_keys"] == 1
        weak.unlink()
        until(lambda: told.samples()["covenant_keys_refused"] == 0)
        assert told.samples()["covenant_key_changes_total"] == 0
        keys.create_key(own.keys_dir, time.time() + 60)
        until(lambda: told.samples()["covenant_key_changes_total"] == 1)
        assert told.samples()["covenant_keys"] == 2


def test_a_redis_that_is_away_is_told(tmp_path: Path, database: Database) -> None:
    port = free_port()
    with (
        redis() as counts,
        serving(
            tmp_path, database.app_url, ADMIN_PORT=str(port), REDIS_URL=counts.url, GUEST_LIMIT=""
        ) as own,
    ):
        told = Told(own, f"http://127.0.0.1:{port}")
        until(lambda: told.samples()["covenant_redis_ready"] == 1)
        counts.kill()

        def away() -> bool:
            httpx.post(f"{own.url}/auth/guest")
            return told.samples()["covenant_redis_ready"] == 0

        until(away)


def test_what_holds_the_loop_up_is_told(tmp_path: Path, database: Database) -> None:
    port = free_port()
    with serving(tmp_path, database.app_url, ADMIN_PORT=str(port)) as own:
        told = Told(own, f"http://127.0.0.1:{port}")
        before = told.samples()["covenant_loop_late_seconds_total"]
        own.process.send_signal(signal.SIGSTOP)
        time.sleep(1)
        own.process.send_signal(signal.SIGCONT)
        until(lambda: told.samples()["covenant_loop_late_seconds_total"] - before > 0.7)


def test_a_database_that_is_away_is_told(tmp_path: Path) -> None:
    port = free_port()
    nowhere = f"postgresql://covenant_app@127.0.0.1:{free_port()}/covenant"
    with serving(tmp_path, nowhere, ready=False, ADMIN_PORT=str(port)) as own:
        until(lambda: answers(f"{own.url}/health"))
        now = Told(own, f"http://127.0.0.1:{port}").samples()
        assert now["covenant_database_ready"] == 0
        assert now["covenant_database_connections|reads"] == 0


def test_prometheus_has_nothing_to_say_to_the_text(told: Told) -> None:
    done = subprocess.run(
        [tool("promtool", "prometheus"), "check", "metrics"],
        input=told.text(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def names(told: Told) -> set[str]:
    """Return every name that a query could use."""
    return {
        sample.name
        for family in text_string_to_metric_families(told.text())
        for sample in family.samples
    } | set(re.findall("^# TYPE (\\S+)", told.text(), re.MULTILINE))


def test_the_page_lists_what_is_told_and_nothing_else(told: Told) -> None:
    page = (ROOT / "docs" / "observability.md").read_text()
    listed = set(re.findall(r"^\| `((?:covenant)_[a-z_]+)` \|", page, re.MULTILINE))
    families = re.findall("^# TYPE (covenant_\\S+)", told.text(), re.MULTILINE)
    assert listed == set(families)
    for reason in re.findall(
        r"InvalidToken\(\"([a-z]+)\"", (ROOT / "service/identity/tokens.py").read_text()
    ):
        assert reason in page
