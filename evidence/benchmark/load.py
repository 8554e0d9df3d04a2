"""Load on one system at a time: wrk over HTTP, pgbench on the same statements."""

import json
import os
import re
import secrets
import subprocess
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from evidence.benchmark.data import Data
from evidence.benchmark.systems import System

CONNECTIONS = 16
WORKLOADS = {
    "r": "GET one project",
    "l": "GET 20 projects",
    "w": "POST project",
    "h": "GET /health",
}
LUA = Path(__file__).parent / "load.lua"
TARGETS = 100

STATEMENTS = {
    "r": """select id, org_id, name, created_at from projects
            where org_id = '{org}' and id = '{project}';""",
    "l": """select id, org_id, name, created_at from projects
            where org_id = '{org}' and id > '00000000-0000-0000-0000-000000000000'
            order by id limit 21;""",
    "w": """insert into projects (org_id, id, name)
            values ('{org}', gen_random_uuid(), md5(random()::text || clock_timestamp()::text))
            returning id, org_id, name, created_at;""",
}


@dataclass(frozen=True)
class Run:
    """One measurement; latencies are 0 where they were not measured."""

    system: str
    workload: str
    per_second: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    errors: int


def wrk(
    system: System, workload: str, tokens: Path, seconds: float, connections: int = CONNECTIONS
) -> Run:
    """Load a system over so many kept connections."""
    target = system.url + ("/health" if workload == "h" else "")
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "-s", str(LUA), target, "--"]
    command += [str(tokens), workload, f"{secrets.token_hex(6)} "]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"RESULT (\{.*\})", output)
    if not found:
        raise SystemExit(f"wrk said nothing of use: {output}")
    result = json.loads(found[1])
    return Run(
        system=system.name,
        workload=workload,
        per_second=result["requests"] / result["microseconds"] * 1e6,
        p50_ms=result["p50"] / 1000,
        p99_ms=result["p99"] / 1000,
        max_ms=result["max"] / 1000,
        errors=result["errors"],
    )


def pgbench(
    binary: Path, data: Data, workload: str, seconds: float, folder: Path, *, pipelined: bool
) -> Run:
    """Run the same transaction with no service between: the tenant bound, one statement."""
    scripts = folder / f"pgbench-{workload}-{'pipelined' if pipelined else 'plain'}"
    if not scripts.exists():
        scripts.mkdir()
        for n, (org, project) in enumerate(data.targets[:TARGETS]):
            lines = [
                "begin;",
                f"select set_config('app.org_id', '{org}', true);",
                " ".join(STATEMENTS[workload].format(org=org, project=project).split()),
                "commit;",
            ]
            if pipelined:
                lines = ["\\startpipeline", *lines, "\\endpipeline"]
            (scripts / f"{n}.sql").write_text("\n".join(lines) + "\n")
    command = [str(binary), "-n", "-M", "prepared", "-c", str(CONNECTIONS), "-T", f"{seconds:g}"]
    for script in sorted(scripts.iterdir()):
        command += ["-f", str(script)]
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(
        [*command, data.url], capture_output=True, text=True, check=True, env=environment
    )
    rate = re.search(r"^tps = ([\d.]+)", done.stdout, re.M)
    failed = re.search(r"failed transactions: (\d+)", done.stdout)
    if not rate:
        raise SystemExit(f"pgbench said nothing of use: {done.stdout}{done.stderr}")
    name = "pgbench pipelined" if pipelined else "pgbench"
    return Run(name, workload, float(rate[1]), 0, 0, 0, int(failed[1]) if failed else 0)


def sample(system: System, data: Data) -> dict[str, object]:
    """Return what a system answers to each workload, without what differs by nature."""
    token, org, project = data.rotating.read_text().split("\n", 1)[0].split()
    base = f"{system.url}/orgs/{org}/projects"
    made = _json(base, token, json.dumps({"name": f"sample {secrets.token_hex(6)}"}).encode())
    foreign = data.rotating.read_text().split("\n", 2)[1].split()
    return {
        "r": _json(f"{base}/{project}", token),
        "l": _json(f"{base}?limit=20", token),
        "w": sorted(made),
        "h": _json(f"{system.url}/health", token),
        "another tenant's": _status(f"{system.url}/orgs/{foreign[1]}/projects/{foreign[2]}", token),
        "no token": _status(f"{base}/{project}", ""),
    }


def _json(url: str, token: str, body: bytes | None = None) -> dict[str, object]:
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, body, headers)) as response:
        parsed: dict[str, object] = json.loads(
            response.read().replace(b"+00:00", b"Z").replace(b"Z", b"")
        )
        return parsed


def _status(url: str, token: str) -> int:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
