"""One run of Schemathesis in a process of its own, and what a run must show to pass."""

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
INPUTLESS = 3


@dataclass(frozen=True)
class Run:
    """What one run found; counts are by "METHOD /path".

    `answers` are the statuses, `tries` those of our own check, `replays` the requests that
    object_level_authorization sent as the peer.
    """

    seed: int
    exit_code: int
    output: str
    report: Mapping[str, Any]
    answers: Mapping[str, Mapping[int, int]]
    tries: Mapping[str, int]
    replays: Mapping[str, int]

    @property
    def cases(self) -> int:
        """Cases that were checked, without the requests that checks sent themselves."""
        found = self.report["test_cases"]
        return int(found["generated"]) - int(found["without_checks"])

    @property
    def failures(self) -> int:
        found = self.report["test_cases"]
        return int(found["with_failures"]) + int(found["errored"])

    def successes(self, label: str) -> int:
        counted = self.answers.get(label, {})
        return sum(count for status, count in counted.items() if 200 <= status < 300)


def run(
    service: Service,
    contract: Contract,
    folder: Path,
    *,
    seed: int,
    examples: int,
    seconds: float,
    paths: str = "",
) -> Run:
    """Fuzz the service with at most `examples` for each operation and phase.

    `paths` is a regular expression of the paths that are fuzzed, all when it is empty.

    The reports go to `folder`, a new one. Raises `subprocess.TimeoutExpired` after `seconds`.
    """
    folder.mkdir()
    report, counts, peers = (folder / name for name in ("report.json", "counts.json", "peers.json"))
    with _client(service) as ours, _client(service) as theirs:
        rival, stranger = Peer(ours, contract), Peer(theirs, contract)
    # The owner's header is a placeholder: hooks.py puts the token of the case's organization there.
    # Replays do not pass the hooks, so the rival's token is a real one.
    identities = [_identity("acme", "acme"), _identity("rival", rival.token(rival.home))]
    peers.write_text(json.dumps({"auth": identities}))
    command = [
        *(
            sys.executable,
            "-m",
            "schemathesis.cli",
            "--config-file",
            str(HERE / "schemathesis.toml"),
        ),
        *("run", f"{service.url}/openapi.json", "--checks", "all", "--no-color"),
        *("--seed", str(seed), "--max-examples", str(examples)),
        *("--report", "json", "--report-json-path", str(report)),
        *(("--include-path-regex", paths) if paths else ()),
    ]
    # Measuring the coverage of the fuzzer itself would only make it slower.
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
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=seconds
    )
    output = process.stdout + process.stderr
    (folder / "output.txt").write_text(output)
    for file in (report, counts):
        assert file.exists(), f"Schemathesis did not run: {output}"
    found = json.loads(counts.read_text())
    answers: dict[str, dict[int, int]] = {}
    for label, status, count in found["answers"]:
        answers.setdefault(label, {})[status] = count
    return Run(
        seed=seed,
        exit_code=process.returncode,
        output=output,
        report=json.loads(report.read_text()),
        answers=answers,
        tries=found["tries"],
        replays=_replays(service, contract, rival.home),
    )


def complaints(run: Run, contract: Contract, successes: int) -> list[str]:
    """Return why a run does not pass; empty when it does."""
    return [
        *failures(run),
        *untested(run, contract),
        *unsuccessful(run, contract, successes),
        *unguarded(run, contract),
    ]


def failures(run: Run) -> list[str]:
    """Failed checks, errors and warnings (which end in the exit code), and a run that was cut."""
    found = [f"{failure['title']}: {failure['operations']}" for failure in run.report["failures"]]
    found += [str(error) for error in run.report["errors"]]
    if not found and (run.exit_code or run.failures):
        found.append(f"exit code {run.exit_code}, {run.failures} cases failed")
    if run.report["stop_reason"] != "completed":
        found.append(f"stopped: {run.report['stop_reason']}")
    return found


def untested(run: Run, contract: Contract) -> list[str]:
    operations, phases = run.report["operations"], run.report["phases"]
    found = [
        f"phase {name}: {phase['status']}" for name, phase in phases.items() if phase["skip_reason"]
    ]
    if sorted(phases) != PHASES:
        found.append(f"phases {sorted(phases)}")
    if not operations["tested"] == operations["total"] == len(contract.operations):
        found.append(f"{operations['tested']} of {len(contract.operations)} operations tested")
    return found


def unsuccessful(run: Run, contract: Contract, successes: int) -> list[str]:
    """Name the operations with too few 2xx. What takes no input is the same request every time,
    which Schemathesis sends once in a phase: INPUTLESS are enough there."""
    found = []
    for operation in contract.operations.values():
        wanted = successes if operation.parameters or operation.body else min(successes, INPUTLESS)
        if run.successes(_label(operation)) < wanted:
            answered = dict(run.answers.get(_label(operation), {}))
            found.append(f"{_label(operation)}: fewer than {wanted} successes: {answered}")
    return found


def unguarded(run: Run, contract: Contract) -> list[str]:
    """Name the tenant's reads that no other tenant tried.

    Which of them object_level_authorization replays depends on what it drew; that it replays at
    all depends on the set-up, and it is silent when it does not.
    """
    reads = [o for o in contract.operations.values() if o.method == "get" and "{" in o.path]
    found = [
        f"{_label(o)}: never tried by a stranger" for o in reads if not run.tries.get(_label(o))
    ]
    if not any(run.replays.get(_label(read)) for read in reads):
        found.append("object_level_authorization replayed nothing")
    return found


def _label(operation: Operation) -> str:
    return f"{operation.method.upper()} {operation.path}"


def _client(service: Service) -> httpx.Client:
    return httpx.Client(base_url=service.url, timeout=15)


def _identity(name: str, token: str) -> dict[str, Any]:
    """An entry of a Web Fuzzing Commons authentication file."""
    return {"name": name, "fixedHeaders": [{"name": "Authorization", "value": f"Bearer {token}"}]}


def _replays(service: Service, contract: Contract, tenant: str) -> Counter[str]:
    """Count in the service's log what the rival sent: Schemathesis tells nobody."""
    sent: Counter[str] = Counter()
    for line in service.log_lines():
        if tenant in line:
            operation = contract.operations.get(json.loads(line).get("operation"))
            if operation is not None:
                sent[_label(operation)] += 1
    return sent
