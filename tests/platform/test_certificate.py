"""The isolation certificate: derived from the contract, honest, and able to fail."""

import copy
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from db import roles
from evidence.certificate import catalogue, matrix, mutants, report, timing
from evidence.certificate.attack_vectors import ATTACK_VECTORS, AttackVector
from evidence.certificate.comparison import differences
from evidence.certificate.creators import Creator, coverage_issues, creators
from evidence.certificate.matrix import IDENTITIES
from evidence.certificate.mutants import Edit, Mutant
from evidence.certificate.resources import created_id
from evidence.certificate.results import (
    Case,
    Certificate,
    Check,
    Evidence,
    Request,
    Response,
    Run,
    State,
)
from evidence.certificate.row_snapshots import (
    Hashes,
    compare_snapshots,
    take_snapshot,
    tenant_tables,
)
from evidence.certificate.values import Uncoverable
from evidence.harness import processes
from openapi import contract
from openapi.contract import Contract
from tests.platform.fix_postgres import Database, Postgres
from tests.platform.fix_service import Service, Tenant
from tests.platform.fix_tools import page

ROOT = Path(__file__).parents[2]


def certify(server_url: str, out: Path, *options: str, **settings: str) -> tuple[int, str]:
    """Run the command; return its exit code and everything it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "evidence.certificate", "--out", str(out), *options],
        cwd=ROOT,
        env={**os.environ, "TEST_DATABASE_URL": server_url, **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def certified(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a certificate of the matrix and the layers, and the output."""
    out = tmp_path_factory.mktemp("certificate")
    code, output = certify(postgres.superuser_url, out, "--parts", "matrix,layers")
    assert code == 0, output
    return out, output


@pytest.fixture(scope="module")
def content(certified: tuple[Path, str]) -> dict[str, Any]:
    certificate: dict[str, Any] = json.loads((certified[0] / report.JSON_NAME).read_text())
    return certificate


@pytest.fixture(scope="module")
def html(certified: tuple[Path, str]) -> str:
    return (certified[0] / report.HTML_NAME).read_text()


def test_every_operation_meets_every_identity_and_attack_vector(content: dict[str, Any]) -> None:
    cases = {
        (c["operation"], c["identity"], c["attack_vector"]) for c in content["runs"][0]["cases"]
    }
    operations = contract.load().operations
    assert cases == {(o, i, v) for o in operations for i in IDENTITIES for v in ATTACK_VECTORS}
    assert content["issues"] == []


def test_a_case_that_does_not_apply_states_the_reason(content: dict[str, Any]) -> None:
    for case in content["runs"][0]["cases"]:
        is_not_applicable = case["state"] == "n/a"
        assert is_not_applicable == bool(case["not_applicable"]) == (not case["evidence"])


def test_every_case_shows_request_response_and_effect(content: dict[str, Any]) -> None:
    for case in content["runs"][0]["cases"]:
        for evidence in case["evidence"]:
            assert evidence["request"]["target"].startswith("/")
            assert evidence["response"]["status"] >= 200
            assert evidence["comparison"]
            assert "row" in evidence["effect"]


def test_the_tenants_own_requests_succeed(content: dict[str, Any]) -> None:
    statuses = {
        case["operation"]: case["evidence"][0]["response"]["status"]
        for case in content["runs"][0]["cases"]
        if (case["identity"], case["attack_vector"]) == ("own", "header")
    }
    assert statuses.keys() == contract.load().operations.keys()
    assert all(200 <= status < 300 for status in statuses.values()), statuses


def test_a_part_that_was_not_run_is_named_and_prevents_a_pass(
    certified: tuple[Path, str], content: dict[str, Any], html: str
) -> None:
    assert content["verdict"] == "incomplete"
    assert content["not_run"] == ["timing: not selected", "pooler: not selected"]
    assert "not run: pooler: not selected" in certified[1]
    assert "not everything was examined" in html


def test_the_terminal_and_the_page_show_the_same_figures(
    certified: tuple[Path, str], content: dict[str, Any], html: str
) -> None:
    figures = content["figures"]
    states = figures["cases_by_state"]
    assert figures["cases"] == states["pass"] + states["fail"] > 0
    summary = f"{figures['cases']:,} cases ({figures['probes']:,} probes) of"
    assert summary in certified[1]
    assert summary in html
    assert f"<dt>cases</dt><dd>{figures['cases']:,}</dd>" in html
    counts = [int(n.replace(",", "")) for n in re.findall(r"· ([\d,]+) cases</span>", html)]
    assert sum(counts) == figures["cases"]


def test_the_page_needs_no_script_and_no_network(html: str) -> None:
    assert not re.search(
        r"<script|<link|<img|<iframe|\son\w+=|(src|href)=\"(?!#)|@import|url\(", html
    )


def test_a_square_of_the_matrix_opens_its_case_in_a_browser(certified: tuple[Path, str]) -> None:
    case = "projects.get/path-id/other"
    with page() as browser:
        url = (certified[0] / report.HTML_NAME).as_uri()
        browser.call("Page.navigate", url=url)
        browser.until(f"document.readyState == 'complete' && location.href == {url!r}")
        is_visible = f"document.getElementById({case!r}).checkVisibility()"
        assert browser.run(is_visible) is False
        browser.run(f"document.querySelector('a[href=\"#{case}\"]').click()")
        browser.until(is_visible)
        assert "404" in browser.run(f"document.getElementById({case!r}).innerText")
        assert browser.complaints == []


def test_the_page_fits_a_narrow_screen(certified: tuple[Path, str]) -> None:
    with page() as browser:
        browser.call(
            "Emulation.setDeviceMetricsOverride",
            width=390,
            height=900,
            deviceScaleFactor=1,
            mobile=True,
        )
        url = (certified[0] / report.HTML_NAME).as_uri()
        browser.call("Page.navigate", url=url)
        browser.until(f"document.readyState == 'complete' && location.href == {url!r}")
        browser.run("document.querySelectorAll('details').forEach(d => { d.open = true })")
        assert browser.run("document.documentElement.scrollWidth") == 390


def test_no_token_is_written(certified: tuple[Path, str]) -> None:
    for name in report.FILE_NAMES:
        assert "eyJ" not in (certified[0] / name).read_text()


def test_the_roles_of_an_existing_server_keep_their_passwords(
    certified: tuple[Path, str], database: Database
) -> None:
    for url in (database.app_url, database.owner_url):
        with psycopg.connect(url) as connection:
            assert connection.execute("select 1").fetchone() == (1,)


def test_an_incomplete_certificate_fails_if_a_complete_one_is_required(
    postgres: Postgres, tmp_path: Path
) -> None:
    assert certify(postgres.superuser_url, tmp_path, "--parts", "", "--complete")[0] == 1


def test_a_run_that_is_killed_leaves_no_certificate(postgres: Postgres, tmp_path: Path) -> None:
    for name in report.FILE_NAMES:
        (tmp_path / name).write_text('{"verdict": "pass"}')
    process = subprocess.Popen(
        [sys.executable, "-m", "evidence.certificate", "--out", str(tmp_path), "--parts", "layers"],
        cwd=ROOT,
        env={**os.environ, "TEST_DATABASE_URL": postgres.superuser_url},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert "PostgreSQL" in process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait(20)
    process.stdout.close()
    roles.create_roles(postgres.superuser_url, postgres.owner_password, postgres.app_password)
    assert list(tmp_path.iterdir()) == []


def test_a_service_with_another_contract_stops_the_run(faulty: Service, tmp_path: Path) -> None:
    (tmp_path / report.JSON_NAME).write_text("old")
    code, output = certify("", tmp_path, "--url", faulty.url)
    assert code == 2
    assert f"the working tree has sha256:{contract.load().hash}. Nothing was run" in output
    assert list(tmp_path.iterdir()) == []


def test_a_running_service_is_certified_without_its_database(
    service: Service, tmp_path: Path
) -> None:
    options = ("--url", service.url, "--keys-dir", str(service.keys_dir))
    code, output = certify("", tmp_path, *options, "--parts", "matrix")
    certificate = json.loads((tmp_path / report.JSON_NAME).read_text())
    assert (code, certificate["verdict"], certificate["issues"]) == (0, "incomplete", []), output
    assert any(reason.startswith("effects: ") for reason in certificate["not_run"])


# What is derived from the contract


def extended(tmp_path: Path, **paths: Any) -> Contract:
    """Return the shipped contract with more paths, and a tag `tasks` that has no table."""
    document = yaml.safe_load(contract.DEFAULT.read_text())
    for path, item in paths.items():
        document["paths"][path.replace("__", "/")] = item
    document["tags"].append({"name": "tasks"})
    file = tmp_path / "contract.json"
    file.write_text(json.dumps(document))
    return contract.load(file, None)


def tasks(*methods: str) -> dict[str, Any]:
    """Return operations like those of projects, for a path below one project."""
    shipped = yaml.safe_load(contract.DEFAULT.read_text())["paths"]
    item: dict[str, Any] = {}
    for method in methods:
        source = "/orgs/{org_id}/projects" + ("" if method in ("post",) else "/{project_id}")
        item[method] = copy.deepcopy(shipped[source][method])
        item[method] |= {"operationId": f"tasks.{method}", "tags": ["tasks"]}
        item[method].pop("links", None)
    return item


PARENTS = [{"$ref": "#/components/parameters/OrgId"}, {"$ref": "#/components/parameters/ProjectId"}]
TASK_ID = {
    "name": "task_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "format": "uuid"},
}
COLLECTION, ONE = "/orgs/{org_id}/projects/{project_id}/tasks", "/{task_id}"


def test_a_new_operation_is_covered_at_once(tmp_path: Path) -> None:
    new = extended(
        tmp_path,
        **{
            COLLECTION: {"parameters": PARENTS, **tasks("post")},
            COLLECTION + ONE: {"parameters": [*PARENTS, TASK_ID], **tasks("get", "delete")},
        },
    )
    assert coverage_issues(new, set()) == []
    assert list(creators(new)) == ["org_id", "project_id", "task_id"]
    plans = {plan.operation.id: plan for plan in matrix.plans(new)}
    assert plans["tasks.get"].probes.keys() == ATTACK_VECTORS.keys()
    parents = plans["tasks.get"].probes[AttackVector.PARENT_ID]
    assert {probe.names for probe in parents} == {
        ("org_id", "project_id"),
        ("org_id",),
        ("project_id",),
    }
    assert catalogue.required_privileges(new)["table tasks"] == {"INSERT", "SELECT", "DELETE"}


def test_an_operation_that_cannot_be_covered_is_an_issue(tmp_path: Path) -> None:
    path = COLLECTION + ONE
    new = extended(tmp_path, **{path: {"parameters": [*PARENTS, TASK_ID], **tasks("get")}})
    (issue,) = coverage_issues(new, set())
    assert issue.startswith("tasks.get: cannot be covered: no operation creates a `task_id`")


def test_a_public_operation_of_a_tenant_is_an_issue(tmp_path: Path) -> None:
    item = tasks("get")
    item["get"]["security"] = []
    new = extended(tmp_path, **{"/orgs/{org_id}/notes": {"parameters": PARENTS[:1], **item}})
    assert "tasks.get: is public, but its path names a tenant" in coverage_issues(new, set())


def test_an_org_id_that_a_body_declares_is_probed() -> None:
    shipped = contract.load()
    create = shipped.operations["projects.create"]
    create = replace(create, body=copy.deepcopy(create.body))
    assert create.body is not None
    schema = create.body["content"]["application/json"]["schema"]
    schema["properties"]["org_id"] = {"type": "string", "format": "uuid"}
    changed = replace(shipped, operations={**shipped.operations, "projects.create": create})
    (plan,) = [plan for plan in matrix.plans(changed) if plan.operation is create]
    assert "the victim's org_id" in {probe.name for probe in plan.probes[AttackVector.BODY]}


def test_a_tag_without_a_table_needs_no_privileges(database: Database) -> None:
    privileges = catalogue.required_privileges(contract.load())
    with psycopg.connect(database.superuser_url) as superuser:
        before = catalogue.issues(superuser, privileges)
        after = catalogue.issues(superuser, privileges | {"table members": {"INSERT", "SELECT"}})
        assert after == before
        required = privileges | {"table projects": {"UPDATE"}}
        issue = "table projects: UPDATE is needed but not granted"
        assert issue in catalogue.issues(superuser, required)


# How responses and rows are judged


def response(status: int, body: str = "", **headers: str) -> Response:
    fields = {"content-type": "application/json", "x-request-id": "a", "date": "now"} | headers
    return Response(status, tuple(fields.items()), body.encode(), 0.0)


ID, OTHER_ID, KNOWN_ID = ("0192" + "0" * 4 + f"-0000-7000-8000-00000000000{n}" for n in range(3))


@pytest.mark.parametrize(
    ("received", "control", "difference"),
    [
        (response(404, "gone"), response(404, "gone"), None),
        (
            response(404, "gone"),
            response(403, "gone"),
            "status 404, but 403 for the control request",
        ),
        (response(404, "gone"), response(404, "gone "), "the bodies differ"),
        (response(404), response(404, etag="x"), "header etag differs"),
        (response(404, "r a"), response(404, "r b", **{"x-request-id": "b"}), None),
        (response(404, ID), response(404, OTHER_ID), "the bodies differ"),
        (response(200, f'{{"id":"{ID}"}}'), response(200, f'{{"id":"{OTHER_ID}"}}'), None),
        (
            response(200, f'{{"id":"{KNOWN_ID}"}}'),
            response(200, f'{{"id":"{ID}"}}'),
            "body/id: the text differs",
        ),
        (response(200, '{"n":"mine"}'), response(200, '{"n":"yours"}'), "body/n: the text differs"),
        (response(200, '{"n":"sent"}'), response(200, '{"n":"also"}'), None),
        (
            response(200, "[1,2]"),
            response(200, "[1]"),
            "body: 2 items, but 1 for the control request",
        ),
        (
            response(200, '{"total":9}'),
            response(200, '{"total":2}'),
            "body/total: the number differs",
        ),
        (response(200, '{"a":1}'), response(200, '{"b":1}'), "body: the members differ"),
    ],
)
def test_responses_may_differ_only_in_what_is_new_each_time(
    received: Response, control: Response, difference: str | None
) -> None:
    actual = differences(received, control, {KNOWN_ID}, {"sent", "also"})
    assert actual == ([difference] if difference else [])


def test_a_row_that_is_rewritten_unchanged_counts_as_changed(
    database: Database, acme: Tenant
) -> None:
    with psycopg.connect(database.superuser_url, autocommit=True) as connection:
        tables = tenant_tables(connection)
        before = take_snapshot(connection, tables, [acme.org])
        connection.execute("update organizations set name = name where id = %s", (acme.org,))
        after = take_snapshot(connection, tables, [acme.org])
    assert {table.name for table in tables} >= {"organizations", "memberships", "projects"}
    foreign_changed = ["rows of another tenant changed: organizations"]
    assert compare_snapshots(before, after, is_rejected=False)[1] == foreign_changed
    own_before, own_after = (
        {name: Hashes(hashes.all_rows, "") for name, hashes in snapshot.items()}
        for snapshot in (before, after)
    )
    assert compare_snapshots(own_before, own_after, is_rejected=False)[1] == []
    (issue,) = compare_snapshots(own_before, own_after, is_rejected=True)[1]
    assert "the request was rejected, but rows changed" in issue


def response_time_ms(n: int, minimum: float = 1.5) -> float:
    """Return a response time on a loaded machine: mostly near `minimum`, sometimes far more."""
    fraction = (n * 2654435761) % 1000 / 1000
    return minimum + fraction + (30 * fraction if fraction > 0.9 else 0)


def test_an_injected_delay_is_significant_and_noise_is_not() -> None:
    nonexistent = [response_time_ms(n) for n in range(80)]
    noise = [response_time_ms(n + 7919) for n in range(80)]
    assert not timing.compare_samples(noise, nonexistent).is_significant(50)
    delayed = [value + 20 for value in noise]
    assert timing.compare_samples(delayed, nonexistent).is_significant(50)
    slightly_delayed = [value + 0.01 for value in nonexistent]
    assert not timing.compare_samples(slightly_delayed, nonexistent).is_significant(50)


# How a created resource is identified


CREATE_THING = Creator("thing_id", contract.load().operations["projects.create"], "/data/id")


def test_the_id_of_a_created_resource_is_at_the_pointer() -> None:
    created = response(201, '{"data":{"id":"7"}}', location="/things/8")
    assert created_id(CREATE_THING, created) == "7"


@pytest.mark.parametrize("body", ["", "null", "[]", '{"id":"7"}', "not JSON"])
def test_a_201_without_an_id_in_its_body_is_identified_by_its_location(body: str) -> None:
    assert created_id(CREATE_THING, response(201, body, location="/things/8")) == "8"


def test_a_201_without_body_and_location_cannot_be_covered() -> None:
    message = "projects.create: the response has neither /data/id nor a Location"
    with pytest.raises(Uncoverable, match=message):
        created_id(CREATE_THING, response(201))


# What a certificate states

REQUEST = Request("GET", "/x")


def certificate(*issues: str) -> Certificate:
    """Return a certificate of one case, with these issues, and one check."""
    evidence = Evidence("p", REQUEST, response(200), "", "no row changed", issues)
    run = Run("direct", (Case("x.get", "other", "path id", (evidence,)),), (Check("l", "n", "e"),))
    metadata = {
        "contract": {"title": "T", "version": "1", "hash": "sha256:0"},
        "commit": "",
        "is_tree_clean": True,
        "postgresql": "",
        "postgresql_warning": "",
        "created_at": "",
        "duration_seconds": 0,
    }
    return Certificate(metadata, (run,))


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        (lambda c: c, "pass"),
        (lambda c: replace(c, not_run=("pooler",)), "incomplete"),
        (lambda c: replace(c, runs=()), "incomplete"),
        (lambda c: replace(c, issues=("setup: no",), not_run=("pooler",)), "fail"),
        (lambda c: replace(c, runs=(Run("d", (), (Check("l", "n", "e", ("bad",)),)),)), "fail"),
        (lambda c: certificate("bad"), "fail"),
    ],
)
def test_the_verdict_is_a_pass_only_if_everything_was_examined(
    change: Callable[[Certificate], Certificate], verdict: str
) -> None:
    assert change(certificate()).verdict == verdict


def test_cases_that_do_not_apply_are_not_counted() -> None:
    case = Case("x.get", "own", "path id", not_applicable="its path does not end in an id")
    (run,) = certificate().runs
    counted = replace(certificate(), runs=(replace(run, cases=(*run.cases, case)),))
    assert counted.figures["cases_by_state"][State.NOT_APPLICABLE] == 1
    assert counted.summary == "1 case (1 probe) of 1 operation, 1 check, 0 issues"


def test_the_page_groups_issues_by_operation_and_layer() -> None:
    failed = certificate("status 200, expected 404")
    (run,) = failed.runs
    check = Check("catalogue", "n", "e", ("projects: unknown policy more",))
    run = replace(run, checks=(check,))
    pooled = replace(run, name="pooled", checks=())
    groups = report.issue_groups(replace(failed, runs=(run, pooled), issues=("setup: no",)))
    anchor = "x.get/path-id/other"
    assert [(group.title, group.issues) for group in groups] == [
        ("Setup and coverage", [("setup: no", "")]),
        (
            "x.get",
            [
                ("other / path id / p: status 200, expected 404", anchor),
                ("other / path id / p (pooled): status 200, expected 404", anchor),
            ],
        ),
        ("Layer: catalogue", [("projects: unknown policy more", "")]),
    ]


def test_files_are_written_completely_or_not_at_all(tmp_path: Path, monkeypatch: Any) -> None:
    def fail(source: object, target: object) -> None:
        raise OSError("no space left")

    report.remove(tmp_path)
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        report.write(replace(certificate(), runs=()), tmp_path)
    assert not any((tmp_path / name).exists() for name in report.FILE_NAMES)


# Mutants: `python -m evidence.certificate mutants` runs all of them

SAMPLE = (
    "a policy checks (true)",
    "a handler ignores the tenant: delete",
)


def test_there_are_many_mutants_each_with_its_own_reason() -> None:
    loaded = mutants.load_mutants()
    assert len(loaded) >= 25
    assert len({mutant.name for mutant in loaded}) == len(loaded)
    assert all(mutant.reason and (mutant.sql or mutant.edits) for mutant in loaded)


@pytest.mark.parametrize("mutant", mutants.load_mutants(), ids=lambda mutant: mutant.name)
def test_a_mutant_still_applies_to_the_tree(mutant: Mutant) -> None:
    for file in {edit.file for edit in mutant.edits}:
        text = (ROOT / file).read_text()
        mutated = mutants.mutate(text, file, mutant)
        assert mutated != text
        if file.endswith(".py"):
            compile(mutated, file, "exec")


@pytest.mark.parametrize("name", SAMPLE)
def test_a_mutant_is_killed_for_its_own_reason(
    name: str, postgres: Postgres, tmp_path: Path
) -> None:
    (mutant,) = [mutant for mutant in mutants.load_mutants() if mutant.name == name]
    outcome = mutants.run_mutant(mutant, tmp_path, postgres.superuser_url)
    assert outcome.is_killed, outcome.detail


def test_a_mutant_that_does_not_apply_is_not_killed(tmp_path: Path) -> None:
    outdated = Mutant("outdated", "x", edits=(Edit("db/ids.py", "no such text", "x"),))
    outcome = mutants.run_mutant(outdated, tmp_path, "")
    assert (outcome.is_killed, outcome.detail) == (
        False,
        "cannot be applied: db/ids.py does not contain 'no such text'",
    )


def test_pgbouncer_is_not_found_if_it_is_not_installed(monkeypatch: Any) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(processes, "SBIN", "")
    assert processes.find_program("pgbouncer") is None
