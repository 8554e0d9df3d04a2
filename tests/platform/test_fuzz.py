"""A bounded run of Schemathesis against the running service, with every check on."""

import pytest

from evidence.fuzz import runner
from evidence.fuzz.runner import Run
from openapi import contract
from openapi.contract import Contract
from tests.platform.fix_service import Service

SEED, EXAMPLES, SUCCESSES, SECONDS = 20261123, 20, 8, 180


@pytest.fixture(scope="module")
def loaded() -> Contract:
    return contract.load()


@pytest.fixture(scope="module")
def fuzzed(service: Service, loaded: Contract, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("fuzz") / "run"
    return runner.run(service, loaded, folder, seed=SEED, examples=EXAMPLES, seconds=SECONDS)


def test_no_case_fails_a_check_and_nothing_warns(fuzzed: Run) -> None:
    assert runner.failures(fuzzed) == [], fuzzed.output


def test_every_operation_of_the_contract_is_fuzzed_in_every_phase(
    fuzzed: Run, loaded: Contract
) -> None:
    assert runner.untested(fuzzed, loaded) == []
    assert fuzzed.cases > 20 * len(loaded.operations)


def test_every_operation_succeeds_many_times(fuzzed: Run, loaded: Contract) -> None:
    assert runner.unsuccessful(fuzzed, loaded, SUCCESSES) == []


def test_every_read_of_a_tenant_is_tried_by_others(fuzzed: Run, loaded: Contract) -> None:
    assert runner.unguarded(fuzzed, loaded) == []
