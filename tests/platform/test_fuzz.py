"""A short run of Schemathesis against the running service, with every check enabled."""

import pytest

from evidence.fuzz import runner
from evidence.fuzz.runner import Run
from openapi import contract
from openapi.contract import Contract
from tests.platform.fix_service import Service

SEED, EXAMPLES, MIN_SUCCESSES, TIMEOUT_SECONDS = 20261123, 20, 8, 180


@pytest.fixture(scope="module")
def loaded() -> Contract:
    return contract.load()


@pytest.fixture(scope="module")
def run(service: Service, loaded: Contract, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("fuzz") / "run"
    return runner.run(
        service, loaded, folder, seed=SEED, examples=EXAMPLES, timeout=TIMEOUT_SECONDS
    )


def test_no_case_fails_a_check_and_nothing_warns(run: Run) -> None:
    assert runner.failed_checks(run) == [], run.output


def test_every_operation_is_fuzzed_in_every_phase(run: Run, loaded: Contract) -> None:
    assert runner.untested_operations(run, loaded) == []
    assert run.cases > 20 * len(loaded.operations)


def test_every_operation_succeeds_many_times(run: Run, loaded: Contract) -> None:
    assert runner.unsuccessful_operations(run, loaded, MIN_SUCCESSES) == []


def test_other_tenants_try_every_read_of_a_tenant(run: Run, loaded: Contract) -> None:
    assert runner.untried_reads(run, loaded) == []
