"""The same operation in a contract of 10 and of 500 operations."""

import json
import shutil
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import yaml

from evidence.benchmark import load, systems
from evidence.benchmark.data import Data
from evidence.benchmark.load import Workload
from evidence.harness.processes import ROOT

SIZES = (10, 500)
REMOVABLE_TAGS = ("auth", "orgs")
MIN_ROUNDS = 3


def compare(data: Data, folder: Path, rounds: int, seconds: float) -> str:
    """Return one line: the ratio of the median rates of alternating runs."""
    rates: dict[int, list[float]] = {size: [] for size in SIZES}
    with ExitStack() as stack:
        running = {
            size: stack.enter_context(
                systems.service(data, folder, f"{size} operations", _tree(folder, size))
            )
            for size in SIZES
        }
        for round_ in range(max(MIN_ROUNDS, rounds)):
            for size in SIZES if round_ % 2 else reversed(SIZES):
                run = load.wrk(running[size], Workload.GET_ONE, data.rotating_tokens, seconds)
                rates[size].append(run.per_second)
    ratio = median(rates[500]) / median(rates[10])
    return f"GET one project, 500 operations in the contract compared with 10: {ratio:.2f}"


def _tree(folder: Path, size: int) -> Path:
    """Copy the service, and change its contract to `size` operations."""
    tree = folder / f"tree-{size}"
    for part in ("openapi", "handlers", "db", "service"):
        shutil.copytree(ROOT / part, tree / part)
    file = tree / "openapi" / "openapi.yaml"
    document = yaml.safe_load(file.read_text())
    operations = [
        (path, method)
        for path, methods in document["paths"].items()
        for method in methods
        if method != "parameters"
    ]
    for path, method in operations:
        operation = document["paths"][path][method]
        if size < len(operations) and operation["tags"][0] in REMOVABLE_TAGS:
            del document["paths"][path][method]
        for response in operation["responses"].values():
            response.pop("links", None)
    document["paths"] = {p: m for p, m in document["paths"].items() if m.keys() - {"parameters"}}
    index = document["paths"]["/"]["get"]
    count = sum(len(m.keys() - {"parameters"}) for m in document["paths"].values())
    document["tags"].append({"name": "copies", "description": "Copies"})
    handlers = ["from handlers.system import index"]
    for n in range(size - count):
        document["paths"][f"/copies/n{n}"] = {
            "get": {**index, "operationId": f"copies.n{n}", "tags": ["copies"]}
        }
        handlers.append(f"async def n{n}(contract): return await index(contract)")
    (tree / "handlers" / "copies.py").write_text("\n".join(handlers) + "\n")
    file.write_text(json.dumps(document))
    return tree
