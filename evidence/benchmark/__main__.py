"""`make bench`: the service beside its peers in one run, on one PostgreSQL, with the same data."""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from statistics import median

import orjson
import psycopg

from dev.local import embedded
from evidence.benchmark import contract_size, load, report, systems
from evidence.benchmark import data as datasets
from evidence.benchmark.load import Run
from openapi import contract as contracts

HERE = Path(__file__).parent


def main() -> None:
    options = _options()
    if not shutil.which("wrk"):
        raise SystemExit("wrk is needed to make the load (Debian: apt-get install wrk)")
    python = _environment()
    contract = contracts.load()
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        served = folder / "openapi.json"
        served.write_bytes(orjson.dumps(contracts.public_document(contract)))
        before = os.getloadavg()[0]
        server = stack.enter_context(embedded.running(folder / "postgresql"))
        small = datasets.make(server, folder, contract, orgs=100, projects=100)
        ours = stack.enter_context(systems.service(small, folder))
        peers = [
            stack.enter_context(systems.peer(name, python, small, folder, served))
            for name in systems.PEERS
        ]
        _demand_same_answers(ours, [p for p in peers if p.name != "bare"], small)
        runs = _rounds(options, ours, peers, small, folder)
        others = [f"start to ready with migrations current: {ours.seconds_to_ready:.2f} s"]
        others += _memory(ours, small, options.seconds)
        others += _crowd(ours, small, options.seconds)
        others += _sizes(server, folder, contract, small, options)
        others += contract_size.compare(small, folder, options)
        facts = {
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "python": platform.python_version(),
            "postgresql": _version(server.url()),
            "cpus": os.cpu_count(),
            "rounds": options.rounds,
            "seconds": options.seconds,
            "load_before": f"{before:.2f}",
            "others": others,
        }
    raw = {"facts": facts, "runs": [asdict(run) for run in runs]}
    options.into.mkdir(parents=True, exist_ok=True)
    (options.into / "results.json").write_text(json.dumps(raw, indent=1) + "\n")
    (options.into / "RESULTS.md").write_text(report.markdown(runs, facts))
    (options.into / "results.svg").write_text(report.svg(runs))
    print(report.markdown(runs, facts))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m evidence.benchmark")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--into", type=Path, default=HERE, help="where the results are written")
    return parser.parse_args()


def _environment() -> Path:
    """Install the peers, pinned, apart from the service. Returns their Python."""
    folder = HERE.parents[1] / ".venv" / "bench"
    python = folder / "bin" / "python"
    stamp, pins = folder / "stamp", HERE / "requirements.txt"
    if not stamp.exists() or stamp.read_bytes() != pins.read_bytes():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        install += ["--require-hashes", "--no-deps", "--only-binary", ":all:", "-r", str(pins)]
        subprocess.run(install, check=True)
        stamp.write_bytes(pins.read_bytes())
    return python


def _demand_same_answers(
    ours: systems.System, peers: list[systems.System], data: datasets.Data
) -> None:
    expected = load.sample(ours, data)
    for peer in peers:
        answers = load.sample(peer, data)
        # The list holds the samples that were posted before.
        for key in expected:
            if key != "l" and answers[key] != expected[key]:
                raise SystemExit(f"{peer.name} answers otherwise: {answers[key]} {expected[key]}")


def _rounds(
    options: argparse.Namespace,
    ours: systems.System,
    peers: list[systems.System],
    data: datasets.Data,
    folder: Path,
) -> list[Run]:
    runs: list[Run] = []
    binary = embedded.binary("pgbench")
    different = systems.System(report.DIFFERENT, ours.url, ours.pid, 0)
    for round_ in range(options.rounds):
        for workload in load.WORKLOADS:
            turn = [*peers, ours] if round_ % 2 else [ours, *peers]
            for system in turn:
                if system.name == "bare" and workload != "h":
                    continue
                runs.append(load.wrk(system, workload, data.rotating, options.seconds))
            if workload == "h":
                continue
            runs.append(load.wrk(different, workload, data.different, options.seconds))
            for pipelined in (False, True):
                runs.append(
                    load.pgbench(
                        binary, data, workload, options.seconds, folder, pipelined=pipelined
                    )
                )
        print(f"round {round_ + 1} of {options.rounds}", file=sys.stderr)
    if failed := [run for run in runs if run.errors]:
        print(f"errors: {failed}", file=sys.stderr)
    return runs


def _memory(ours: systems.System, data: datasets.Data, seconds: float) -> list[str]:
    first = ours.memory_mib()
    load.wrk(ours, "r", data.rotating, max(seconds, 60 if seconds >= 5 else seconds))
    return [
        f"memory after the rounds {first:.0f} MiB, after a minute more {ours.memory_mib():.0f} MiB"
    ]


def _crowd(ours: systems.System, data: datasets.Data, seconds: float) -> list[str]:
    run = load.wrk(ours, "r", data.rotating, seconds, connections=64)
    return [
        f"64 connections, GET one project: {run.per_second:,.0f}/s, p99 {run.p99_ms:.1f} ms, "
        f"longest {run.max_ms:.0f} ms, {run.errors} errors"
    ]


def _sizes(
    server: embedded.Server,
    folder: Path,
    contract: contracts.Contract,
    small: datasets.Data,
    options: argparse.Namespace,
) -> list[str]:
    large = datasets.make(server, folder, contract, orgs=1000, projects=1000)
    rates: dict[str, list[float]] = {"10,000": [], "1,000,000": []}
    with ExitStack() as stack:
        pair = [
            (name, data, stack.enter_context(systems.service(data, folder, f"{name} rows")))
            for name, data in (("10,000", small), ("1,000,000", large))
        ]
        for round_ in range(max(3, options.rounds)):
            for name, data, system in pair if round_ % 2 else reversed(pair):
                run = load.wrk(system, "r", data.rotating, options.seconds)
                rates[name].append(run.per_second)
    ratio = median(rates["1,000,000"]) / median(rates["10,000"])
    return [f"GET one project of 1,000,000 rows to the same of 10,000: {ratio:.2f}"]


def _version(url: str) -> str:
    with psycopg.connect(url) as connection:
        version = connection.info.server_version
    return f"{version // 10_000}.{version % 10_000}"


if __name__ == "__main__":
    main()
