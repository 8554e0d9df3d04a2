"""`make certify`: prove the isolation of tenants and write build/certificate.{json,html}."""

import argparse
import logging
import signal
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import structlog

from evidence.certificate import mutants, report, runs
from evidence.certificate.results import Certificate
from evidence.certificate.runs import PARTS, Options, OtherContract, Target
from evidence.harness.processes import ROOT
from openapi import contract
from openapi.contract import ContractError

FAILED, WRONG = 1, 2


def main(arguments: list[str]) -> int:
    """Return 0 for a certificate without a fault, 1 for one with faults, 2 where none was made."""
    parser = argparse.ArgumentParser(prog="python -m evidence.certificate", description=__doc__)
    parser.add_argument("command", nargs="?", choices=("run", "mutants"), default="run")
    parser.add_argument("--out", type=Path, default=ROOT / "build")
    parser.add_argument("--parts", default=",".join(PARTS), help="some of " + ", ".join(PARTS))
    parser.add_argument("--complete", action="store_true", help="fail when a part was not run")
    parser.add_argument("--url", help="a running service instead of one of its own")
    parser.add_argument("--keys-dir", type=Path, help="with --url: its keys")
    parser.add_argument("--database-url", help="with --url: its database, as superuser")
    parser.add_argument("--sql", default="", help="statements that spoil the database first")
    parser.add_argument("--undo", default="", help="statements that heal the server afterwards")
    parser.add_argument("--only", default="", help="mutants: those whose name holds this")
    parser.add_argument("--quiet", action="store_true")
    given = parser.parse_args(arguments)
    if given.command == "mutants":
        return mutants.main(given.only)
    parts = tuple(part for part in PARTS if part in given.parts.split(","))
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    report.remove(given.out)
    started = time.monotonic()

    def say(line: str) -> None:
        if not given.quiet:
            print(f"{time.monotonic() - started:6.1f} s  {line}", flush=True)

    try:
        checked_out = contract.load()
        if given.url:
            place = urlsplit(given.url)
            service = Target(place.hostname or "", place.port or 80, given.keys_dir)
            made = runs.remote(checked_out, service, given.database_url, parts, say)
        else:
            made = runs.certificate(checked_out, Options(parts, given.sql, given.undo), say)
    except (OtherContract, ContractError) as error:
        print(f"no certificate: {error}", file=sys.stderr)
        return WRONG
    report.write(made, given.out)
    return told(made, given.out, given.complete)


def told(made: Certificate, folder: Path, complete: bool) -> int:
    """Print what a certificate says and return the exit code."""
    for fault in made.all_faults:
        print(f"FAULT {fault}")
    for reason in made.not_run:
        print(f"not run: {reason}")
    figures = made.figures
    print(
        f"{made.verdict}: {figures['cells']} cells ({figures['probes']} probes) of"
        f" {figures['operations']} operations, {figures['rules']} rules,"
        f" {len(made.all_faults)} faults, {made.about['seconds']} s; {folder}/certificate.html"
    )
    bad = ("fail", "incomplete") if complete else ("fail",)
    return FAILED if made.verdict in bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
