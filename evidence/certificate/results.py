"""The data of a certificate: requests, responses, cases, checks and their issues."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class State(StrEnum):
    """The result of a case."""

    PASS = "pass"
    FAIL = "fail"
    NOT_APPLICABLE = "n/a"


class Verdict(StrEnum):
    """The result of a certificate. `INCOMPLETE`: no issue, but a part was not run."""

    PASS = "pass"
    FAIL = "fail"
    INCOMPLETE = "incomplete"


@dataclass(frozen=True)
class Request:
    """An HTTP request. `token_label` names its token, since no certificate contains a token."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    token_label: str = "no token"


@dataclass(frozen=True)
class Response:
    """An HTTP response: header names in lower case, in the order received."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    seconds: float

    @property
    def text(self) -> str:
        return self.body.decode(errors="replace")


@dataclass(frozen=True)
class Evidence:
    """One probe: its request and response, how they compare with the control, and the effect."""

    probe: str
    request: Request
    response: Response | None
    comparison: str
    effect: str
    issues: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """One operation, one identity, one attack vector.

    `not_applicable` is the reason why the case does not apply, or empty.
    """

    operation: str
    identity: str
    attack_vector: str
    evidence: tuple[Evidence, ...] = ()
    not_applicable: str = ""

    @property
    def state(self) -> State:
        if self.not_applicable:
            return State.NOT_APPLICABLE
        return State.FAIL if any(e.issues for e in self.evidence) else State.PASS

    @property
    def issues(self) -> list[str]:
        name = f"{self.operation} / {self.identity} / {self.attack_vector}"
        return [f"{name} / {e.probe}: {issue}" for e in self.evidence for issue in e.issues]


@dataclass(frozen=True)
class Check:
    """One property of a layer below HTTP, what was examined, and the issues."""

    layer: str
    name: str
    evidence: str
    issues: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """The cases and checks of one path to the database: `direct` or `pooled`."""

    name: str
    cases: tuple[Case, ...] = ()
    checks: tuple[Check, ...] = ()

    @property
    def issues(self) -> list[str]:
        issues = [issue for case in self.cases for issue in case.issues]
        issues += [f"{check.layer} / {issue}" for check in self.checks for issue in check.issues]
        return [f"{self.name}: {issue}" for issue in issues]


@dataclass(frozen=True)
class Certificate:
    """The results of all runs. `issues` belong to no run; `not_run` names what was left out."""

    metadata: Mapping[str, Any]
    runs: tuple[Run, ...]
    not_run: tuple[str, ...] = ()
    issues: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        if self.all_issues:
            return Verdict.FAIL
        is_complete = not self.not_run and self.figures["cases_by_state"][State.PASS]
        return Verdict.PASS if is_complete else Verdict.INCOMPLETE

    @property
    def all_issues(self) -> list[str]:
        return [*self.issues, *(issue for run in self.runs for issue in run.issues)]

    @property
    def figures(self) -> dict[str, Any]:
        """Return how much was tried. `cases` counts those that apply, over all runs."""
        cases = [case for run in self.runs for case in run.cases]
        states = [case.state for case in cases]
        by_state = {state: states.count(state) for state in State}
        return {
            "operations": len({case.operation for case in cases}),
            "cases": len(cases) - by_state[State.NOT_APPLICABLE],
            "cases_by_state": by_state,
            "probes": sum(len(case.evidence) for case in cases),
            "checks": sum(len(run.checks) for run in self.runs),
            "issues": len(self.all_issues),
        }

    @property
    def summary(self) -> str:
        """Return the figures as a phrase, the same for the terminal and the page."""
        numbers = self.figures
        return (
            f"{_count(numbers['cases'], 'case')} ({_count(numbers['probes'], 'probe')}) of"
            f" {_count(numbers['operations'], 'operation')}, {_count(numbers['checks'], 'check')},"
            f" {_count(numbers['issues'], 'issue')}"
        )


def as_json(certificate: Certificate) -> dict[str, Any]:
    """Return the content of certificate.json."""
    return {
        "certificate": "tenant isolation",
        "verdict": certificate.verdict,
        **certificate.metadata,
        "figures": certificate.figures,
        "issues": certificate.all_issues,
        "not_run": list(certificate.not_run),
        "runs": [
            {
                "name": run.name,
                "checks": [asdict(check) | {"passed": not check.issues} for check in run.checks],
                "cases": [_case(case) for case in run.cases],
            }
            for run in certificate.runs
        ],
    }


def redacted(text: str) -> str:
    """Return the text of a response with its access token replaced by an ellipsis."""
    head, mark, rest = text.partition('"access_token":"')
    return f"{head}{mark}…{rest[rest.index(chr(34)) :]}" if mark and chr(34) in rest else text


def _case(case: Case) -> dict[str, Any]:
    return {
        "operation": case.operation,
        "identity": case.identity,
        "attack_vector": case.attack_vector,
        "state": case.state,
        "not_applicable": case.not_applicable,
        "evidence": [_evidence(evidence) for evidence in case.evidence],
    }


def _evidence(evidence: Evidence) -> dict[str, Any]:
    request, response = evidence.request, evidence.response
    return {
        "probe": evidence.probe,
        "request": {
            "method": request.method,
            "target": request.target,
            "token": request.token_label,
            "headers": [list(pair) for pair in request.headers if pair[0] != "Authorization"],
            "body": request.body.decode(errors="replace") if request.body else None,
        },
        "response": {
            "status": response.status,
            "headers": [list(pair) for pair in response.headers],
            "body": redacted(response.text),
        }
        if response
        else None,
        "comparison": evidence.comparison,
        "effect": evidence.effect,
        "issues": list(evidence.issues),
    }


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
