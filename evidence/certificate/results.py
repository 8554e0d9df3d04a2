"""What a certificate is made of: requests, answers, cells, rules and their faults."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

PASS, FAIL, NOT_APPLICABLE = "pass", "fail", "n/a"


@dataclass(frozen=True)
class Request:
    """What is sent; `shown` names whose token it is, since no certificate holds a token."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    shown: str = "no token"


@dataclass(frozen=True)
class Response:
    """What came back: header names in lower case, in the order of their arrival."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    seconds: float


@dataclass(frozen=True)
class Evidence:
    """One probe as it was run: what was sent, what came back, and every fault of it."""

    probe: str
    request: Request
    answer: Response | None
    compared: str
    effect: str
    faults: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """One operation, one identity, one way in; `reason` says why a cell does not apply."""

    operation: str
    identity: str
    way: str
    evidence: tuple[Evidence, ...] = ()
    reason: str = ""

    @property
    def state(self) -> str:
        if self.reason:
            return NOT_APPLICABLE
        return FAIL if any(e.faults for e in self.evidence) else PASS

    @property
    def faults(self) -> list[str]:
        where = f"{self.operation} / {self.identity} / {self.way}"
        return [f"{where} / {e.probe}: {fault}" for e in self.evidence for fault in e.faults]


@dataclass(frozen=True)
class Check:
    """One rule of a layer beneath the operations, and what was found."""

    layer: str
    name: str
    evidence: str
    faults: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """The matrix and the layers over one way to the database: `direct` or `pooled`."""

    name: str
    cells: tuple[Case, ...] = ()
    rules: tuple[Check, ...] = ()

    @property
    def faults(self) -> list[str]:
        found = [fault for cell in self.cells for fault in cell.faults]
        found += [f"{rule.layer} / {fault}" for rule in self.rules for fault in rule.faults]
        return [f"{self.name}: {fault}" for fault in found]


@dataclass(frozen=True)
class Certificate:
    """Everything that one run found out; `not_run` names what it could not look at."""

    about: Mapping[str, Any]
    runs: tuple[Run, ...]
    not_run: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """fail, incomplete (no fault, and not everything was looked at) or pass."""
        if self.all_faults:
            return "fail"
        cells = [cell for run in self.runs for cell in run.cells if cell.state == PASS]
        return "incomplete" if self.not_run or not cells else "pass"

    @property
    def all_faults(self) -> list[str]:
        return [*self.faults, *(fault for run in self.runs for fault in run.faults)]


def as_json(certificate: Certificate) -> dict[str, Any]:
    """Return the certificate as JSON holds it."""
    return {
        "certificate": "tenant isolation",
        "verdict": certificate.verdict,
        **certificate.about,
        "figures": dict(certificate.figures),
        "faults": certificate.all_faults,
        "not_run": list(certificate.not_run),
        "runs": [
            {
                "name": run.name,
                "rules": [asdict(rule) | {"ok": not rule.faults} for rule in run.rules],
                "cells": [_cell(cell) for cell in run.cells],
            }
            for run in certificate.runs
        ],
    }


def _cell(cell: Case) -> dict[str, Any]:
    return {
        "operation": cell.operation,
        "identity": cell.identity,
        "way": cell.way,
        "state": cell.state,
        "reason": cell.reason,
        "evidence": [_evidence(evidence) for evidence in cell.evidence],
    }


def _evidence(evidence: Evidence) -> dict[str, Any]:
    request, answer = evidence.request, evidence.answer
    return {
        "probe": evidence.probe,
        "request": {
            "method": request.method,
            "target": request.target,
            "token": request.shown,
            "headers": [list(pair) for pair in request.headers if pair[0] != "Authorization"],
            "body": request.body.decode(errors="replace") if request.body else None,
        },
        "answer": {
            "status": answer.status,
            "headers": [list(pair) for pair in answer.headers],
            "body": redacted(answer.body.decode(errors="replace")),
        }
        if answer
        else None,
        "compared": evidence.compared,
        "effect": evidence.effect,
        "faults": list(evidence.faults),
    }


def redacted(text: str) -> str:
    """Return an answer's text without the tokens in it."""
    head, mark, rest = text.partition('"access_token":"')
    return f"{head}{mark}…{rest[rest.index(chr(34)) :]}" if mark and chr(34) in rest else text
