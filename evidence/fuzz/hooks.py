"""What Schemathesis loads: real tokens and ids into requests, counts out, and a check of its own.

FUZZ_URL is the service, FUZZ_CONTRACT its contract, FUZZ_STRANGER the token of a guest who owns
nothing that is fuzzed, and FUZZ_COUNTS the file that receives the counts when the run ends.
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

AS_GENERATED = 4  # one case in so many keeps its generated ids, for the 404
STRANGER_TRIES = 10  # of each operation

KEY = "Idempotency-Key"
OWNER = "acme"  # in the file that [auth.wfc] names; what it holds is replaced here


@dataclass
class World:
    """Who fuzzes, who tries to get in, and what was seen of each operation ("METHOD /path")."""

    contract: Contract
    owner: Peer
    stranger: httpx.Client
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    tries: Counter[str] = field(default_factory=Counter)
    considered: Counter[str] = field(default_factory=Counter)
    cursors: set[str] = field(default_factory=set)

    @cached_property
    def operations(self) -> dict[str, Operation]:
        return {f"{o.method.upper()} {o.path}": o for o in self.contract.operations.values()}

    def save(self, file: Path) -> None:
        answers = [[label, status, count] for (label, status), count in self.answers.items()]
        file.write_text(json.dumps({"answers": answers, "tries": self.tries}))


@cache
def world() -> World:
    loaded, url = contract.load(Path(os.environ["FUZZ_CONTRACT"])), os.environ["FUZZ_URL"]
    bearer = {"Authorization": f"Bearer {os.environ['FUZZ_STRANGER']}"}
    owner = Peer(httpx.Client(base_url=url, timeout=15), loaded)
    made = World(loaded, owner, httpx.Client(base_url=url, headers=bearer, timeout=15))
    atexit.register(made.save, Path(os.environ["FUZZ_COUNTS"]))
    return made


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Put real ids where ids are valid, and the token that fits in place of the owner's name."""
    if case.headers.get("Authorization") != f"Bearer {OWNER}":
        return  # no token, or a wrong one, is what this case is about
    owner, claim = world().owner, world().contract.tenant["claim"]
    _renew_key(case)
    _forget_cursor(case)
    world().considered[case.operation.label] += 1
    # A walk that Hypothesis repeats must go the same way, or it gives up walking.
    walking = case.meta is not None and case.meta.phase.name == TestPhase.STATEFUL
    if case.meta and (walking or world().considered[case.operation.label] % AS_GENERATED):
        template = case.operation.path
        if case.path_parameters and not case.meta.is_negative_at(ParameterLocation.PATH):
            _replace(owner, case, template, case.path_parameters, walking=walking)
        body = case.body
        names_org = isinstance(body, dict) and claim in body
        if names_org and not case.meta.is_negative_at(ParameterLocation.BODY):
            _replace(owner, case, f"{ORGS}/{{{claim}}}", body, walking=walking)
        if isinstance(body, dict) and not case.meta.is_negative_at(ParameterLocation.BODY):
            case.body = body = _without_nul(body)
            declared = world().operations[case.operation.label]
            org_id = str((case.path_parameters or {}).get(claim)).lower()
            owner.refer(declared, org_id, body, keep_known=False)
    org_id = str((case.path_parameters or {}).get(claim)).lower()
    case.headers["Authorization"] = f"Bearer {owner.token(org_id)}"


def _without_nul(value: Any) -> Any:
    """OpenAPI 3.0 cannot say that the names of a map have no NUL, which PostgreSQL cannot store."""
    if isinstance(value, dict):
        return {name.replace("\0", ""): _without_nul(part) for name, part in value.items()}
    return [_without_nul(item) for item in value] if isinstance(value, list) else value


def _forget_cursor(case: Any) -> None:
    """Leave out a cursor that no page gave, where there are orders: it could be of none of them."""
    query = case.query or {}
    negative = case.meta is not None and case.meta.is_negative_at(ParameterLocation.QUERY)
    if "cursor" not in query or negative:
        return
    declared = world().operations[case.operation.label]
    if any(parameter["name"] == "sort" for parameter in declared.parameters):
        query.pop("sort" if query["cursor"] in world().cursors else "cursor", None)


@schemathesis.hook
def after_call(context: Any, case: Any, response: Any) -> None:
    """Count, and follow what was made and deleted."""
    here, status, method = world(), response.status_code, response.request.method
    if method == case.operation.method.upper():
        here.answers[case.operation.label, status] += 1
    token = str(response.request.headers.get("Authorization", "")).removeprefix("Bearer ")
    if not 200 <= status < 300 or not here.owner.owns(token):
        return
    path = unquote(urlsplit(response.request.url).path)
    if method == "GET" and '"next"' in response.text:
        here.cursors.add(response.json()["next"])
    if method == "DELETE":
        here.owner.deleted(path)
    elif method == "POST" and "location" in response.headers:
        here.owner.made(path, response.json()["id"])


@schemathesis.check
def strangers_are_refused(ctx: Any, response: Any, case: Any) -> None:
    """What one tenant reads, another may neither read nor write nor delete: 404 for each method.

    The built-in object_level_authorization replays reads only.
    """
    here, operation = world(), case.operation
    owned = case.auth_identity == OWNER and 200 <= response.status_code < 300
    if not owned or response.request.method != "GET" or not PARAMETER.search(operation.path):
        return
    if here.tries[operation.label] >= STRANGER_TRIES:
        return
    here.tries[operation.label] += 1
    path = urlsplit(response.request.url).path
    for other in here.contract.operations.values():
        if other.path == operation.path:
            method, body = other.method.upper(), example(other, " of a stranger")
            status = here.stranger.request(method, path, json=body).status_code
            assert status == 404, f"{method} {path} answered a stranger with {status}"
    owner = {"Authorization": response.request.headers["Authorization"]}
    left = here.stranger.get(path, headers=owner).status_code
    assert left == response.status_code, f"a stranger changed {path}: now {left} for its owner"


def _renew_key(case: Any) -> None:
    """Give a request a key that no other has: with one of another request, 422 is right."""
    key = case.headers.get(KEY)
    if key and not (case.meta and case.meta.is_negative_at(ParameterLocation.HEADER)):
        case.headers[KEY] = f'"{uuid.uuid4()}"' if key.startswith('"') else str(uuid.uuid4())


def _replace(
    owner: Peer, case: Any, template: str, values: dict[str, Any], *, walking: bool
) -> None:
    """Replace the ids in `values` that name nothing; in a walk those of earlier steps stay."""
    fresh = {ORGS} if walking else set()
    if case.operation.method.upper() == "DELETE":
        fresh.add(template.rpartition("/")[0])
    real = owner.existing(template, values, keep_known=walking, fresh=fresh)
    for name, id in real.items():
        if str(values.get(name, "")).lower() != id:
            values[name] = id
