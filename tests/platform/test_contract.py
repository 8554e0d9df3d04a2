"""What the reader of the contract refuses, with line and reason, and what it gives."""

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

from openapi import contract, documents
from openapi.contract import ContractError

HERE = Path(__file__).parent
ROOT = HERE.parent
INVALID = sorted((HERE / "contracts" / "invalid").glob("*.yaml"))
EXPECTED = re.compile(r"# expect: (\d+): (.+?): (.+)")


@pytest.fixture(scope="module")
def shipped() -> contract.Contract:
    return contract.load(handlers=None)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("contracts") / "contract.yaml"


def faults_of(file: Path, handlers: Path | None = None) -> tuple[contract.Issue, ...]:
    with pytest.raises(ContractError) as refusal:
        contract.load(file, handlers)
    return refusal.value.faults


def outcome(file: Path) -> contract.Contract | tuple[contract.Issue, ...]:
    try:
        return contract.load(file, None)
    except ContractError as refusal:
        return refusal.faults


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "openapi.contract", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20)


def places(node: Any, place: documents.NodePath = ()) -> Iterator[documents.NodePath]:
    """Yield the place of every value of a document."""
    yield place
    keys = node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    for key in keys:
        yield from places(node[key], (*place, key))


# Refusals


@pytest.mark.parametrize("file", INVALID, ids=lambda file: file.stem)
def test_a_broken_contract_is_refused_for_exactly_the_faults_it_names(file: Path) -> None:
    expected = [m.groups() for m in EXPECTED.finditer(file.read_text(errors="replace"))]
    faults = list(faults_of(file))
    for line, where, reason in expected:
        meant = [f for f in faults if (str(f.line), f.where) == (line, where)]
        fault = next((f for f in meant if reason in f.reason), None)
        assert fault, f"no fault {line}: {where}: {reason} among {[*map(str, faults)]}"
        faults.remove(fault)
    assert expected
    assert not faults


def test_there_are_many_broken_contracts() -> None:
    assert len(INVALID) >= 35


def test_a_refusal_reads_file_line_place_and_reason_sorted_by_line() -> None:
    file = HERE / "contracts" / "invalid" / "many-faults.yaml"
    with pytest.raises(ContractError) as refusal:
        contract.load(file, None)
    lines = str(refusal.value).split("\n")
    numbers = [
        int(line.removeprefix(f"{refusal.value.faults[0].file}:").split(":")[0]) for line in lines
    ]
    assert len(lines) == len(refusal.value.faults) > 5
    assert numbers == sorted(numbers)
    assert lines[0].endswith("many-faults.yaml:12: info.version: must be string, not 1.0: quote it")


def test_only_a_number_or_a_word_where_text_belongs_is_told_to_be_quoted() -> None:
    for name in ("words-of-yaml-1.1", "structure-no-branch"):
        for fault in faults_of(HERE / "contracts" / "invalid" / f"{name}.yaml"):
            assert "quote" not in fault.reason


def test_a_fault_is_one_printable_line_whatever_the_contract_holds(scratch: Path) -> None:
    scratch.write_text(
        'openapi: 3.0.3\ninfo: {title: T, version: "1"}\npaths: {}\n"a\\n\\e[2Jé": 1'
    )
    fault = faults_of(scratch)[-1]
    assert str(fault).endswith(r"contract.yaml:4: a\n\x1b[2Jé: unknown key")


def test_what_only_looks_like_a_fault_is_accepted(
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
    assert isinstance(outcome(scratch), contract.Contract), outcome(scratch)


def test_a_chain_of_refs_too_long_to_unfold_is_refused(scratch: Path) -> None:
    document = yaml.safe_load((HERE / "contracts" / "invalid" / "object-open.yaml").read_text())
    links = {f"S{i}": {"allOf": [{"$ref": f"#/components/schemas/S{i + 1}"}]} for i in range(900)}
    document["components"]["schemas"] = links | {"S900": {"type": "boolean"}}
    scratch.write_text(json.dumps(document))
    assert {"unfolds to more than" in fault.reason for fault in faults_of(scratch)} == {True}


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("absent.yaml", None, "cannot be read: No such file"),
        ("nul\0.yaml", None, "cannot be read: embedded null byte"),
        (".", None, "cannot be read: Is a directory"),
        ("large.yaml", b"#" * (4 * 2**20 + 1), "over 4 MiB"),
        ("control.yaml", b"a: 1\nb: \x07", "character that YAML has not"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(
    tmp_path: Path, name: str, content: bytes | None, reason: str
) -> None:
    if content:
        (tmp_path / name).write_bytes(content)
    (fault,) = faults_of(tmp_path / name)
    assert reason in fault.reason


def test_every_operation_needs_its_function(tmp_path: Path) -> None:
    (tmp_path / "orgs.py").write_text(
        "async def create(): ...\ndef list(): ...\nget = delete = 1\n"
    )
    (tmp_path / "projects.py").write_text("def create(:\n")
    reasons = {f.where: f.reason for f in faults_of(contract.DEFAULT, tmp_path)}
    folder = tmp_path.name
    assert "paths./orgs.post.operationId" not in reasons
    assert reasons["paths./orgs.get.operationId"] == f"{folder}/orgs.py has no function `list_`"
    assert reasons["paths./orgs/{org_id}.get.operationId"].endswith("no function `get`")
    unread = reasons["paths./orgs/{org_id}/projects.post.operationId"]
    assert unread.startswith(f"{folder}/projects.py is no Python (line 1: ")
    assert "create" not in unread
    assert reasons["paths./health.get.operationId"] == (
        f"{folder}/system.py does not exist: it should define `health`"
    )


def test_a_verb_that_python_knows_is_handled_by_a_name_with_an_underscore() -> None:
    verbs = ("list", "import", "get", "delete", "sign_in")
    names = ["list_", "import_", "get", "delete", "sign_in"]
    assert [documents.function_of(verb) for verb in verbs] == names


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


def test_an_unknown_x_key_is_refused_wherever_it_stands(
    shipped: contract.Contract, scratch: Path
) -> None:
    objects = [place for place, _, node in documents.walk(shipped.document) if "$ref" not in node]
    document = deepcopy(shipped.document)
    for place in objects:
        documents.node_at(document, place)["x-nonsense"] = 1
    scratch.write_text(json.dumps(document))
    refused = {f.where for f in faults_of(scratch) if "unknown key" in f.reason}
    assert refused == {".".join(map(str, (*place, "x-nonsense"))) for place in objects}
    assert len(objects) > 100


@pytest.mark.parametrize(
    "wrong", [None, 3, "x", [], [[]], [{}], {}, {"a": [{}]}, {"": {"anyOf": {}}}], ids=repr
)
def test_a_value_of_a_wrong_type_is_refused_or_loaded_wherever_it_stands(
    wrong: Any, scratch: Path
) -> None:
    file = HERE / "contracts" / "invalid" / "responses-missing-of-a-write.yaml"
    document = yaml.safe_load(file.read_text())
    document["paths"]["/orgs/{org_id}"]["put"]["security"] = [{"bearer": []}]
    schema = {"$ref": "#/components/schemas/C"}
    many = {"type": "array", "maxItems": 1, "items": {"anyOf": [{"type": "boolean"}]}}
    closed = {"type": "object", "additionalProperties": False, "required": ["a"]}
    one = {"type": "string", "enum": ["a"], "nullable": True, "example": "a"}
    document["components"] |= {
        "links": {"A": {"operationId": "orgs.put"}},
        "parameters": {"B": {"name": "b", "in": "query", "schema": schema}},
        "schemas": {"C": many, "D": closed | {"properties": {"a": one}}},
    }
    for place in places(document):
        if place:
            changed = deepcopy(document)
            documents.node_at(changed, place[:-1])[place[-1]] = wrong
            scratch.write_text(json.dumps(changed))
            assert outcome(scratch)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(source=st.one_of(st.binary(), st.text().map(str.encode)))
def test_any_bytes_are_refused_or_loaded(source: bytes, scratch: Path) -> None:
    scratch.write_bytes(source)
    assert faults_of(scratch)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_contract_with_values_put_elsewhere_is_refused_or_loaded(
    data: st.DataObject, shipped: contract.Contract, scratch: Path
) -> None:
    document = deepcopy(shipped.document)
    for _ in range(data.draw(st.integers(1, 4))):
        every = [place for place in places(document) if place]
        to, source = data.draw(st.sampled_from(every)), data.draw(st.sampled_from(every))
        scalars = st.sampled_from([None, True, -1, 2**63, 1e300, "", "[", "#/", "x-service"])
        taken = deepcopy(documents.node_at(document, source))
        value = data.draw(scalars | st.just(taken) | st.just([taken]) | st.just({"x-probe": taken}))
        owner = documents.node_at(document, to[:-1])
        if data.draw(st.booleans()):
            owner[to[-1]] = value
        elif isinstance(owner, dict):
            owner[data.draw(st.sampled_from(["$ref", "", "x-slo", "schema", "get", "0"]))] = value
    scratch.write_text(json.dumps(document))
    loaded = outcome(scratch)
    if isinstance(loaded, contract.Contract):
        assert json.dumps(contract.public_document(loaded))
    else:
        assert all(fault.line > 0 and fault.reason for fault in loaded)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_contract_with_text_cut_and_pasted_is_refused_or_loaded(
    data: st.DataObject, scratch: Path
) -> None:
    source = contract.DEFAULT.read_bytes()
    start, length, to = (data.draw(st.integers(0, n)) for n in (len(source), 200, len(source)))
    extra = data.draw(
        st.sampled_from([b"", b"&a ", b"*a", b"!!x ", b"\n  ", b"{", b"? ", b"\xff", b"'"])
    )
    cut = source[:start] + source[start + length :]
    scratch.write_bytes(cut[:to] + extra + source[start : start + length] + cut[to:])
    assert outcome(scratch)


# The command


def test_the_command_prints_faults_and_exits_1_soon() -> None:
    started = time.monotonic()
    done = run("tests/contracts/invalid/x-service-values.yaml")
    assert time.monotonic() - started < 5
    assert done.returncode == 1
    assert "tests/contracts/invalid/x-service-values.yaml:15: x-service.port: " in done.stderr
    assert done.stdout == ""


def test_the_command_says_in_one_line_that_the_shipped_contract_has_no_fault() -> None:
    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "openapi/openapi.yaml: 14 operations, 0 faults\n"


def test_the_reader_imports_neither_connexion_nor_anything_else_of_ours() -> None:
    code = "import sys, openapi.contract; print(*{m.split('.')[0] for m in sys.modules})"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=20)
    assert not {"connexion", "handlers", "db", "codegen"} & set(done.stdout.split())


# What a contract gives


def test_the_shipped_contract_has_no_fault_and_loads_soon() -> None:
    started = time.monotonic()
    assert len(contract.load(handlers=None).operations) == 14
    assert time.monotonic() - started < 3


def test_every_operation_of_the_shipped_contract_has_its_handler() -> None:
    assert contract.load().operations


def test_an_operation_has_its_facts_with_every_ref_resolved(shipped: contract.Contract) -> None:
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


def test_the_facts_of_the_service_and_its_tokens_are_at_hand(shipped: contract.Contract) -> None:
    assert (shipped.name, shipped.title, shipped.service["port"]) == ("covenant", "Covenant", 8080)
    assert shipped.version == shipped.document["info"]["version"]
    assert {*shipped.token} == {"issuer", "audience", "lifetime"}
    assert shipped.tenant == {"claim": "org_id", "setting": "app.org_id"}


def test_a_line_is_that_of_the_nearest_place_written(shipped: contract.Contract) -> None:
    lines = contract.DEFAULT.read_text().split("\n")
    assert lines[shipped.line_of("x-service", "port") - 1].strip() == "port: 8080"
    assert lines[shipped.line_of("tags", 1, "name") - 1].strip() == "- name: auth"
    assert shipped.line_of("x-service", "absent", 3) == shipped.line_of("x-service")
    listing = shipped.operations["projects.list"]
    line = shipped.line_of("paths", listing.path, listing.method)
    assert lines[line].strip() == "operationId: projects.list"


def test_timeouts_limits_and_objectives_are_inherited_and_overridden(scratch: Path) -> None:
    file = HERE / "contracts" / "invalid" / "responses-missing-of-a-write.yaml"
    document = yaml.safe_load(file.read_text())
    operation = document["paths"]["/orgs/{org_id}"]["put"]
    for code in ("401", "404", "408", "415", "429"):
        operation["responses"][code] = operation["responses"]["500"]
    document["x-timeout"], document["x-acknowledge"] = 5, {"reason": "of the root alone"}
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
    limited = {
        id: "x-rate-limit" in operation.extensions
        for id, operation in contract.load(scratch, None).operations.items()
    }
    assert [id for id in limited if not limited[id]] == ["system.health", "system.ready"]


def test_a_parameter_of_the_operation_replaces_that_of_its_path(
    shipped: contract.Contract, scratch: Path
) -> None:
    document = deepcopy(shipped.document)
    own = {"name": "org_id", "in": "path", "required": True, "schema": {"type": "boolean"}}
    document["paths"]["/orgs/{org_id}"]["get"]["parameters"] = [own]
    scratch.write_text(json.dumps(document))
    loaded = contract.load(scratch, None)
    assert loaded.operations["orgs.get"].parameters == (own,)
    assert loaded.operations["orgs.delete"].parameters[0]["schema"]["format"] == "uuid"


def test_the_hash_is_that_of_the_bytes(shipped: contract.Contract, scratch: Path) -> None:
    assert re.fullmatch("[0-9a-f]{64}", shipped.hash)
    scratch.write_bytes(contract.DEFAULT.read_bytes())
    assert contract.load(scratch, None).hash == shipped.hash
    scratch.write_bytes(contract.DEFAULT.read_bytes() + b"#\n")
    assert contract.load(scratch, None).hash != shipped.hash


def test_the_public_document_has_no_x_keys_but_keeps_properties_and_examples_named_so(
    shipped: contract.Contract, scratch: Path
) -> None:
    document = deepcopy(shipped.document)
    organization = document["components"]["schemas"]["Organization"]
    organization["properties"]["x-colour"] = {
        "type": "boolean",
        "x-acknowledge": {"reason": "tested here"},
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
    kept = {".".join(map(str, p[-3:])) for p in places(public) if str(p[-1:]).startswith("('x-")}
    assert kept == {"Organization.properties.x-colour", "Organization.example.x-colour"}
    assert loaded.document == document


def test_the_public_document_is_still_the_contract(shipped: contract.Contract) -> None:
    public = contract.public_document(shipped)
    assert [*public["paths"]] == [*shipped.document["paths"]]
    schemas = deepcopy(shipped.document["components"]["schemas"])
    for schema in schemas.values():
        schema.pop("x-table", None)
    assert public["components"]["schemas"] == schemas


def test_deref_copies_deeply_and_refuses_recursion() -> None:
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


def test_the_schema_of_the_x_keys_is_a_schema_and_says_what_each_key_means() -> None:
    schema = json.loads((ROOT / "openapi" / "extensions.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["properties"].keys() - {"other"} <= documents.OBJECT_KINDS.keys()
    for place in schema["properties"].values():
        assert place["additionalProperties"] is False
        for definition in place["properties"].values():
            assert schema["$defs"][definition["$ref"].removeprefix("#/$defs/")]["description"]
