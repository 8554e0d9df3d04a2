"""Loading a contract: which contracts are rejected, with line and reason, and what is loaded."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from openapi import contract, documents, object_tree
from openapi.contract import ContractError

ROOT = Path(__file__).resolve().parents[2]
CONTRACTS = Path(__file__).parent / "contracts"
INVALID = sorted((CONTRACTS / "invalid").glob("*.yaml"))
EXPECTED = re.compile(r"# expect: (\d+): (.+?): (.+)")


@pytest.fixture(scope="module")
def shipped() -> contract.Contract:
    return contract.load(handlers=None)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("contracts") / "contract.yaml"


def issues_of(file: Path, handlers: Path | None = None) -> tuple[contract.Issue, ...]:
    """Return the issues of a contract that must be rejected."""
    with pytest.raises(ContractError) as rejection:
        contract.load(file, handlers)
    return rejection.value.issues


def load_or_issues(file: Path) -> contract.Contract | tuple[contract.Issue, ...]:
    """Return the contract, or its issues."""
    try:
        return contract.load(file, None)
    except ContractError as rejection:
        return rejection.issues


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "openapi.contract", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20)


def node_paths(node: Any, path: documents.NodePath = ()) -> Iterator[documents.NodePath]:
    """Yield the path of every node of a document."""
    yield path
    keys = node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    for key in keys:
        yield from node_paths(node[key], (*path, key))


# Rejected contracts


@pytest.mark.parametrize("file", INVALID, ids=lambda file: file.stem)
def test_an_invalid_contract_is_rejected_for_exactly_the_expected_issues(file: Path) -> None:
    expected = [m.groups() for m in EXPECTED.finditer(file.read_text(errors="replace"))]
    issues = list(issues_of(file))
    for line, path, reason in expected:
        candidates = [i for i in issues if (str(i.line), i.path) == (line, path)]
        issue = next((i for i in candidates if reason in i.reason), None)
        assert issue, f"no issue {line}: {path}: {reason} among {[*map(str, issues)]}"
        issues.remove(issue)
    assert expected
    assert not issues


def test_there_are_many_invalid_contracts() -> None:
    assert len(INVALID) >= 35


def test_an_error_lists_file_line_path_and_reason_in_line_order() -> None:
    with pytest.raises(ContractError) as rejection:
        contract.load(CONTRACTS / "invalid" / "many-issues.yaml", None)
    issues, lines = rejection.value.issues, str(rejection.value).split("\n")
    numbers = [int(line.removeprefix(f"{issues[0].file}:").split(":")[0]) for line in lines]
    assert len(lines) == len(issues) > 5
    assert numbers == sorted(numbers)
    assert lines[0].endswith(
        "many-issues.yaml:12: info.version: must be a string, not 1.0; quote it"
    )


def test_only_a_plain_scalar_where_a_string_belongs_gets_the_hint_to_quote_it() -> None:
    for name in ("yaml-1.1-scalars", "structure-matches-no-branch"):
        for issue in issues_of(CONTRACTS / "invalid" / f"{name}.yaml"):
            assert "quote" not in issue.reason


def test_an_issue_is_one_printable_line_whatever_the_contract_contains(scratch: Path) -> None:
    scratch.write_text(
        'openapi: 3.0.3\ninfo: {title: T, version: "1"}\npaths: {}\n"a\\n\\e[2Jé": 1'
    )
    issue = issues_of(scratch)[-1]
    assert str(issue).endswith(r"contract.yaml:4: a\n\x1b[2Jé: unknown key")


def test_unusual_but_valid_constructs_are_accepted(
    shipped: contract.Contract, scratch: Path
) -> None:
    document = deepcopy(shipped.document)
    document["paths"]["/orgs/mine"] = {}
    document["components"]["securitySchemes"]["oauth"] = {
        "type": "oauth2",
        "flows": {"clientCredentials": {"tokenUrl": "/token", "scopes": {"read": "to read"}}},
    }
    document["paths"]["/orgs"]["get"]["security"] = [{"bearer": [], "oauth": ["read"]}]
    document["components"]["schemas"] |= {
        "NumberByEnum": {"type": "integer", "enum": [1, 2]},
        "Widest": {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
        "Nullable": {"type": "string", "nullable": True, "enum": ["a"], "default": None},
        "OneOfTwo": {"anyOf": [{"type": "boolean"}, {"$ref": "#/components/schemas/Id"}]},
        "Narrowed": {"allOf": [{"$ref": "#/components/schemas/Id"}, {"not": {"enum": ["x"]}}]},
        "Map": {"type": "object", "required": ["a"], "additionalProperties": {"type": "boolean"}},
        "Bytes": {"type": "string", "format": "byte", "maxLength": 8, "example": "AAEC"},
        "Odd": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"$ref": {"type": "boolean"}, "x-y": {"type": "boolean"}},
        },
    }
    documented = document["components"]["parameters"]["Limit"]
    documented["examples"] = {"elsewhere": {"externalValue": "/limits.txt"}}
    del documented["example"]
    scratch.write_text(json.dumps(document))
    loaded = load_or_issues(scratch)
    assert isinstance(loaded, contract.Contract), loaded


# Names of internal modules, and keywords of SQL.
@pytest.mark.parametrize(
    "tag", ["keys", "tokens", "columns", "resource", "security", "status", "runtime"]
)
def test_a_tag_may_have_the_name_of_an_internal_module(tag: str, scratch: Path) -> None:
    source = (CONTRACTS / "resources" / "ticket_desk.yaml").read_text()
    text = source.replace("tickets.", f"{tag}.").replace("[tickets]", f"[{tag}]")
    text = text.replace("name: tickets", f"name: {tag}").replace("table: tickets", f"table: {tag}")
    scratch.write_text(text)
    loaded = contract.load(scratch)
    assert [*loaded.tables] == [tag, "comments"]
    assert {o.verb for o in loaded.operations.values() if o.tag == tag} >= {"create", "list"}


def test_a_chain_of_refs_that_is_too_long_to_expand_is_rejected(scratch: Path) -> None:
    document = yaml.safe_load((CONTRACTS / "invalid" / "object-open.yaml").read_text())
    links = {f"S{i}": {"allOf": [{"$ref": f"#/components/schemas/S{i + 1}"}]} for i in range(900)}
    document["components"]["schemas"] = links | {"S900": {"type": "boolean"}}
    scratch.write_text(json.dumps(document))
    assert all("expands to more than" in issue.reason for issue in issues_of(scratch))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("absent.yaml", None, "cannot be read: No such file"),
        ("nul\0.yaml", None, "cannot be read: embedded null byte"),
        (".", None, "cannot be read: Is a directory"),
        ("large.yaml", b"#" * (4 * 2**20 + 1), "larger than 4 MiB"),
        ("control.yaml", b"a: 1\nb: \x07", "is not valid YAML: control characters are not allowed"),
    ],
)
def test_a_file_that_cannot_be_read_is_rejected(
    tmp_path: Path, name: str, content: bytes | None, reason: str
) -> None:
    if content:
        (tmp_path / name).write_bytes(content)
    (issue,) = issues_of(tmp_path / name)
    assert reason in issue.reason


def test_every_operation_needs_a_handler(tmp_path: Path) -> None:
    (tmp_path / "orgs.py").write_text(
        "async def create(): ...\ndef list(): ...\nget = delete = 1\n"
    )
    (tmp_path / "projects.py").write_text("def create(:\n")
    reasons = {issue.path: issue.reason for issue in issues_of(contract.DEFAULT, tmp_path)}
    folder = tmp_path.name
    assert "paths./orgs.post.operationId" not in reasons
    assert reasons["paths./orgs.get.operationId"] == f"{folder}/orgs.py has no function `list_`"
    assert reasons["paths./orgs/{org_id}.get.operationId"].endswith("no function `get`")
    invalid = reasons["paths./orgs/{org_id}/projects.post.operationId"]
    assert invalid.startswith(f"{folder}/projects.py is not valid Python (line 1: ")
    assert "create" not in invalid
    assert reasons["paths./health.get.operationId"] == (
        f"{folder}/system.py does not exist; it must define `health`"
    )


def test_the_handler_of_a_verb_that_is_a_keyword_or_builtin_ends_in_an_underscore() -> None:
    verbs = ("list", "import", "get", "delete", "sign_in")
    names = ["list_", "import_", "get", "delete", "sign_in"]
    assert [documents.function_name(verb) for verb in verbs] == names


def test_handlers_are_parsed_and_not_imported(tmp_path: Path) -> None:
    tags = {
        "auth": "guest token me",
        "orgs": "create get list_ delete",
        "system": "index health ready",
    }
    for tag, functions in (tags | {"projects": tags["orgs"]}).items():
        stubs = "".join(f"def {name}(): ...\n" for name in functions.split())
        (tmp_path / f"{tag}.py").write_text(f"raise SystemExit\n{stubs}")
    assert contract.load(handlers=tmp_path).operations


def test_an_unknown_x_key_is_rejected_in_every_object(
    shipped: contract.Contract, scratch: Path
) -> None:
    paths = [path for path, _, node in object_tree.walk(shipped.document) if "$ref" not in node]
    document = deepcopy(shipped.document)
    for path in paths:
        documents.node_at(document, path)["x-nonsense"] = 1
    scratch.write_text(json.dumps(document))
    rejected = {issue.path for issue in issues_of(scratch) if "unknown key" in issue.reason}
    assert rejected == {documents.format_path((*path, "x-nonsense")) for path in paths}
    assert len(paths) > 100


@pytest.mark.parametrize(
    "wrong", [None, 3, "x", [], [[]], [{}], {}, {"a": [{}]}, {"": {"anyOf": {}}}], ids=repr
)
def test_a_value_of_the_wrong_type_at_any_path_never_raises_another_error(
    wrong: Any, scratch: Path
) -> None:
    file = CONTRACTS / "invalid" / "responses-missing-on-write.yaml"
    document = yaml.safe_load(file.read_text())
    document["paths"]["/orgs/{org_id}"]["put"]["security"] = [{"bearer": []}]
    schema = {"$ref": "#/components/schemas/C"}
    array = {"type": "array", "maxItems": 1, "items": {"anyOf": [{"type": "boolean"}]}}
    closed = {"type": "object", "additionalProperties": False, "required": ["a"]}
    enum = {"type": "string", "enum": ["a"], "nullable": True, "example": "a"}
    document["components"] |= {
        "links": {"A": {"operationId": "orgs.put"}},
        "parameters": {"B": {"name": "b", "in": "query", "schema": schema}},
        "schemas": {"C": array, "D": closed | {"properties": {"a": enum}}},
    }
    for path in node_paths(document):
        if path:
            changed = deepcopy(document)
            documents.node_at(changed, path[:-1])[path[-1]] = wrong
            scratch.write_text(json.dumps(changed))
            assert load_or_issues(scratch)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(source=st.one_of(st.binary(), st.text().map(str.encode)))
def test_random_bytes_are_rejected(source: bytes, scratch: Path) -> None:
    scratch.write_bytes(source)
    assert issues_of(scratch)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_contract_with_misplaced_values_never_raises_another_error(
    data: st.DataObject, shipped: contract.Contract, scratch: Path
) -> None:
    document = deepcopy(shipped.document)
    for _ in range(data.draw(st.integers(1, 4))):
        paths = [path for path in node_paths(document) if path]
        target, source = data.draw(st.sampled_from(paths)), data.draw(st.sampled_from(paths))
        scalars = st.sampled_from([None, True, -1, 2**63, 1e300, "", "[", "#/", "x-service"])
        copy = deepcopy(documents.node_at(document, source))
        value = data.draw(scalars | st.just(copy) | st.just([copy]) | st.just({"x-probe": copy}))
        owner = documents.node_at(document, target[:-1])
        if data.draw(st.booleans()):
            owner[target[-1]] = value
        elif isinstance(owner, dict):
            owner[data.draw(st.sampled_from(["$ref", "", "x-slo", "schema", "get", "0"]))] = value
    scratch.write_text(json.dumps(document))
    loaded = load_or_issues(scratch)
    if isinstance(loaded, contract.Contract):
        assert json.dumps(contract.public_document(loaded))
    else:
        assert all(issue.line > 0 and issue.reason for issue in loaded)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_contract_with_moved_text_never_raises_another_error(
    data: st.DataObject, scratch: Path
) -> None:
    source = contract.DEFAULT.read_bytes()
    start, length, target = (data.draw(st.integers(0, n)) for n in (len(source), 200, len(source)))
    inserted = data.draw(
        st.sampled_from([b"", b"&a ", b"*a", b"!!x ", b"\n  ", b"{", b"? ", b"\xff", b"'"])
    )
    moved = source[start : start + length]
    rest = source[:start] + source[start + length :]
    scratch.write_bytes(rest[:target] + inserted + moved + rest[target:])
    assert load_or_issues(scratch)


# The command


def test_the_command_prints_issues_and_exits_with_1_within_seconds() -> None:
    file = str((CONTRACTS / "invalid" / "x-service-values.yaml").relative_to(ROOT))
    started = time.monotonic()
    done = run(file)
    assert time.monotonic() - started < 5
    assert done.returncode == 1
    assert f"{file}:15: x-service.port: " in done.stderr
    assert done.stdout == ""


def test_the_command_reports_the_shipped_contract_as_valid_in_one_line() -> None:
    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "openapi/openapi.yaml: 14 operations, 0 issues\n"


def test_loading_a_contract_imports_neither_connexion_nor_another_package() -> None:
    code = "import sys, openapi.contract; print(*{m.split('.')[0] for m in sys.modules})"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=20)
    packages = {"connexion", "handlers", "service", "db", "codegen", "dev", "evidence"}
    assert not packages & set(done.stdout.split())


# Loaded contracts


def test_the_shipped_contract_loads_within_seconds() -> None:
    started = time.monotonic()
    assert len(contract.load(handlers=None).operations) == 14
    assert time.monotonic() - started < 3


def test_every_operation_of_the_shipped_contract_has_a_handler() -> None:
    assert contract.load().operations


def test_an_operation_is_complete_and_every_ref_is_resolved(shipped: contract.Contract) -> None:
    listing = shipped.operations["projects.list"]
    assert (listing.tag, listing.verb, listing.function) == ("projects", "list", "list_")
    assert (listing.method, listing.path) == ("get", "/orgs/{org_id}/projects")
    assert {p["name"]: p["schema"]["type"] for p in listing.parameters} == {
        "org_id": "string",
        "limit": "integer",
        "cursor": "string",
    }
    assert listing.body is None
    assert listing.security == ({"bearer": []},)
    create = shipped.operations["projects.create"]
    assert create.body
    assert "$ref" not in json.dumps([create.body, dict(create.responses), create.parameters])
    assert shipped.operations["system.health"].security == ()
    assert next(iter(shipped.operations)) == "system.index"


def test_a_contract_contains_its_service_token_and_tenant(shipped: contract.Contract) -> None:
    assert (shipped.name, shipped.title, shipped.service["port"]) == ("covenant", "Covenant", 8080)
    assert shipped.version == shipped.document["info"]["version"]
    assert {*shipped.token} == {"issuer", "audience", "lifetime"}
    assert shipped.tenant == {"claim": "org_id", "setting": "app.org_id"}


def test_a_line_is_that_of_the_node_or_of_its_nearest_ancestor(shipped: contract.Contract) -> None:
    lines = contract.DEFAULT.read_text().split("\n")
    assert lines[shipped.line_of("x-service", "port") - 1].strip() == "port: 8080"
    assert lines[shipped.line_of("tags", 1, "name") - 1].strip() == "- name: auth"
    assert shipped.line_of("x-service", "absent", 3) == shipped.line_of("x-service")
    listing = shipped.operations["projects.list"]
    line = shipped.line_of("paths", listing.path, listing.method)
    assert lines[line].strip() == "operationId: projects.list"


def test_timeouts_limits_and_objectives_are_inherited_and_overridden(scratch: Path) -> None:
    file = CONTRACTS / "invalid" / "responses-missing-on-write.yaml"
    document = yaml.safe_load(file.read_text())
    operation = document["paths"]["/orgs/{org_id}"]["put"]
    for code in ("401", "404", "408", "415", "429"):
        operation["responses"][code] = operation["responses"]["500"]
    document["x-timeout"], document["x-acknowledge"] = 5, {"reason": "never inherited"}
    document["paths"]["/orgs/{org_id}"] |= {"x-timeout": 4, "x-slo": {"latency_ms": 50}}
    operation |= {"x-slo": {"availability": 0.5}, "x-internal": True}
    scratch.write_text(json.dumps(document))
    assert contract.load(scratch, None).operations["orgs.put"].extensions == {
        "x-timeout": 4,
        "x-rate-limit": {"limit": 9, "per": 1},
        "x-slo": {"availability": 0.5},
        "x-internal": True,
    }


def test_a_probe_inherits_no_rate_limit(shipped: contract.Contract, scratch: Path) -> None:
    document = deepcopy(shipped.document)
    document["x-rate-limit"] = {"limit": 9, "per": 1}
    for declared in shipped.operations.values():
        operation = document["paths"][declared.path][declared.method]
        operation["responses"]["429"] = {"$ref": "#/components/responses/TooManyRequests"}
    scratch.write_text(json.dumps(document))
    operations = contract.load(scratch, None).operations
    unlimited = [id for id, o in operations.items() if "x-rate-limit" not in o.extensions]
    assert unlimited == ["system.health", "system.ready"]


def test_a_parameter_of_an_operation_overrides_that_of_its_path(
    shipped: contract.Contract, scratch: Path
) -> None:
    document = deepcopy(shipped.document)
    own = {"name": "org_id", "in": "path", "required": True, "schema": {"type": "boolean"}}
    document["paths"]["/orgs/{org_id}"]["get"]["parameters"] = [own]
    scratch.write_text(json.dumps(document))
    loaded = contract.load(scratch, None)
    assert loaded.operations["orgs.get"].parameters == (own,)
    assert loaded.operations["orgs.delete"].parameters[0]["schema"]["format"] == "uuid"


def test_the_hash_depends_on_every_byte(shipped: contract.Contract, scratch: Path) -> None:
    assert re.fullmatch("[0-9a-f]{64}", shipped.hash)
    scratch.write_bytes(contract.DEFAULT.read_bytes())
    assert contract.load(scratch, None).hash == shipped.hash
    scratch.write_bytes(contract.DEFAULT.read_bytes() + b"#\n")
    assert contract.load(scratch, None).hash != shipped.hash


def test_the_public_document_has_no_x_keys_but_keeps_such_properties_and_examples(
    shipped: contract.Contract, scratch: Path
) -> None:
    document = deepcopy(shipped.document)
    organization = document["components"]["schemas"]["Organization"]
    organization["properties"]["x-colour"] = {
        "type": "boolean",
        "x-acknowledge": {"reason": "for this test"},
    }
    organization["example"] = {
        "id": "019ab2f4-7c1e-7a52-9f3d-2b6c8e5d4a10",
        "name": "Acme",
        "status": "active",
        "created_at": "2026-11-23T12:00:00Z",
        "x-colour": True,
    }
    scratch.write_text(json.dumps(document))
    loaded = contract.load(scratch, None)
    public = contract.public_document(loaded)
    assert public["servers"] == [{"url": "/"}]
    kept = {
        documents.format_path(path[-3:])
        for path in node_paths(public)
        if str(path[-1:]).startswith("('x-")
    }
    assert kept == {"Organization.properties.x-colour", "Organization.example.x-colour"}
    assert loaded.document == document


def test_the_public_document_is_otherwise_the_contract(shipped: contract.Contract) -> None:
    public = contract.public_document(shipped)
    assert [*public["paths"]] == [*shipped.document["paths"]]
    schemas = deepcopy(shipped.document["components"]["schemas"])
    for schema in schemas.values():
        schema.pop("x-table", None)
    assert public["components"]["schemas"] == schemas


def test_deref_copies_deeply_and_rejects_recursion() -> None:
    document: dict[str, Any] = {
        "a": {"$ref": "#/b~1c"},
        "b/c": [{"$ref": "#/d/0"}],
        "d": [{"e": 1}],
    }
    copy = contract.deref(document, document)
    assert copy == {"a": [{"e": 1}], "b/c": [{"e": 1}], "d": [{"e": 1}]}
    copy["a"][0]["e"] = 2
    assert document["d"] == [{"e": 1}]
    with pytest.raises(ValueError, match="recursive schema: #/a"):
        contract.deref({"a": {"b": {"$ref": "#/a"}}}, {"$ref": "#/a"})


# The x- keys


def test_the_schema_of_the_x_keys_is_valid_and_describes_each_key() -> None:
    schema = json.loads((ROOT / "openapi" / "extensions.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["properties"].keys() - {"other"} <= object_tree.OBJECT_KINDS.keys()
    for owner in schema["properties"].values():
        assert owner["additionalProperties"] is False
        for definition in owner["properties"].values():
            assert schema["$defs"][definition["$ref"].removeprefix("#/$defs/")]["description"]


def test_each_pattern_of_the_x_keys_has_a_description_that_completes_is_not() -> None:
    """An issue reads `"x" is not a …`."""
    schema = json.loads((ROOT / "openapi" / "extensions.schema.json").read_text())
    nodes = [documents.node_at(schema, path) for path in node_paths(schema)]
    patterns = [node for node in nodes if isinstance(node, dict) and "pattern" in node]
    assert len(patterns) > 5
    assert all(node["description"].startswith(("A ", "An ")) for node in patterns)
