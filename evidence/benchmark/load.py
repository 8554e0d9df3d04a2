"""Load on one system at a time: wrk over HTTP, pgbench with the same SQL."""

import json
import os
import re
import secrets
import shutil
import subprocess
import urllib.error
import urllib.request
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from dev.local import embedded
from evidence.benchmark.data import Data
from evidence.benchmark.systems import System

CONNECTIONS = 16
LUA = Path(__file__).parent / "load.lua"
PGBENCH, PGBENCH_PIPELINED = "pgbench", "pgbench pipelined"


class Workload(StrEnum):
    """What is requested; load.lua has the requests."""

    GET_ONE = "get-one"
    GET_20 = "get-20"
    POST = "post"
    HEALTH = "health"


TITLES = {
    Workload.GET_ONE: "GET one project",
    Workload.GET_20: "GET 20 projects",
    Workload.POST: "POST project",
    Workload.HEALTH: "GET /health",
}
STATEMENTS = {
    Workload.GET_ONE: """select id, org_id, name, created_at from projects
            where org_id = '{org}' and id = '{project}';""",
    Workload.GET_20: """select id, org_id, name, created_at from projects
            where org_id = '{org}' and id > '00000000-0000-0000-0000-000000000000'
            order by id limit 21;""",
    Workload.POST: """insert into projects (org_id, id, name)
            values ('{org}', gen_random_uuid(), md5(random()::text || clock_timestamp()::text))
            returning id, org_id, name, created_at;""",
}


@dataclass(frozen=True)
class Run:
    """One measurement. pgbench measures neither latencies nor requests; these are 0."""

    system: str
    workload: str
    per_second: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    errors: int
    requests: int = 0


def require_wrk() -> None:
    """Raise `SystemExit` when wrk is not installed."""
    if not shutil.which("wrk"):
        raise SystemExit("wrk is not installed (Debian: apt-get install wrk)")


def wrk(
    system: System,
    workload: Workload,
    tokens: Path,
    seconds: float,
    connections: int = CONNECTIONS,
) -> Run:
    """Load a system over keep-alive connections from one thread."""
    url = system.url + ("/health" if workload is Workload.HEALTH else "")
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "-s", str(LUA), url, "--"]
    command += [str(tokens), workload, f"{secrets.token_hex(6)} "]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    match = re.search(r"RESULT (\{.*\})", output)
    if not match:
        raise SystemExit(f"wrk printed no result: {output}")
    result = json.loads(match[1])
    return Run(
        system=system.name,
        workload=workload,
        per_second=result["requests"] / result["microseconds"] * 1e6,
        p50_ms=result["p50"] / 1000,
        p99_ms=result["p99"] / 1000,
        max_ms=result["max"] / 1000,
        errors=result["errors"],
        requests=result["requests"],
    )


def pgbench(
    data: Data, workload: Workload, seconds: float, folder: Path, *, is_pipelined: bool
) -> Run:
    """Run the transaction of a request without a service: bind the tenant, one statement.

    Pipelined, the whole transaction is one round trip, which is the limit for any service.
    """
    name = PGBENCH_PIPELINED if is_pipelined else PGBENCH
    scripts = folder / f"{name}-{workload}".replace(" ", "-")
    if not scripts.exists():
        _write_scripts(scripts, data, workload, is_pipelined=is_pipelined)
    command = [str(embedded.binary("pgbench")), "-n", "-M", "prepared"]
    command += ["-c", str(CONNECTIONS), "-T", f"{seconds:g}"]
    for script in sorted(scripts.iterdir()):
        command += ["-f", str(script)]
    environment = {**os.environ, "LC_ALL": "C"}
    process = subprocess.run(
        [*command, data.url], capture_output=True, text=True, check=True, env=environment
    )
    rate = re.search(r"^tps = ([\d.]+)", process.stdout, re.M)
    failed = re.search(r"failed transactions: (\d+)", process.stdout)
    if not rate:
        raise SystemExit(f"pgbench printed no rate: {process.stdout}{process.stderr}")
    return Run(name, workload, float(rate[1]), 0, 0, 0, int(failed[1]) if failed else 0)


def _write_scripts(folder: Path, data: Data, workload: Workload, *, is_pipelined: bool) -> None:
    """Write one script per tenant; pgbench picks one at random for each transaction."""
    folder.mkdir()
    for n, (org, project) in enumerate(data.targets):
        lines = [
            "begin;",
            f"select set_config('app.org_id', '{org}', true);",
            " ".join(STATEMENTS[workload].format(org=org, project=project).split()),
            "commit;",
        ]
        if is_pipelined:
            lines = ["\\startpipeline", *lines, "\\endpipeline"]
        (folder / f"{n}.sql").write_text("\n".join(lines) + "\n")


def sample_responses(system: System, data: Data) -> dict[str, object]:
    """Return a response to each workload, reduced to what every system must return alike."""
    first, second = data.rotating_tokens.read_text().splitlines()[:2]
    token, org, project = first.split()
    _, foreign_org, foreign_project = second.split()
    base = f"{system.url}/orgs/{org}/projects"
    body = json.dumps({"name": f"sample {secrets.token_hex(6)}"}).encode()
    foreign = f"{system.url}/orgs/{foreign_org}/projects/{foreign_project}"
    return {
        Workload.GET_ONE: _json(f"{base}/{project}", token),
        Workload.GET_20: _json(f"{base}?limit=20", token),
        Workload.POST: sorted(_json(base, token, body)),
        Workload.HEALTH: _json(f"{system.url}/health", token),
        "another tenant's project": _status(foreign, token),
        "no token": _status(f"{base}/{project}", ""),
    }


def _json(url: str, token: str, body: bytes | None = None) -> dict[str, object]:
    """Return the body of a response, without the notation of UTC, which may be `Z` or `+00:00`."""
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, body, headers)) as response:
        text = response.read().replace(b"+00:00", b"").replace(b"Z", b"")
        parsed: dict[str, object] = json.loads(text)
        return parsed


def _status(url: str, token: str) -> int:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
