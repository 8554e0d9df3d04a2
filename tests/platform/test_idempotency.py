"""Requests with an Idempotency-Key: done once, answered as often as they are sent."""

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from tests.platform.fix_postgres import Database, Postgres
from tests.platform.fix_problems import pointers
from tests.platform.fix_proxy import Proxy, proxy
from tests.platform.fix_service import Service, Tenant, serving, tenant, until

REPLAYED = "idempotency-replayed"


def keyed(to: Tenant, path: str, key: str, **body: Any) -> httpx.Response:
    return to.http.post(path, json=body, headers={"Idempotency-Key": key})


def projects(of: Tenant) -> str:
    return f"/orgs/{of.org}/projects"


def names(of: Tenant) -> list[str]:
    listed = of.get(projects(of), limit=100).json()["items"]
    return [project["name"] for project in listed]


@pytest.fixture
def key() -> str:
    return str(uuid.uuid4())


@pytest.fixture
def owner(database: Database) -> Iterator[psycopg.Connection[Any]]:
    """A superuser, who sees every row."""
    with psycopg.connect(database.superuser_url, autocommit=True) as connection:
        yield connection


def kept(owner: psycopg.Connection[Any], org_id: str) -> int:
    query = "select count(*) from idempotency_keys where org_id = %s"
    row = owner.execute(query, (org_id,)).fetchone()
    return int(row[0]) if row else 0


def age(owner: psycopg.Connection[Any], org_id: str, by: str) -> None:
    """Make what is kept of an organization older."""
    query = "update idempotency_keys set created_at = created_at - %s::interval where org_id = %s"
    owner.execute(query, (by, org_id))


def waiting(owner: psycopg.Connection[Any], count: int = 1) -> bool:
    """Whether so many statements wait for a lock."""
    query = "select from pg_locks where not granted"  # no snapshot, as pg_stat_activity has
    return owner.execute(query).rowcount >= count


@contextmanager
def nothing_written(owner: psycopg.Connection[Any]) -> Iterator[None]:
    """Let whoever makes a project wait until the end of the block."""
    with owner.transaction():
        owner.execute("lock table projects in share mode")
        yield


@dataclass(frozen=True)
class Cut:
    """A guest of a service that reaches its database through a proxy."""

    acme: Tenant
    owner: psycopg.Connection[Any]
    between: Proxy

    def off(self, send: Callable[[], httpx.Response]) -> httpx.Response:
        """Cut every connection while the commit of what is sent runs, and let new ones in."""
        query = "select from pg_stat_activity where query ilike 'commit' and wait_event = 'PgSleep'"
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(send)
            until(lambda: self.owner.execute(query).rowcount == 1)
            self.between.close()
            self.between.open()
            return answer.result()


@contextmanager
def guest(service: Service) -> Iterator[Tenant]:
    """A guest without an organization, whose token is bound to `org`."""
    with tenant(service, "Before") as made:
        signed_in = made.http.post("/auth/guest").json()
        made.http.headers["Authorization"] = f"Bearer {signed_in['access_token']}"
        made.subject, made.org = signed_in["subject"], signed_in["org_id"]
        yield made


def same(first: httpx.Response, again: httpx.Response) -> bool:
    """Whether it is the first answer, and says so."""
    assert REPLAYED not in first.headers
    assert again.headers[REPLAYED] == "true"
    fields = ("location", "content-type", "content-length")
    return (first.status_code, first.content, [first.headers[f] for f in fields]) == (
        again.status_code,
        again.content,
        [again.headers[f] for f in fields],
    )


def test_a_retry_gets_the_first_answer_and_changes_nothing(acme: Tenant, key: str) -> None:
    first = keyed(acme, projects(acme), key, name="Apollo")
    assert first.status_code == 201
    for _ in range(3):
        assert same(first, keyed(acme, projects(acme), key, name="Apollo"))
    assert names(acme) == ["Apollo"]


def test_a_retry_gets_the_first_answer_although_what_it_made_is_gone(
    acme: Tenant, key: str
) -> None:
    first = keyed(acme, projects(acme), key, name="Apollo")
    assert acme.http.delete(first.headers["location"]).status_code == 204
    assert same(first, keyed(acme, projects(acme), key, name="Apollo"))
    assert names(acme) == []


def test_the_spelling_of_a_body_makes_no_other_request(acme: Tenant, key: str) -> None:
    first = keyed(acme, projects(acme), key, name="Apollo")
    spelt = acme.http.post(
        projects(acme),
        content=b'  {"name" : "\\u0041pollo"}',
        headers={"Idempotency-Key": key, "Content-Type": "application/json"},
    )
    assert same(first, spelt)


def test_quotes_are_no_part_of_a_key(acme: Tenant, key: str) -> None:
    first = keyed(acme, projects(acme), f'"{key}"', name="Apollo")
    assert same(first, keyed(acme, projects(acme), key, name="Apollo"))
    odd = keyed(acme, projects(acme), '"a \\"b\\" \\\\c"', name="Vostok")
    assert same(odd, keyed(acme, projects(acme), '"a \\"b\\" \\\\c"', name="Vostok"))


def test_another_body_or_operation_with_the_key_is_refused(acme: Tenant, key: str) -> None:
    assert keyed(acme, projects(acme), key, name="Apollo").status_code == 201
    other = str(uuid.uuid4())
    assert keyed(acme, "/orgs", other, name="Second").status_code == 201
    for answer in (
        keyed(acme, projects(acme), key, name="Vostok"),
        keyed(acme, "/orgs", other, name="Third"),
    ):
        assert answer.status_code == 422
        assert answer.json()["code"] == "idempotency-key-reused"
    assert names(acme) == ["Apollo"]
    assert len(acme.get("/orgs").json()["items"]) == 2


def test_the_key_of_an_organization_makes_no_project(service: Service, key: str) -> None:
    with guest(service) as acme:
        assert keyed(acme, "/orgs", key, name="First").status_code == 201
        assert keyed(acme, projects(acme), key, name="First").status_code == 422


def test_an_error_is_not_kept(acme: Tenant, key: str) -> None:
    taken = acme.project("Apollo")
    for _ in range(2):
        refused = keyed(acme, projects(acme), key, name="Apollo")
        assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    assert (
        acme.http.post(
            projects(acme), json={"name": ""}, headers={"Idempotency-Key": key}
        ).status_code
        == 400
    )
    assert acme.http.delete(f"{projects(acme)}/{taken['id']}").status_code == 204
    made = keyed(acme, projects(acme), key, name="Apollo")
    assert made.status_code == 201
    assert same(made, keyed(acme, projects(acme), key, name="Apollo"))


def test_nothing_is_kept_of_a_request_without_a_key(
    acme: Tenant, owner: psycopg.Connection[Any]
) -> None:
    acme.project("Apollo")
    assert kept(owner, acme.org) == 0


@pytest.mark.parametrize(
    "key", ["", '""', '"a', 'a"', "a b", "a,b", "a\\b", '"a\\b"', "\xe9", "x" * 256]
)
def test_a_malformed_key_is_refused(someone: Tenant, key: str) -> None:
    sent = {"Idempotency-Key": key.encode("latin-1")}
    answer = someone.http.post(projects(someone), json={"name": "N"}, headers=sent)
    assert pointers(answer) == [("header", "/Idempotency-Key")]


def test_two_keys_are_refused(someone: Tenant) -> None:
    sent = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    answer = someone.http.post(projects(someone), json={"name": "N"}, headers=sent)
    assert pointers(answer) == [("header", "/Idempotency-Key")]


def test_retries_at_once_do_the_work_once(acme: Tenant, owner: psycopg.Connection[Any]) -> None:
    for turn in range(10):
        key = str(uuid.uuid4())

        def send(_: int, key: str = key, turn: int = turn) -> httpx.Response:
            return keyed(acme, projects(acme), key, name=f"P{turn}")

        with ThreadPoolExecutor(3) as pool:
            answers = list(pool.map(send, range(3)))
        made = [a for a in answers if a.status_code == 201]
        assert [REPLAYED in a.headers for a in made].count(False) == 1
        assert len({a.content for a in made}) == 1
        for other in answers:
            if other not in made:
                assert (other.status_code, other.json()["code"]) == (409, "idempotency-key-in-use")
    assert names(acme) == [f"P{turn}" for turn in range(10)]
    assert kept(owner, acme.org) == 10


def test_a_retry_while_the_first_still_runs_is_told_so_at_once(
    acme: Tenant, owner: psycopg.Connection[Any], key: str
) -> None:
    with ThreadPoolExecutor(1) as pool:
        with nothing_written(owner):
            first = pool.submit(keyed, acme, projects(acme), key, name="Apollo")
            until(lambda: waiting(owner))
            again = keyed(acme, projects(acme), key, name="Apollo")
            assert not first.done()
            assert (again.status_code, again.json()["code"]) == (409, "idempotency-key-in-use")
            assert again.headers["retry-after"] == "1"
        assert same(first.result(), keyed(acme, projects(acme), key, name="Apollo"))


def test_the_same_key_of_two_tenants_never_meets(
    acme: Tenant, rival: Tenant, owner: psycopg.Connection[Any], key: str
) -> None:
    ours = keyed(acme, projects(acme), key, name="Apollo")
    theirs = keyed(rival, projects(rival), key, name="Apollo")
    assert theirs.status_code == 201
    assert REPLAYED not in theirs.headers
    assert ours.json()["id"] != theirs.json()["id"]
    for path in (projects(acme), f"/orgs/{uuid.uuid4()}/projects"):
        fresh = keyed(rival, path, str(uuid.uuid4()), name="Apollo")
        assert fresh.status_code == 404
    with ThreadPoolExecutor(2) as pool:
        other = str(uuid.uuid4())
        with nothing_written(owner):  # neither is told that the other's still runs
            both = [pool.submit(keyed, t, projects(t), other, name="Both") for t in (acme, rival)]
            until(lambda: waiting(owner, 2))
        assert [one.result().status_code for one in both] == [201, 201]


def test_the_same_key_of_two_members_never_meets(
    acme: Tenant, rival: Tenant, owner: psycopg.Connection[Any], key: str
) -> None:
    owner.execute(
        "insert into memberships (org_id, subject, role) values (%s, %s, 'owner')",
        (acme.org, rival.subject),
    )
    token = rival.http.post("/auth/token", json={"org_id": acme.org}).json()["access_token"]
    rival.http.headers["Authorization"] = f"Bearer {token}"
    first = keyed(acme, projects(acme), key, name="Apollo")
    other = keyed(rival, projects(acme), key, name="Vostok")
    assert (first.status_code, other.status_code) == (201, 201)
    assert REPLAYED not in other.headers
    orgs = [keyed(one, "/orgs", str(key) + "-org", name="Same") for one in (acme, rival)]
    assert [org.status_code for org in orgs] == [201, 201]
    assert orgs[0].json()["id"] != orgs[1].json()["id"]


def test_an_organization_is_made_once_whatever_the_token_is_bound_to(
    service: Service, owner: psycopg.Connection[Any]
) -> None:
    with guest(service) as acme:
        first = keyed(acme, "/orgs", "first", name="First")
        assert first.json()["id"] == acme.org
        assert same(first, keyed(acme, "/orgs", "first", name="First"))
        second = keyed(acme, "/orgs", "second", name="Second")
        assert second.json()["id"] != acme.org
        assert same(second, keyed(acme, "/orgs", "second", name="Second"))
        assert acme.http.delete(f"/orgs/{acme.org}").status_code == 204
        # The token's organization is gone for ever; what it is used for now is not.
        assert same(second, keyed(acme, "/orgs", "second", name="Second"))
        third = keyed(acme, "/orgs", "third", name="Third")
        assert third.status_code == 201
        assert same(third, keyed(acme, "/orgs", "third", name="Third"))
        listed = acme.get("/orgs").json()["items"]
        assert [org["name"] for org in listed] == ["Second", "Third"]


def test_deleting_an_organization_erases_what_was_kept_of_it(
    service: Service, owner: psycopg.Connection[Any]
) -> None:
    with guest(service) as acme:
        made = [keyed(acme, "/orgs", f"k{n}", name=f"Org {n}").json()["id"] for n in range(2)]
        keyed(acme, projects(acme), "p", name="Apollo")
        assert [kept(owner, org) for org in made] == [2, 1]
        for org in made:
            assert acme.http.delete(f"/orgs/{org}").status_code == 204
        query = "select count(*) from idempotency_keys where subject = %s or org_id = any (%s)"
        assert owner.execute(query, (acme.subject, made)).fetchone() == (0,)
        anew = keyed(acme, "/orgs", "k0", name="Org 0")
        assert anew.status_code == 201
        assert anew.json()["id"] not in made


def test_a_key_lasts_a_day(acme: Tenant, owner: psycopg.Connection[Any], key: str) -> None:
    first = keyed(acme, projects(acme), key, name="Apollo")
    age(owner, acme.org, "23 hours 59 minutes")
    assert same(first, keyed(acme, projects(acme), key, name="Apollo"))
    age(owner, acme.org, "1 minute 1 second")
    anew = keyed(acme, projects(acme), key, name="Vostok")
    assert anew.status_code == 201
    assert same(anew, keyed(acme, projects(acme), key, name="Vostok"))
    assert kept(owner, acme.org) == 1
    org = keyed(acme, "/orgs", key, name="Again")
    age(owner, org.json()["id"], "1 day")
    assert keyed(acme, "/orgs", key, name="Again").json()["id"] != org.json()["id"]


def test_old_keys_go_a_few_at_a_time(acme: Tenant, owner: psycopg.Connection[Any]) -> None:
    for n in range(25):
        assert keyed(acme, projects(acme), f"old-{n}", name=f"P{n}").status_code == 201
    age(owner, acme.org, "25 hours")
    left = []
    for n in range(4):
        keyed(acme, projects(acme), f"new-{n}", name=f"N{n}")
        left.append(kept(owner, acme.org))
    assert left == [16, 7, 3, 4]


def test_browsers_may_send_the_key_and_see_what_it_did(tmp_path: Path, database: Database) -> None:
    origin = "https://app.example.com"
    with serving(tmp_path, database.app_url, CORS_ORIGINS=origin) as service:
        asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        with service.http() as client:
            allowed = client.options("/orgs", headers=asked)
            assert "Idempotency-Key" in allowed.headers["access-control-allow-headers"]
            exposed = client.get("/", headers={"Origin": origin})
            assert "Idempotency-Replayed" in exposed.headers["access-control-expose-headers"]


def test_what_a_lost_connection_cut_off_is_done_again(
    acme: Tenant, owner: psycopg.Connection[Any], key: str
) -> None:
    with ThreadPoolExecutor(1) as pool:
        with nothing_written(owner):
            answer = pool.submit(keyed, acme, projects(acme), key, name="Apollo")
            until(lambda: waiting(owner))
            owner.execute("select pg_terminate_backend(pid) from pg_locks where not granted")
        assert answer.result().status_code == 201
    assert REPLAYED not in answer.result().headers
    assert names(acme) == ["Apollo"]


SLOW_COMMIT = """
create function at_commit() returns trigger language plpgsql as
    $$ begin perform pg_sleep(1); return null; end $$;
create constraint trigger at_commit after insert on organizations
    deferrable initially deferred for each row
    when (new.name like 'Slow%') execute function at_commit()
"""


@pytest.fixture
def cut(tmp_path: Path, postgres: Postgres) -> Iterator[Cut]:
    """A service behind a proxy, where organizations called Slow take a second to commit."""
    database = postgres.database()
    with (
        psycopg.connect(database.superuser_url, autocommit=True) as owner,
        proxy(database.app_url) as between,
    ):
        owner.execute(SLOW_COMMIT)
        between.open()
        with serving(tmp_path, between.url(database.app_url)) as service, guest(service) as acme:
            yield Cut(acme, owner, between)


def test_a_commit_that_was_cut_off_is_not_called_undone(cut: Cut) -> None:
    answer = cut.off(lambda: cut.acme.http.post("/orgs", json={"name": "Slow"}))
    assert answer.status_code == 503
    assert "may have happened" in answer.json()["detail"]
    until(lambda: len(cut.acme.get("/orgs").json()["items"]) == 1)


def test_a_commit_that_was_cut_off_is_found_by_its_key(cut: Cut) -> None:
    answer = cut.off(lambda: keyed(cut.acme, "/orgs", "key", name="Slow"))
    assert answer.status_code == 201
    listed = cut.acme.get("/orgs").json()["items"]
    assert [org["id"] for org in listed] == [answer.json()["id"]]
    assert same(answer, keyed(cut.acme, "/orgs", "key", name="Slow"))


def test_a_statement_that_was_cut_off_before_the_commit_did_not_happen(cut: Cut) -> None:
    with ThreadPoolExecutor(1) as pool:
        with cut.owner.transaction():
            cut.owner.execute("lock table organizations in share mode")
            answer = pool.submit(cut.acme.http.post, "/orgs", json={"name": "Acme"})
            until(lambda: waiting(cut.owner))
            cut.between.close()
            cut.between.open()
        assert answer.result().status_code == 503
    assert "may have happened" not in answer.result().json()["detail"]
    until(lambda: not waiting(cut.owner))
    assert cut.acme.get("/orgs").json()["items"] == []
