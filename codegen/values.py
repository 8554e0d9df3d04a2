"""The values of every environment, checked against the chart's own schema before it is written."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema_rs
import yaml

from codegen.facts import Environment, Facts
from codegen.render import Files, Overrides, merged
from codegen.validation import Violation, fault
from openapi.contract import Contract, ContractError, Issue
from openapi.documents import NodePath, format_path


def check(contract: Contract, facts: Facts, files: Files, own: Overrides) -> None:
    """Raise `ContractError` for values that the chart would refuse.

    The line is that of the contract, or the name of the user's own file.
    """
    chart = f"charts/{facts.name}"
    validator = jsonschema_rs.validator_for(json.loads(files[f"{chart}/values.schema.json"]))
    defaults = _loaded(files[f"{chart}/values.yaml"])
    names = {env.name for env in facts.environments}
    faults = [
        Issue(f"overrides/values.{name}.yaml", 1, "document", f"no such environment: {name}")
        for name in own.values
        if name is not None and name not in names
    ]
    for env in facts.environments:
        values = merged(defaults, _loaded(files[f"{chart}/environments/{env.name}.yaml"]))
        for error in validator.iter_errors(values):
            for place, reason in _causes(error):
                faults += _fault(contract, env, own, place, reason)
    if faults:
        raise ContractError(faults)


def _loaded(text: str) -> Any:
    return yaml.load(text, Loader=yaml.CSafeLoader)


def _causes(error: Any) -> Iterator[Violation]:
    place = tuple(error.instance_path)
    if error.kind.name == "additionalProperties":
        for key in error.kind.unexpected:
            yield (*place, key), "the chart knows no such value"
    else:
        yield place, error.message


def _fault(
    contract: Contract, env: Environment, own: Overrides, place: NodePath, reason: str
) -> list[Issue]:
    for name, file in ((env.name, f"values.{env.name}.yaml"), (None, "values.yaml")):
        if _holds(own.values.get(name, {}), place):
            return [Issue(f"overrides/{file}", 1, format_path(place), reason)]
    return list(fault(contract, [((*env.place, "values", *place), reason)]).issues)


def _holds(values: Any, place: NodePath) -> bool:
    for key in place:
        if not isinstance(values, Mapping) or key not in values:
            return False
        values = values[key]
    return True
