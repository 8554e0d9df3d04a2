"""Which module may import which, and what the serving process never loads."""

import ast
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from evidence.harness.processes import ROOT
from openapi import contract
from service.identity import keys

PACKAGES = ("openapi", "db", "service", "handlers", "dev", "codegen", "evidence")
# {prefix of a module: what it may import besides its own package}; the longest prefix applies.
ALLOWED = {
    "openapi": (),
    "db": ("openapi",),
    "db.queries": ("db.tenancy", "db.errors", "db.sql"),
    "service": ("db", "openapi"),
    "service.identity": (),
    "handlers": ("db", "openapi", "service.identity", "service.status"),
    "codegen": ("openapi",),
    "dev": ("openapi", "db", "service"),
    "dev.planner": ("openapi", "db", "dev.local"),
    "dev.scaffold": ("openapi", "dev.lint"),
    "dev.breaking": ("openapi",),
    "dev.lint": ("openapi",),
    "evidence": ("openapi", "db", "dev.local", "service.identity"),
    "evidence.harness": ("openapi", "db", "dev.local", "service.identity"),
    "evidence.certificate": ("openapi", "db", "evidence.harness"),
    "evidence.resilience": (
        *("openapi", "db", "dev.local", "service.identity", "evidence.harness"),
        "evidence.certificate.catalogue",
    ),
    "evidence.benchmark": ("openapi", "db", "dev.local", "service.identity", "evidence.harness"),
    "evidence.fuzz": ("openapi", "evidence.harness"),
}
# These import modules by name at run time: handlers by the contract, commands by the command line.
DYNAMIC_IMPORTERS = {"service/app.py", "service/__main__.py", "dev/local/__main__.py"}
NEVER_SERVED = ("sqlalchemy", "alembic", "pytest", "codegen", "dev", "evidence", "db.migrate")


def modules() -> dict[str, Path]:
    """Return {dotted name: file} of all our modules except the tests."""
    files = (file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
    return {_name(file): file for file in files}


def _name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST) -> Iterator[tuple[str, ast.stmt]]:
    """Yield (dotted name of what is imported, the statement)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the direction"
            yield from ((f"{node.module}.{alias.name}", node) for alias in node.names)


def is_ours(name: str) -> bool:
    return name.split(".")[0] in (*PACKAGES, "tests")


def violations(name: str, source: str, tags: frozenset[str]) -> list[str]:
    """Return the imports of a module that are not allowed."""
    tree = ast.parse(source)
    home = max((p for p in ALLOWED if f"{name}.".startswith(f"{p}.")), key=len)
    messages = []
    for target, node in imports(tree):
        if not is_ours(target):
            continue
        if not any(f"{target}.".startswith(f"{p}.") for p in (home, *ALLOWED[home])):
            messages.append(f"{name} imports {target}")
        if _tag(name, tags) and _tag(target, tags) not in (None, _tag(name, tags)):
            messages.append(f"{name} imports {target} of another tag")
        if node not in tree.body:
            messages.append(f"{name} imports {target} below the top level")
    return messages


def _tag(name: str, tags: frozenset[str]) -> str | None:
    parts = name.split(".")
    return parts[1] if parts[0] == "handlers" and len(parts) > 1 and parts[1] in tags else None


@pytest.fixture(scope="module")
def tags() -> frozenset[str]:
    return frozenset(operation.tag for operation in contract.load().operations.values())


def test_every_module_imports_only_what_it_may(tags: frozenset[str]) -> None:
    messages = [
        message
        for name, file in modules().items()
        for message in violations(name, file.read_text(), tags)
    ]
    assert messages == []


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("openapi.contract", "from db import ids", "imports db.ids"),
        ("db.queries.orgs", "import service.identity.keys", "imports service.identity.keys"),
        ("db.queries.orgs", "from db.connections import wire", "imports db.connections.wire"),
        ("db.tenancy", "from codegen import facts", "imports codegen.facts"),
        ("handlers.orgs", "from codegen import facts", "imports codegen.facts"),
        ("handlers.orgs", "from service import app", "imports service.app"),
        ("handlers.orgs", "from handlers import system", "of another tag"),
        ("handlers.orgs", "from handlers.system import ready", "of another tag"),
        ("service.app", "from codegen import facts", "imports codegen.facts"),
        ("service.app", "from dev.local import embedded", "imports dev.local.embedded"),
        ("service.app", "from handlers import orgs", "imports handlers.orgs"),
        ("codegen.facts", "from db import ids", "imports db.ids"),
        ("dev.breaking.diff", "from dev.planner import ddl", "imports dev.planner.ddl"),
        ("evidence.benchmark.load", "from tests.platform import fix_raw", "imports tests.platform"),
        ("db.tenancy", "from tests.platform import fix_raw", "imports tests.platform.fix_raw"),
        ("db.tenancy", "def f():\n    from db import ids", "below the top level"),
        ("db.tenancy", "if TYPE_CHECKING:\n    from db import ids", "below the top level"),
    ],
)
def test_a_forbidden_import_is_reported(
    tags: frozenset[str], name: str, source: str, message: str
) -> None:
    assert any(message in violation for violation in violations(name, source, tags))


def test_only_dispatchers_import_modules_by_name() -> None:
    users = {
        str(file.relative_to(ROOT))
        for file in modules().values()
        if {"import_module", "__import__"} & _names_in(ast.parse(file.read_text()))
    }
    assert users <= DYNAMIC_IMPORTERS


def _names_in(tree: ast.AST) -> set[str]:
    nodes = list(ast.walk(tree))
    attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    return attributes | {node.id for node in nodes if isinstance(node, ast.Name)}


def test_there_are_no_circular_imports() -> None:
    files = modules()
    graph: dict[str, set[str]] = {}
    for name, file in files.items():
        targets = {target for target, _ in imports(ast.parse(file.read_text())) if is_ours(target)}
        graph[name] = {
            module
            for target in targets
            for module in (target, target.rpartition(".")[0])
            if module in files and module != name
        }
    while leaves := [name for name, targets in graph.items() if not targets & graph.keys()]:
        for leaf in leaves:
            del graph[leaf]
    assert sorted(graph) == []


def test_the_serving_process_imports_no_tools_for_migrations_or_tests(tmp_path: Path) -> None:
    keys.create_key(tmp_path / "keys", time.time())
    program = (
        "import json, sys; from service import serve; serve.assemble();"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("COV")},
            "DATABASE_URL": "postgresql://covenant_app@127.0.0.1:1/covenant",
            "KEYS_DIR": str(tmp_path / "keys"),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = json.loads(done.stdout)
    assert [m for m in loaded if any(f"{m}.".startswith(f"{n}.") for n in NEVER_SERVED)] == []
