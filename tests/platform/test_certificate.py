"""The isolation certificate: it is derived, it is honest, and planted faults turn it red."""

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
from evidence.certificate import (
    catalogue,
    comparison,
    matrix,
    mutants,
    report,
    row_snapshots,
    timing,
)
from evidence.certificate.matrix import ATTACK_VECTORS, IDENTITIES
from evidence.certificate.mutants import Mutant
from evidence.certificate.results import Case, Certificate, Check, Evidence, Request, Response, Run
from evidence.certificate.runs import figures
from evidence.harness import processes
from openapi import contract
from openapi.contract import Contract
from tests.platform.fix_postgres import Database, Postgres
from tests.platform.fix_service import Service, Tenant
from tests.platform.fix_tools import page

ROOT = Path(__file__).parents[2]


def certify(server_url: str, out: Path, *options: str, **settings: str) -> tuple[int, str]:
    """Run the command and return its exit code and all that it printed."""
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
def made(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A certificate of the matrix and the layers, and what was printed."""
    out = tmp_path_factory.mktemp("certificate")
    code, said = certify(postgres.superuser_url, out, "--parts", "matrix,layers")
    assert code == 0, said
    return out, said


@pytest.fixture(scope="module")
def loaded(made: tuple[Path, str]) -> dict[str, Any]:
    certificate: dict[str, Any] = json.loads((made[0] / "certificate.json").read_text())
    return certificate


def test_every_operation_meets_every_identity_in_every_way(loaded: dict[str, Any]) -> None:
    cells = {(c["operation"], c["identity"], c["way"]) for c in loaded["runs"][0]["cells"]}
    operations = contract.load().operations
    assert cells == {(o, i, w) for o in operations for i in IDENTITIES for w in ATTACK_VECTORS}
    assert loaded["faults"] == []


def test_a_cell_that_does_not_apply_says_why(loaded: dict[str, Any]) -> None:
    for cell in loaded["runs"][0]["cells"]:
        assert (cell["state"] == "n/a") == bool(cell["reason"]) == (not cell["evidence"])


def test_every_cell_shows_request_answer_and_effect(loaded: dict[str, Any]) -> None:
    for cell in loaded["runs"][0]["cells"]:
        for evidence in cell["evidence"]:
            assert evidence["request"]["target"].startswith("/")
            assert evidence["answer"]["status"] >= 200
            assert evidence["compared"]
            assert "row" in evidence["effect"]


def test_the_tenants_own_requests_succeed(loaded: dict[str, Any]) -> None:
    own = {
        cell["operation"]: cell["evidence"][0]["answer"]["status"]
        for cell in loaded["runs"][0]["cells"]
        if (cell["identity"], cell["way"]) == ("own", "header")
    }
    assert own.keys() == contract.load().operations.keys()
    assert all(200 <= status < 300 for status in own.values()), own


def test_what_was_not_run_is_said_and_keeps_it_from_being_a_pass(
    made: tuple[Path, str], loaded: dict[str, Any]
) -> None:
    assert loaded["verdict"] == "incomplete"
    assert loaded["not_run"] == ["timing: not asked for", "pooler: not asked for"]
    assert "not run: pooler: not asked for" in made[1]
    assert "not everything was looked at" in (made[0] / "certificate.html").read_text()


def test_the_page_needs_no_script_and_no_network(made: tuple[Path, str]) -> None:
    page = (made[0] / "certificate.html").read_text()
    assert not re.search(
        r"<script|<link|<img|<iframe|\son\w+=|(src|href)=\"(?!#)|@import|url\(", page
    )


def test_a_square_of_the_matrix_opens_its_cell_in_a_browser(made: tuple[Path, str]) -> None:
    cell = "projects.get/path-id/other"
    with page() as browser:
        url = (made[0] / "certificate.html").as_uri()
        browser.call("Page.navigate", url=url)
        browser.until(f"document.readyState == 'complete' && location.href == {url!r}")
        seen = f"document.getElementById({cell!r}).checkVisibility()"
        assert browser.run(seen) is False
        browser.run(f"document.querySelector('a[href=\"#{cell}\"]').click()")
        browser.until(seen)
        assert "404" in browser.run(f"document.getElementById({cell!r}).innerText")
        assert browser.complaints == []


def test_no_token_is_kept(made: tuple[Path, str]) -> None:
    for name in report.NAMES:
        assert "eyJ" not in (made[0] / name).read_text()


def test_the_roles_of_a_server_that_was_given_keep_their_passwords(
    made: tuple[Path, str], database: Database
) -> None:
    for url in (database.app_url, database.owner_url):
        with psycopg.connect(url) as connection:
            assert connection.execute("select 1").fetchone() == (1,)


def test_an_incomplete_certificate_fails_where_a_complete_one_is_demanded(
    postgres: Postgres, tmp_path: Path
) -> None:
    assert certify(postgres.superuser_url, tmp_path, "--parts", "", "--complete")[0] == 1


def test_a_run_that_is_killed_leaves_no_certificate(postgres: Postgres, tmp_path: Path) -> None:
    for name in report.NAMES:
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


def test_a_service_of_another_contract_stops_the_run(planted: Service, tmp_path: Path) -> None:
    (tmp_path / "certificate.json").write_text("old")
    code, said = certify("", tmp_path, "--url", planted.url)
    assert code == 2
    assert f"checked out is sha256:{contract.load().hash}: nothing was run" in said
    assert list(tmp_path.iterdir()) == []


def test_a_running_service_is_certified_as_far_as_can_be_seen(
    service: Service, tmp_path: Path
) -> None:
    where = ("--url", service.url, "--keys-dir", str(service.keys_dir))
    code, said = certify("", tmp_path, *where, "--parts", "matrix")
    certificate = json.loads((tmp_path / "certificate.json").read_text())
    assert (code, certificate["verdict"], certificate["faults"]) == (0, "incomplete", []), said
    assert any(reason.startswith("effects: ") for reason in certificate["not_run"])


# What the contract asks for


def grown(tmp_path: Path, **paths: Any) -> Contract:
    document = yaml.safe_load(contract.DEFAULT.read_text())
    for path, item in paths.items():
        document["paths"][path.replace("__", "/")] = item
    document["tags"].append({"name": "tasks"})
    file = tmp_path / "contract.json"
    file.write_text(json.dumps(document))
    return contract.load(file, None)


def tasks(*methods: str) -> dict[str, Any]:
    """Operations like those of projects, below one project."""
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


def test_a_new_operation_is_covered_the_moment_it_exists(tmp_path: Path) -> None:
    new = grown(
        tmp_path,
        **{
            COLLECTION: {"parameters": PARENTS, **tasks("post")},
            COLLECTION + ONE: {"parameters": [*PARENTS, TASK_ID], **tasks("get", "delete")},
        },
    )
    assert matrix.uncoverable(new, set()) == []
    assert list(matrix.makers(new)) == ["org_id", "project_id", "task_id"]
    plans = {plan.operation.id: plan for plan in matrix.plans(new)}
    assert plans["tasks.get"].ways.keys() == ATTACK_VECTORS.keys()
    parents = plans["tasks.get"].ways["parent id"]
    assert not isinstance(parents, str)
    assert {probe.names for probe in parents} == {
        ("org_id", "project_id"),
        ("org_id",),
        ("project_id",),
    }
    assert catalogue.needed(new)["table tasks"] == {"INSERT", "SELECT", "DELETE"}


def test_an_operation_that_cannot_be_covered_is_a_fault(tmp_path: Path) -> None:
    new = grown(tmp_path, **{COLLECTION + ONE: {"parameters": [*PARENTS, TASK_ID], **tasks("get")}})
    (fault,) = matrix.uncoverable(new, set())
    assert fault.startswith("tasks.get: cannot be covered: no operation makes a `task_id`")


def test_a_public_operation_of_a_tenant_is_a_fault(tmp_path: Path) -> None:
    item = tasks("get")
    item["get"]["security"] = []
    new = grown(tmp_path, **{"/orgs/{org_id}/notes": {"parameters": PARENTS[:1], **item}})
    assert "tasks.get: names a tenant in its path and is public" in matrix.uncoverable(new, set())


# How answers and rows are judged


def answer(status: int, body: str = "", **headers: str) -> Response:
    fields = {"content-type": "application/json", "x-request-id": "a", "date": "now"} | headers
    return Response(status, tuple(fields.items()), body.encode(), 0.0)


ID, OTHER_ID, KNOWN = ("0192" + "0" * 4 + f"-0000-7000-8000-00000000000{n}" for n in range(3))


@pytest.mark.parametrize(
    ("one", "other", "difference"),
    [
        (answer(404, "gone"), answer(404, "gone"), None),
        (answer(404, "gone"), answer(403, "gone"), "status 404, and 403 for what nobody has"),
        (answer(404, "gone"), answer(404, "gone "), "another body"),
        (answer(404), answer(404, etag="x"), "another header etag"),
        (answer(404, "r a"), answer(404, "r b", **{"x-request-id": "b"}), None),
        (answer(404, ID), answer(404, OTHER_ID), "another body"),
        (answer(200, f'{{"id":"{ID}"}}'), answer(200, f'{{"id":"{OTHER_ID}"}}'), None),
        (
            answer(200, f'{{"id":"{KNOWN}"}}'),
            answer(200, f'{{"id":"{ID}"}}'),
            "body/id: another text",
        ),
        (answer(200, '{"n":"mine"}'), answer(200, '{"n":"yours"}'), "body/n: another text"),
        (answer(200, '{"n":"sent"}'), answer(200, '{"n":"also"}'), None),
        (answer(200, "[1,2]"), answer(200, "[1]"), "body: 2 items, and 1 for what nobody has"),
        (answer(200, '{"total":9}'), answer(200, '{"total":2}'), "body/total: another number"),
        (answer(200, '{"a":1}'), answer(200, '{"b":1}'), "body: other members"),
    ],
)
def test_answers_differ_by_nothing_but_what_is_new_each_time(
    one: Response, other: Response, difference: str | None
) -> None:
    found = comparison.differences(one, other, {KNOWN}, {"sent", "also"})
    assert found == ([difference] if difference else [])


def test_a_row_that_is_written_again_counts_as_changed(database: Database, acme: Tenant) -> None:
    with psycopg.connect(database.superuser_url, autocommit=True) as connection:
        tables = row_snapshots.tables(connection)
        before = row_snapshots.snapshot(connection, tables, [acme.org])
        connection.execute("update organizations set name = name where id = %s", (acme.org,))
        after = row_snapshots.snapshot(connection, tables, [acme.org])
    assert row_snapshots.told(before, after, False)[1] == [
        "rows of another tenant changed: organizations"
    ]
    other = {name: (whole, "") for name, (whole, _) in after.items()}
    own = {name: (whole, "") for name, (whole, _) in before.items()}
    assert row_snapshots.told(own, other, False)[1] == []
    assert "refused, and rows changed" in row_snapshots.told(own, other, True)[1][0]
    assert {table.name for table in tables} >= {"organizations", "memberships", "projects"}


def noise(n: int, least: float = 1.5) -> float:
    """Milliseconds as a loaded machine answers: mostly `least`, sometimes far more."""
    value = (n * 2654435761) % 1000 / 1000
    return least + value + (30 * value if value > 0.9 else 0)


def test_a_planted_delay_is_found_and_noise_is_not() -> None:
    absent = [noise(n) for n in range(80)]
    assert not timing.look([noise(n + 7919) for n in range(80)], absent).is_found(50)
    assert timing.look([noise(n + 7919) + 20 for n in range(80)], absent).is_found(50)
    assert not timing.look([value + 0.01 for value in absent], absent).is_found(50)


# What a certificate says of itself

REQUEST = Request("GET", "/x")


def one_cell(*faults: str) -> Certificate:
    evidence = Evidence("p", REQUEST, answer(200), "", "no row changed", faults)
    run = Run("direct", (Case("x.get", "other", "path id", (evidence,)),), (Check("l", "n", "e"),))
    about = {
        "contract": {"title": "T", "version": "1", "hash": "sha256:0"},
        **dict.fromkeys(("commit", "tree_is_clean", "postgresql", "warning", "made_at"), ""),
        "seconds": 0,
    }
    return Certificate(about, (run,), figures=figures((run,)))


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        (lambda c: c, "pass"),
        (lambda c: replace(c, not_run=("pooler",)), "incomplete"),
        (lambda c: replace(c, runs=()), "incomplete"),
        (lambda c: replace(c, faults=("stage: no",), not_run=("pooler",)), "fail"),
        (lambda c: replace(c, runs=(Run("d", (), (Check("l", "n", "e", ("bad",)),)),)), "fail"),
        (lambda c: one_cell("bad"), "fail"),
    ],
)
def test_the_verdict_is_a_pass_only_where_all_was_looked_at(
    change: Callable[[Certificate], Certificate], verdict: str
) -> None:
    assert change(one_cell()).verdict == verdict


def test_files_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: Any) -> None:
    def full(source: object, target: object) -> None:
        raise OSError("no space left")

    report.remove(tmp_path)
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        report.write(replace(one_cell(), runs=()), tmp_path)
    assert not any((tmp_path / name).exists() for name in report.NAMES)


# Mutants: `python -m evidence.certificate mutants` runs all of them

HANDFUL = (
    "policy with check (true)",
    "a handler that forgets the tenant: delete",
)


def test_there_are_many_mutants_each_with_a_reason_of_its_own() -> None:
    every = mutants.plants()
    assert len(every) >= 25
    assert len({mutant.name for mutant in every}) == len(every)
    assert all(mutant.reason and (mutant.sql or mutant.edits) for mutant in every)


@pytest.mark.parametrize("mutant", mutants.plants(), ids=lambda mutant: mutant.name)
def test_a_mutant_can_still_be_planted(mutant: Mutant) -> None:
    for file in {file for file, _, _ in mutant.edits}:
        text = (ROOT / file).read_text()
        spoilt = mutants.planted(text, file, mutant)
        assert spoilt != text
        if file.endswith(".py"):
            compile(spoilt, file, "exec")


@pytest.mark.parametrize("name", HANDFUL)
def test_a_mutant_is_killed_for_its_own_reason(
    name: str, postgres: Postgres, tmp_path: Path
) -> None:
    (mutant,) = [m for m in mutants.plants() if m.name == name]
    fate = mutants.fate(mutant, tmp_path, postgres.superuser_url)
    assert fate.killed, fate.told


def test_a_mutant_that_finds_nothing_to_change_is_not_counted_as_killed(tmp_path: Path) -> None:
    lost = Mutant("lost", "x", edits=(("db/ids.py", "no such text", "x"),))
    fate = mutants.fate(lost, tmp_path, "")
    assert (fate.killed, fate.told) == (
        False,
        "could not be planted: db/ids.py has no 'no such text'",
    )


def test_without_pgbouncer_the_second_run_is_named_as_not_run(monkeypatch: Any) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(processes, "SBIN", "")
    assert processes.find_program("pgbouncer") is None
