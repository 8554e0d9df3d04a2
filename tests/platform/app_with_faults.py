"""The service with the operations of faults/ added, which fail, wait and echo on purpose."""

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

PLANT = Path(__file__).parent / "faults"
SEEN = {
    "description": "What the handler saw",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "additionalProperties": False,
                "required": ["seen"],
                "properties": {
                    "seen": {"type": "string", "maxLength": 10_000, "pattern": "^[^\\u0000]*$"}
                },
            }
        }
    },
}


def document() -> dict[str, Any]:
    """The contract of the service with the paths of tests/plant/planted.yaml."""
    shipped: dict[str, Any] = yaml.safe_load(contract.DEFAULT.read_text())
    planted = yaml.safe_load((PLANT / "planted.yaml").read_text())
    shipped["tags"] += planted["tags"]
    problems = {
        str(example["status"]): name
        for name, r in shipped["components"]["responses"].items()
        for example in examples(r)
    }
    for path in planted["paths"].values():
        for operation in path.values():
            operation |= {"tags": ["planted"], "summary": "Planted", "description": "Planted"}
            operation["responses"] = {"200": SEEN} | {
                status: {"$ref": f"#/components/responses/{name}"}
                for status, name in problems.items()
            }
            for parameter in operation.get("parameters", ()):
                parameter["description"] = "Planted"
    shipped["paths"] |= planted["paths"]
    return shipped


if __name__ == "__main__":
    file = Path(os.environ["PLANT_FILE"])
    file.write_text(json.dumps(document()))
    handlers.__path__.append(str(PLANT))
    environment = settings.load()
    logs.configure(environment.log_format)
    parts = create_app(environment, contract.load(file, handlers=None))
    serve.run(environment, parts)
