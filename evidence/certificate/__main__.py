"""Certify the isolation of tenants: write certificate.json and certificate.html.

The command `mutants` injects faults instead, and expects the certificate to fail for each.
"""

import argparse
import logging
import signal
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import structlog

from evidence.certificate import mutants, report, runs
from evidence.certificate.environments import ContractMismatch, RunningService
from evidence.certificate.results import Certificate, Verdict
from evidence.certificate.runs import Options, Part
from evidence.harness.processes import ROOT
from openapi import contract
from openapi.contract import ContractError

EXIT_FAILED, EXIT_NO_CERTIFICATE = 1, 2


def main(arguments: list[str]) -> int:
    """Return 0 for a certificate without issues, 1 for one with issues, 2 for none at all."""
    options = _parser().parse_args(arguments)
    if options.command == "mutants":
        return mutants.main(options.only)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    report.remove(options.out)
    try:
        certificate = _certify(options)
    except (ContractMismatch, ContractError) as error:
        print(f"no certificate: {error}", file=sys.stderr)
        return EXIT_NO_CERTIFICATE
    report.write(certificate, options.out)
    _print(certificate, options.out)
    is_failed = certificate.verdict is Verdict.FAIL
    is_incomplete = certificate.verdict is Verdict.INCOMPLETE and options.complete
    return EXIT_FAILED if is_failed or is_incomplete else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m evidence.certificate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("command", nargs="?", choices=("run", "mutants"), default="run")
    add("--out", type=Path, default=ROOT / "build", help="the folder for the certificate")
    add("--parts", default=",".join(Part), help="comma-separated: " + ", ".join(Part))
    add("--complete", action="store_true", help="fail if a part was not run")
    add("--url", help="certify a running service instead of starting one")
    add("--keys-dir", type=Path, help="with --url: the folder of its signing keys")
    add("--database-url", help="with --url: its database, as superuser")
    add("--sql", default="", help="SQL that mutates the new database first")
    add("--undo", default="", help="SQL that repairs the server afterwards")
    add("--only", default="", help="mutants: only those whose name contains this text")
    add("--quiet", action="store_true", help="print no progress")
    return parser


def _certify(options: argparse.Namespace) -> Certificate:
    """Return the certificate. Raises `ContractMismatch` and `ContractError`."""
    started = time.monotonic()
    parts = tuple(part for part in Part if part in options.parts.split(","))

    def progress(line: str) -> None:
        if not options.quiet:
            print(f"{time.monotonic() - started:6.1f} s  {line}", flush=True)

    loaded = contract.load()
    if options.url:
        address = urlsplit(options.url)
        service = RunningService(address.hostname or "", address.port or 80, options.keys_dir)
        return runs.certify_service(loaded, service, options.database_url, parts, progress)
    return runs.certify_tree(loaded, Options(parts, options.sql, options.undo), progress)


def _print(certificate: Certificate, folder: Path) -> None:
    for issue in certificate.all_issues:
        print(f"ISSUE {issue}")
    for reason in certificate.not_run:
        print(f"not run: {reason}")
    duration = f"{certificate.metadata['duration_seconds']} s"
    print(f"{certificate.verdict}: {certificate.summary}, {duration}; {folder / report.HTML_NAME}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
