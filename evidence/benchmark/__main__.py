"""`make bench`: the service and its peers in turn, on one PostgreSQL with the same data."""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median

import orjson
import psycopg

from dev.local import embedded
from evidence.benchmark import chart, contract_size, load, report, systems
from evidence.benchmark.data import Data, create_data
from evidence.benchmark.load import Run, Workload
from evidence.benchmark.systems import System
from evidence.harness.processes import ROOT
from openapi import contract as contracts
from openapi.contract import Contract

HERE = Path(__file__).parent
SMALL = {"orgs": 100, "projects": 100}
LARGE = {"orgs": 1000, "projects": 1000}
MANY_CONNECTIONS = 64
MIN_ROUNDS = 3  # of a ratio
MEMORY_SECONDS = 60


def main() -> None:
    """Measure, write the results, and print the report."""
    options = _parse()
    load.require_wrk()
    python = install_peers(ROOT / ".venv" / "bench")
    with tempfile.TemporaryDirectory() as temporary:
        runs, facts = measure(Path(temporary), python, options.rounds, options.seconds)
    options.into.mkdir(parents=True, exist_ok=True)
    raw = {"facts": facts, "runs": [asdict(run) for run in runs]}
    (options.into / "results.json").write_text(json.dumps(raw, indent=1) + "\n")
    (options.into / "RESULTS.md").write_text(report.markdown(runs, facts))
    (options.into / "results.svg").write_text(chart.svg(runs, facts))
    print(report.markdown(runs, facts))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m evidence.benchmark", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="alternating rounds (default: 3)")
    parser.add_argument("--seconds", type=float, default=5, help="length of a run (default: 5)")
    parser.add_argument("--into", type=Path, default=HERE, help="folder of the results")
    return parser.parse_args()


def install_peers(folder: Path) -> Path:
    """Install the pinned peers into their own virtual environment, and return its Python."""
    python, stamp = folder / "bin" / "python", folder / "stamp"
    pins = HERE / "requirements.txt"
    if not stamp.exists() or stamp.read_bytes() != pins.read_bytes():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        install += ["--require-hashes", "--no-deps", "--only-binary", ":all:", "-r", str(pins)]
        subprocess.run(install, check=True)
        stamp.write_bytes(pins.read_bytes())
    return python


def measure(
    folder: Path, python: Path, rounds: int, seconds: float
) -> tuple[list[Run], dict[str, object]]:
    """Run everything in `folder`; return the runs, and the facts of the report."""
    contract, load_before = contracts.load(), os.getloadavg()[0]
    public_contract = folder / "openapi.json"
    public_contract.write_bytes(orjson.dumps(contracts.public_document(contract)))
    with ExitStack() as stack:
        server = stack.enter_context(embedded.running(folder / "postgresql"))
        data = create_data(server, folder, contract, **SMALL)
        ours = stack.enter_context(systems.service(data, folder))
        peers = [
            stack.enter_context(systems.peer(name, python, data, folder, public_contract))
            for name in systems.PEERS
        ]
        _require_same_responses(ours, peers, data)
        runs = _alternate(ours, peers, data, folder, rounds, seconds)
        others = [
            f"start to ready, with up-to-date migrations: {ours.seconds_to_ready:.2f} s",
            _memory(ours, data, seconds),
            _many_connections(ours, data, seconds),
            _table_sizes(server, folder, contract, data, rounds, seconds),
            contract_size.compare(data, folder, rounds, seconds),
        ]
        facts: dict[str, object] = {
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "python": platform.python_version(),
            "postgresql": _version(server.url()),
            "cpus": os.cpu_count(),
            "rounds": rounds,
            "seconds": seconds,
            "connections": load.CONNECTIONS,
            "load_before": f"{load_before:.2f}",
            "others": others,
        }
    return runs, facts


def _require_same_responses(ours: System, peers: list[System], data: Data) -> None:
    """Raise `SystemExit` when a peer responds differently."""
    expected = load.sample_responses(ours, data)
    for peer in peers:
        if peer.name == systems.BARE:
            continue
        responses = load.sample_responses(peer, data)
        for key, response in responses.items():
            # A list contains the projects that the earlier samples created.
            if key != Workload.GET_20 and response != expected[key]:
                raise SystemExit(f"{peer.name} differs in {key}: {response} {expected[key]}")


def _alternate(
    ours: System, peers: list[System], data: Data, folder: Path, rounds: int, seconds: float
) -> list[Run]:
    """Measure every system with every workload, in reverse order every other round."""
    runs: list[Run] = []
    uncached = replace(ours, name=report.UNCACHED)
    for round_ in range(rounds):
        for workload in Workload:
            turn = [ours, *peers]
            for system in reversed(turn) if round_ % 2 else turn:
                if system.name != systems.BARE or workload is Workload.HEALTH:
                    runs.append(load.wrk(system, workload, data.rotating_tokens, seconds))
            if workload is Workload.HEALTH:
                continue
            runs.append(load.wrk(uncached, workload, data.uncached_tokens, seconds))
            for is_pipelined in (False, True):
                run = load.pgbench(data, workload, seconds, folder, is_pipelined=is_pipelined)
                runs.append(run)
        print(f"round {round_ + 1} of {rounds}", file=sys.stderr)
    if failed := [run for run in runs if run.errors]:
        print(f"runs with errors: {failed}", file=sys.stderr)
    return runs


def _memory(ours: System, data: Data, seconds: float) -> str:
    before = ours.memory_mib()
    # A smoke run, with its short rounds, does not spend a minute on this.
    longer = max(seconds, MEMORY_SECONDS) if seconds >= 5 else seconds
    load.wrk(ours, Workload.GET_ONE, data.rotating_tokens, longer)
    return (
        f"memory after the rounds {before:.0f} MiB, after {longer:g} s more "
        f"{ours.memory_mib():.0f} MiB"
    )


def _many_connections(ours: System, data: Data, seconds: float) -> str:
    run = load.wrk(ours, Workload.GET_ONE, data.rotating_tokens, seconds, MANY_CONNECTIONS)
    return (
        f"{MANY_CONNECTIONS} connections, GET one project: {run.per_second:,.0f}/s, "
        f"p99 {run.p99_ms:.1f} ms, maximum {run.max_ms:.0f} ms, {run.errors} errors"
    )


def _table_sizes(
    server: embedded.Server,
    folder: Path,
    contract: Contract,
    small: Data,
    rounds: int,
    seconds: float,
) -> str:
    """Return the ratio of the median rates on a large and a small table, in alternating runs."""
    large = create_data(server, folder, contract, **LARGE)
    rates: dict[str, list[float]] = {"small": [], "large": []}
    with ExitStack() as stack:
        pair = [
            (data, stack.enter_context(systems.service(data, folder, name)))
            for name, data in (("small", small), ("large", large))
        ]
        for round_ in range(max(MIN_ROUNDS, rounds)):
            for data, system in pair if round_ % 2 else reversed(pair):
                run = load.wrk(system, Workload.GET_ONE, data.rotating_tokens, seconds)
                rates[system.name].append(run.per_second)
    ratio = median(rates["large"]) / median(rates["small"])
    return f"GET one project, 1,000,000 rows compared with 10,000: {ratio:.2f}"


def _version(url: str) -> str:
    with psycopg.connect(url) as connection:
        version = connection.info.server_version
    return f"{version // 10_000}.{version % 10_000}"


if __name__ == "__main__":
    main()
