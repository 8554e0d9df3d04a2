"""Hooks that Schemathesis loads: they put valid tokens and ids into requests, and count.

Environment: FUZZ_URL is the service, FUZZ_CONTRACT its contract, FUZZ_STRANGER the token of a
guest that owns none of the fuzzed resources, and FUZZ_COUNTS the file for the counts.
"""

import atexit
import json
import os
import uuid
from collections import Counter
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx
import schemathesis
from schemathesis.core.parameters import ParameterLocation
from schemathesis.generation.meta import TestPhase

from evidence.fuzz.peers import ORGS, PARAMETER, Peer, example
from openapi import contract
from openapi.contract import Contract, Operation

AS_GENERATED = 4  # one in so many cases keeps its generated ids, which leads to 404
STRANGER_TRIES = 10  # per operation

KEY = "Idempotency-Key"
OWNER = "acme"  # a placeholder in the file of [auth.wfc], which a token replaces here


@dataclass
class World:
    """The guests, and the counts by operation ("METHOD /path")."""

    contract: Contract
    owner: Peer
    stranger: httpx.Client
    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    stranger_tries: Counter[str] = field(default_factory=Counter)
    prepared: Counter[str] = field(default_factory=Counter)
    cursors: set[str] = field(default_factory=set)

    @cached_property
    def operations(self) -> dict[str, Operation]:
        return {f"{o.method.upper()} {o.path}": o for o in self.contract.operations.values()}

    def save(self, file: Path) -> None:
        """Write the counts for the runner."""
        statuses = [[label, status, count] for (label, status), count in self.statuses.items()]
        counts = {"statuses": statuses, "stranger_tries": self.stranger_tries}
        file.write_text(json.dumps(counts))


@cache
def world() -> World:
    """Return the world of this process, and save its counts at exit."""
    loaded, url = contract.load(Path(os.environ["FUZZ_CONTRACT"])), os.environ["FUZZ_URL"]
    bearer = {"Authorization": f"Bearer {os.environ['FUZZ_STRANGER']}"}
    owner = Peer(httpx.Client(base_url=url, timeout=15), loaded)
    created = World(loaded, owner, httpx.Client(base_url=url, headers=bearer, timeout=15))
    atexit.register(created.save, Path(os.environ["FUZZ_COUNTS"]))
    return created


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Replace ids where the generated ones are valid, and the placeholder by a token."""
    if case.headers.get("Authorization") != f"Bearer {OWNER}":
        return  # the case is about a missing or an invalid token
    owner, claim = world().owner, world().contract.tenant["claim"]
    _renew_key(case)
    _drop_cursor(case)
    world().prepared[case.operation.label] += 1
    # Hypothesis repeats a stateful walk, and gives up unless it takes the same course.
    is_walk = case.meta is not None and case.meta.phase.name == TestPhase.STATEFUL
    if case.meta and (is_walk or world().prepared[case.operation.label] % AS_GENERATED):
        template = case.operation.path
        if case.path_parameters and not case.meta.is_negative_at(ParameterLocation.PATH):
            _replace(owner, case, template, case.path_parameters, is_walk=is_walk)
        body = case.body
        names_org = isinstance(body, dict) and claim in body
        if names_org and not case.meta.is_negative_at(ParameterLocation.BODY):
            _replace(owner, case, f"{ORGS}/{{{claim}}}", body, is_walk=is_walk)
        if isinstance(body, dict) and not case.meta.is_negative_at(ParameterLocation.BODY):
            case.body = body = _without_nul(body)
            operation = world().operations[case.operation.label]
            owner.fill_references(operation, _org_id(case, claim), body, keep_known=False)
    case.headers["Authorization"] = f"Bearer {owner.token(_org_id(case, claim))}"


def _org_id(case: Any, claim: str) -> str:
    return str((case.path_parameters or {}).get(claim)).lower()


def _without_nul(value: Any) -> Any:
    """Remove NUL from the names of maps: PostgreSQL cannot store it, OpenAPI 3.0 not exclude it."""
    if isinstance(value, dict):
        return {name.replace("\0", ""): _without_nul(part) for name, part in value.items()}
    return [_without_nul(item) for item in value] if isinstance(value, list) else value


def _drop_cursor(case: Any) -> None:
    """Drop an invented cursor where a list has `sort`: it may not be valid for any order."""
    query = case.query or {}
    is_negative = case.meta is not None and case.meta.is_negative_at(ParameterLocation.QUERY)
    if "cursor" not in query or is_negative:
        return
    operation = world().operations[case.operation.label]
    if any(parameter["name"] == "sort" for parameter in operation.parameters):
        query.pop("sort" if query["cursor"] in world().cursors else "cursor", None)


@schemathesis.hook
def after_call(context: Any, case: Any, response: Any) -> None:
    """Count the status, and record what the owner created and deleted."""
    current, status, method = world(), response.status_code, response.request.method
    if method == case.operation.method.upper():
        current.statuses[case.operation.label, status] += 1
    token = str(response.request.headers.get("Authorization", "")).removeprefix("Bearer ")
    if not 200 <= status < 300 or not current.owner.owns(token):
        return
    path = unquote(urlsplit(response.request.url).path)
    if method == "GET" and '"next"' in response.text:
        current.cursors.add(response.json()["next"])
    if method == "DELETE":
        current.owner.remove(path)
    elif method == "POST" and "location" in response.headers:
        current.owner.add(path, response.json()["id"])


@schemathesis.check
def strangers_get_404(ctx: Any, response: Any, case: Any) -> None:
    """Check that another tenant gets 404 for every method of a path that its owner can read.

    The built-in check object_level_authorization replays reads only.
    """
    current, operation = world(), case.operation
    is_owned = case.auth_identity == OWNER and 200 <= response.status_code < 300
    if not is_owned or response.request.method != "GET" or not PARAMETER.search(operation.path):
        return
    if current.stranger_tries[operation.label] >= STRANGER_TRIES:
        return
    current.stranger_tries[operation.label] += 1
    path = urlsplit(response.request.url).path
    for other in current.contract.operations.values():
        if other.path == operation.path:
            method, body = other.method.upper(), example(other, " of a stranger")
            status = current.stranger.request(method, path, json=body).status_code
            assert status == 404, f"{method} {path}: a stranger got {status}, expected 404"
    owner = {"Authorization": response.request.headers["Authorization"]}
    after = current.stranger.get(path, headers=owner).status_code
    assert after == response.status_code, f"a stranger changed {path}: its owner now gets {after}"


def _renew_key(case: Any) -> None:
    """Give the request a unique key: the key of another request would rightly lead to 422."""
    key = case.headers.get(KEY)
    if key and not (case.meta and case.meta.is_negative_at(ParameterLocation.HEADER)):
        case.headers[KEY] = f'"{uuid.uuid4()}"' if key.startswith('"') else str(uuid.uuid4())


def _replace(
    owner: Peer, case: Any, template: str, values: dict[str, Any], *, is_walk: bool
) -> None:
    """Replace ids of absent resources in `values`; a stateful walk keeps ids of earlier steps."""
    fresh = {ORGS} if is_walk else set()
    if case.operation.method.upper() == "DELETE":
        fresh.add(template.rpartition("/")[0])
    ids = owner.existing(template, values, keep_known=is_walk, fresh=fresh)
    for name, id in ids.items():
        if str(values.get(name, "")).lower() != id:
            values[name] = id
