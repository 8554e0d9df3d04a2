"""One run of Schemathesis in a child process, and the conditions for it to pass."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from evidence.fuzz.peers import Peer
from evidence.harness.processes import ROOT
from evidence.harness.services import Service
from openapi.contract import Contract, Operation

HERE = Path(__file__).parent
PHASES = ["coverage", "examples", "fuzzing", "stateful"]
# An operation without input is always the same request, which a phase sends only once.
MIN_SUCCESSES_WITHOUT_INPUT = 3


@dataclass(frozen=True)
class Run:
    """The outcome of one run, counted by operation ("METHOD /path").

    `statuses` are those of all responses, `stranger_tries` counts the uses of our own check, and
    `replays` the requests that object_level_authorization sent as the peer.
    """

    seed: int
    exit_code: int
    output: str
    report: Mapping[str, Any]
    statuses: Mapping[str, Mapping[int, int]]
    stranger_tries: Mapping[str, int]
    replays: Mapping[str, int]

    @property
    def cases(self) -> int:
        """The number of cases with checks; the requests of the checks themselves do not count."""
        counts = self.report["test_cases"]
        return int(counts["generated"]) - int(counts["without_checks"])

    @property
    def failed_cases(self) -> int:
        """The number of cases that failed a check or ended in an error."""
        counts = self.report["test_cases"]
        return int(counts["with_failures"]) + int(counts["errored"])

    def successes(self, label: str) -> int:
        """Return the number of 2xx responses of an operation."""
        counts = self.statuses.get(label, {})
        return sum(count for status, count in counts.items() if 200 <= status < 300)


def run(
    service: Service,
    contract: Contract,
    folder: Path,
    *,
    seed: int,
    examples: int,
    timeout: float,
    paths: str = "",
) -> Run:
    """Fuzz the service with at most `examples` cases per operation and phase.

    `paths` is a regular expression that selects paths, by default all. The reports are written to
    `folder`, which must not exist. Raises `subprocess.TimeoutExpired` after `timeout` seconds.
    """
    folder.mkdir()
    report, counts, peers = (folder / name for name in ("report.json", "counts.json", "peers.json"))
    with _client(service) as ours, _client(service) as theirs:
        rival, stranger = Peer(ours, contract), Peer(theirs, contract)
    # hooks.py replaces the owner's placeholder by the token for the organization of a case.
    # Replays bypass the hooks, so the rival needs a real token.
    identities = [_identity("acme", "acme"), _identity("rival", rival.token(rival.home))]
    peers.write_text(json.dumps({"auth": identities}))
    command = [sys.executable, "-m", "schemathesis.cli"]
    command += ["--config-file", str(HERE / "schemathesis.toml")]
    command += ["run", f"{service.url}/openapi.json", "--checks", "all", "--no-color"]
    command += ["--seed", str(seed), "--max-examples", str(examples)]
    command += ["--report", "json", "--report-json-path", str(report)]
    command += ["--include-path-regex", paths] if paths else []
    # Measuring the coverage of the fuzzer itself would only slow it down.
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE_")}
    environment = {
        **inherited,
        "PYTHONPATH": str(ROOT),
        "PYTHONHASHSEED": "0",
        "SCHEMATHESIS_HOOKS": "evidence.fuzz.hooks",
        "FUZZ_URL": service.url,
        "FUZZ_CONTRACT": str(contract.file),
        "FUZZ_COUNTS": str(counts),
        "FUZZ_PEERS": str(peers),
        "FUZZ_STRANGER": stranger.token(stranger.home),
    }
    process = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout
    )
    output = process.stdout + process.stderr
    (folder / "output.txt").write_text(output)
    for file in (report, counts):
        assert file.exists(), f"Schemathesis did not write {file.name}: {output}"
    counted = json.loads(counts.read_text())
    statuses: dict[str, dict[int, int]] = {}
    for label, status, count in counted["statuses"]:
        statuses.setdefault(label, {})[status] = count
    return Run(
        seed=seed,
        exit_code=process.returncode,
        output=output,
        report=json.loads(report.read_text()),
        statuses=statuses,
        stranger_tries=counted["stranger_tries"],
        replays=_replays(service, contract, rival.home),
    )


def all_failures(run: Run, contract: Contract, successes: int) -> list[str]:
    """Return why a run does not pass; empty when it does."""
    return [
        *failed_checks(run),
        *untested_operations(run, contract),
        *unsuccessful_operations(run, contract, successes),
        *untried_reads(run, contract),
    ]


def failed_checks(run: Run) -> list[str]:
    """Return failed checks, errors, an exit code (which warnings cause), and an early stop."""
    failures = [
        f"{failure['title']}: {failure['operations']}" for failure in run.report["failures"]
    ]
    failures += [str(error) for error in run.report["errors"]]
    if not failures and (run.exit_code or run.failed_cases):
        failures.append(f"exit code {run.exit_code}, {run.failed_cases} cases failed")
    if run.report["stop_reason"] != "completed":
        failures.append(f"stopped: {run.report['stop_reason']}")
    return failures


def untested_operations(run: Run, contract: Contract) -> list[str]:
    """Return phases that were skipped or are missing, and a wrong number of operations."""
    operations, phases = run.report["operations"], run.report["phases"]
    failures = [
        f"phase {name}: {phase['status']}" for name, phase in phases.items() if phase["skip_reason"]
    ]
    if sorted(phases) != PHASES:
        failures.append(f"phases {sorted(phases)}, expected {PHASES}")
    if not operations["tested"] == operations["total"] == len(contract.operations):
        failures.append(f"{operations['tested']} of {len(contract.operations)} operations tested")
    return failures


def unsuccessful_operations(run: Run, contract: Contract, successes: int) -> list[str]:
    """Return the operations with fewer 2xx responses than `successes`."""
    failures = []
    for operation in contract.operations.values():
        label = _label(operation)
        has_input = operation.parameters or operation.body
        minimum = successes if has_input else min(successes, MIN_SUCCESSES_WITHOUT_INPUT)
        if run.successes(label) < minimum:
            statuses = dict(run.statuses.get(label, {}))
            failures.append(f"{label}: fewer than {minimum} successes: {statuses}")
    return failures


def untried_reads(run: Run, contract: Contract) -> list[str]:
    """Return the reads of tenant data that no other tenant tried.

    Which reads object_level_authorization replays depends on the generated cases. Whether it
    replays at all depends on its configuration, and it does not report when it cannot.
    """
    reads = [o for o in contract.operations.values() if o.method == "get" and "{" in o.path]
    failures = [
        f"{_label(read)}: never tried by a stranger"
        for read in reads
        if not run.stranger_tries.get(_label(read))
    ]
    if not any(run.replays.get(_label(read)) for read in reads):
        failures.append("object_level_authorization replayed no request")
    return failures


def _label(operation: Operation) -> str:
    return f"{operation.method.upper()} {operation.path}"


def _client(service: Service) -> httpx.Client:
    return httpx.Client(base_url=service.url, timeout=15)


def _identity(name: str, token: str) -> dict[str, Any]:
    """Return an entry of a Web Fuzzing Commons authentication file."""
    return {"name": name, "fixedHeaders": [{"name": "Authorization", "value": f"Bearer {token}"}]}


def _replays(service: Service, contract: Contract, tenant: str) -> Counter[str]:
    """Count the requests of the rival in the service's log: Schemathesis does not report them."""
    counts: Counter[str] = Counter()
    for line in service.log_lines():
        if tenant in line:
            operation = contract.operations.get(json.loads(line).get("operation"))
            if operation is not None:
                counts[_label(operation)] += 1
    return counts
