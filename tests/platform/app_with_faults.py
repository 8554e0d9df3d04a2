"""Serves the contract plus the operations of faults/, which fail, wait and echo on purpose.

The combined contract is written to FAULTS_CONTRACT.
"""

import json
import os
from pathlib import Path
from typing import Any

import yaml

import handlers
from openapi import contract
from service import serve, settings
from service.app import create_app
from service.telemetry import logs
from tests.platform.fix_problems import examples

FAULTS = Path(__file__).parent / "faults"
ECHO_RESPONSE = {
    "description": "What the handler received",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "additionalProperties": False,
                "required": ["received"],
                "properties": {
                    "received": {"type": "string", "maxLength": 10_000, "pattern": "^[^\\u0000]*$"}
                },
            }
        }
    },
}


def document() -> dict[str, Any]:
    """Return the contract of the service with the paths of tests/platform/faults/faults.yaml."""
    combined: dict[str, Any] = yaml.safe_load(contract.DEFAULT.read_text())
    faults = yaml.safe_load((FAULTS / "faults.yaml").read_text())
    combined["tags"] += faults["tags"]
    problems = {
        str(example["status"]): name
        for name, response in combined["components"]["responses"].items()
        for example in examples(response)
    }
    for path in faults["paths"].values():
        for operation in path.values():
            operation |= {"tags": ["faults"], "summary": "For tests", "description": "For tests"}
            operation["responses"] = {"200": ECHO_RESPONSE} | {
                status: {"$ref": f"#/components/responses/{name}"}
                for status, name in problems.items()
            }
            for parameter in operation.get("parameters", ()):
                parameter["description"] = "For tests"
    combined["paths"] |= faults["paths"]
    return combined


if __name__ == "__main__":
    file = Path(os.environ["FAULTS_CONTRACT"])
    file.write_text(json.dumps(document()))
    handlers.__path__.append(str(FAULTS))
    loaded_settings = settings.load()
    logs.configure(loaded_settings.log_format)
    app = create_app(loaded_settings, contract.load(file, handlers=None))
    serve.run(loaded_settings, app)
