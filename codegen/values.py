"""Check the Helm values of every environment against the chart's schema before writing them."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema_rs
import yaml

from codegen.facts import Environment, Facts
from codegen.files import Files
from codegen.overrides import Overrides, merged, values_file
from codegen.validation import Violation
from openapi.contract import Contract, ContractError, Issue
from openapi.documents import NodePath, format_path


def check(contract: Contract, facts: Facts, files: Files, overrides: Overrides) -> None:
    """Raise `ContractError` for values that the chart would reject.

    An issue is located in the contract, or in the file under overrides/ that sets the value.
    """
    chart = f"charts/{facts.name}"
    validator = jsonschema_rs.validator_for(json.loads(files[f"{chart}/values.schema.json"]))
    defaults = _load(files[f"{chart}/values.yaml"])
    issues = [*_unknown_environments(facts, overrides)]
    for env in facts.environments:
        values = merged(defaults, _load(files[f"{chart}/environments/{env.name}.yaml"]))
        for error in validator.iter_errors(values):
            issues += [_issue(contract, env, overrides, *violation) for violation in _causes(error)]
    if issues:
        raise ContractError(issues)


def _load(text: str) -> Any:
    return yaml.load(text, Loader=yaml.CSafeLoader)


def _unknown_environments(facts: Facts, overrides: Overrides) -> Iterator[Issue]:
    names = [env.name for env in facts.environments]
    for name in overrides.values:
        if name is not None and name not in names:
            reason = f"unknown environment {name!r}. The contract defines {', '.join(names)}"
            yield Issue(values_file(name), 1, "document", reason)


def _causes(error: Any) -> Iterator[Violation]:
    node = tuple(error.instance_path)
    if error.kind.name == "additionalProperties":
        for key in error.kind.unexpected:
            yield (*node, key), "unknown value. The chart's values.schema.json lists every value"
    else:
        yield node, error.message


def _issue(
    contract: Contract, env: Environment, overrides: Overrides, node: NodePath, reason: str
) -> Issue:
    """Return the issue, located in the file whose value takes precedence."""
    for environment in (env.name, None):
        if _contains(overrides.values.get(environment, {}), node):
            return Issue(values_file(environment), 1, format_path(node), reason)
    return contract.issue((*env.node, "values", *node), reason)


def _contains(values: Any, node: NodePath) -> bool:
    for key in node:
        if isinstance(values, list):  # a list replaces the one it overrides as a whole
            return True
        if not isinstance(values, Mapping) or key not in values:
            return False
        values = values[key]
    return True
