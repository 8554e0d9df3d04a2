"""A short run of Schemathesis against each test contract whose resources need no code."""

from pathlib import Path

import pytest

from evidence.fuzz import runner
from tests.platform.fix_resources import NAMES, ResourceService

SEED, EXAMPLES, TIMEOUT_SECONDS = 20261123, 2, 180
TENANT_PATHS = r"^/orgs/\{org_id\}/"  # the other paths are those of the shipped contract


@pytest.mark.parametrize("name", NAMES)
def test_no_generated_case_fails_a_check(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    resources: ResourceService = request.getfixturevalue(name)
    run = runner.run(
        resources.service,
        resources.contract,
        tmp_path / "run",
        seed=SEED,
        examples=EXAMPLES,
        timeout=TIMEOUT_SECONDS,
        paths=TENANT_PATHS,
    )
    # It also warns of generated values that collide, which unique keys rightly reject.
    assert run.report["failures"] == run.report["errors"] == [], run.output
    assert run.report["stop_reason"] == "completed"
    served = [
        o for o in resources.contract.operations.values() if o.tag in resources.contract.tables
    ]
    assert run.report["operations"]["tested"] == len(served)
    assert [o.id for o in served if not run.successes(f"{o.method.upper()} {o.path}")] == []
