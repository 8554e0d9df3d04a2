"""Rules for deployment: reject what no cluster can provide, although the contract asks for it."""

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from codegen.facts import (
    DEFAULT_RESOURCES,
    Environment,
    Exposure,
    PostgresMode,
    environment,
    environment_indexes,
    probes,
)
from codegen.quantities import cpu_cores, memory_bytes
from openapi.contract import Contract, ContractError, Operation
from openapi.documents import NodePath

Violation = tuple[NodePath, str]  # the node of the contract, and the reason

PROBES = ("startup", "liveness", "readiness")
MAX_ROUTES = 1000  # sixteen HTTPRoutes of 64 matches; edges slow down well before that
MAX_LABEL_LENGTH = 63  # RFC 1123; also the limit of a label value in Kubernetes
MAX_CLUSTER_NAME_LENGTH = 50  # of CloudNativePG
# Second, minute, hour, day, month, weekday: the cron fields of CloudNativePG.
SCHEDULE = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
# semver.org, limited to what Helm accepts.
SEMVER = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"
    r"(-(0|[1-9]\d*|\d*[A-Za-z-][0-9A-Za-z-]*)(\.(0|[1-9]\d*|\d*[A-Za-z-][0-9A-Za-z-]*))*)?"
    r"(\+[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?"
)
# RFC 1123, section 2.1; lower case as the Gateway API and Ingress require.
_LABEL = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
HOST = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*")
KEYS_BY_MODE = {
    PostgresMode.EXTERNAL: {"mode", "networks", "port"},
    PostgresMode.CLOUDNATIVE_PG: {"mode", "instances", "storage", "pooler", "backups", "operator"},
}


def check(contract: Contract) -> None:
    """Raise `ContractError` with every violation, by file and line."""
    violations = [*_service(contract), *_probes(contract), *_environments(contract)]
    if violations:
        raise ContractError(contract.issue(node, reason) for node, reason in violations)


def _service(contract: Contract) -> Iterator[Violation]:
    service: NodePath = ("x-service",)
    if not SEMVER.fullmatch(contract.version):
        yield ("info", "version"), f"{contract.version!r} is not a semantic version (semver.org)"
    elif len(contract.version) > MAX_LABEL_LENGTH:
        yield ("info", "version"), f"must not be longer than {MAX_LABEL_LENGTH} characters"
    if "source" not in contract.service:
        yield service, "`source` is missing. Add the repository and revision that Argo CD deploys"
    yield from _resources(contract.service.get("resources", {}), (*service, "resources"))
    routes = [o for o in contract.operations.values() if not o.extensions.get("x-internal")]
    if len(routes) > MAX_ROUTES:
        yield ("paths",), f"{len(routes)} operations are routed; the maximum is {MAX_ROUTES}"


def _resources(declared: Mapping[str, Any], node: NodePath) -> Iterator[Violation]:
    parsers: dict[str, Callable[[Any], Any]] = {"cpu": cpu_cores, "memory": memory_bytes}
    parsed: dict[tuple[str, str], Any] = {}
    resources = {**DEFAULT_RESOURCES, **declared}
    for part, quantities in resources.items():
        for name, quantity in quantities.items():
            try:
                parsed[part, name] = parsers[name](quantity)
            except ValueError as error:
                yield (*node, part, name), str(error)
    for name in parsers:
        request, limit = parsed.get(("requests", name)), parsed.get(("limits", name))
        if request is not None and limit is not None and request > limit:
            part = "requests" if "requests" in declared else "limits"
            values = (resources["requests"][name], resources["limits"][name])
            reason = "the {} request, {}, is greater than the limit, {}".format(name, *values)
            yield (*node, part, name), reason


def _probes(contract: Contract) -> Iterator[Violation]:
    kinds: set[str] = set()
    for kind, operation in probes(contract):
        node = _probe_node(operation)
        if kind in kinds:
            yield node, f"another operation is already the {kind} probe"
        kinds.add(kind)
        if operation.security:
            yield node, f"{operation.id} requires a token, but a probe sends none"
        if operation.method != "get":
            yield node, f"a probe sends GET, but {operation.id} is {operation.method.upper()}"
        if "{" in operation.path or any(p.get("required") for p in operation.parameters):
            yield node, f"{operation.id} requires parameters, but a probe sends none"
    missing = [kind for kind in PROBES if kind not in kinds]
    if missing:
        yield ("paths",), f"no operation is the {' or '.join(missing)} probe: set x-probe on one"


def _probe_node(operation: Operation) -> NodePath:
    return ("paths", operation.path, operation.method, "x-probe")


def _environments(contract: Contract) -> Iterator[Violation]:
    servers = contract.document.get("servers", [])
    indexes = environment_indexes(contract)
    if not indexes:
        yield ("servers",), "no server has an x-environment: add one to each server"
    for index in range(len(servers)):
        if index not in indexes:
            yield ("servers", index), "x-environment is missing"
    first_use: dict[tuple[str, str], int] = {}
    for index in indexes:
        env = environment(contract, index)
        yield from _server_url(servers[index]["url"], ("servers", index, "url"))
        yield from _environment(contract, env)
        for what, value, node in (
            ("host", env.host, ("servers", index, "url")),
            ("name", env.name, (*env.node, "name")),
            ("cluster and namespace", f"{env.cluster}/{env.namespace}", env.node),
        ):
            first = first_use.setdefault((what, value), index)
            if first != index:
                yield node, f"the {what} {value} is already used by servers.{first}"


def _server_url(url: str, node: NodePath) -> Iterator[Violation]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        yield node, "is not a valid URL"
        return
    if parts.scheme not in ("http", "https"):
        yield node, "must begin with http:// or https://"
        return
    host = parts.netloc.partition(":")[0]
    if not HOST.fullmatch(host) or _is_ip_address(host):
        name = repr(parts.netloc[:80])
        yield node, f"{name} is not a DNS name (lowercase letters, digits and hyphens)"
    elif port not in (None, 443 if parts.scheme == "https" else 80):
        yield node, "must not have a port: the edge listens on 80 and 443"
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        yield node, "must not have a path or a query: the service uses the root of its host"


def _is_ip_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _environment(contract: Contract, env: Environment) -> Iterator[Violation]:
    declared = contract.document["servers"][env.node[1]]["x-environment"]
    longest = MAX_LABEL_LENGTH - len("--root")
    if len(contract.name) + len(env.name) > longest:
        reason = f"together with x-service.name it must not exceed {longest} characters"
        yield (*env.node, "name"), reason
    if "scaling" in declared:
        scaling = declared["scaling"]
        if scaling["min"] > scaling["max"]:
            yield (*env.node, "scaling", "min"), f"is greater than max, {scaling['max']}"
        if "replicas" in declared:
            yield (*env.node, "replicas"), "conflicts with scaling: use one of them"
    if env.exposure == Exposure.NONE and "edge" in declared:
        yield (*env.node, "edge"), "has no effect while exposure is none"
    networks = declared.get("edge", {}).get("networks", ())
    yield from _networks(networks, (*env.node, "edge", "networks"))
    yield from _postgres(contract, env, declared.get("postgres", {}))


def _networks(networks: Sequence[str], node: NodePath) -> Iterator[Violation]:
    for i, network in enumerate(networks):
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            yield (*node, i), str(error)


def _postgres(
    contract: Contract, env: Environment, declared: Mapping[str, Any]
) -> Iterator[Violation]:
    node: NodePath = (*env.node, "postgres")
    for key in declared.keys() - KEYS_BY_MODE[env.postgres.mode]:
        yield (*node, key), f"has no effect while mode is {env.postgres.mode}"
    if env.postgres.mode == PostgresMode.EXTERNAL:
        if not env.postgres.networks:
            reason = "postgres.networks is missing: the NetworkPolicy blocks all other addresses"
            yield node if declared else env.node, reason
        yield from _networks(declared.get("networks", ()), (*node, "networks"))
        return
    longest = MAX_CLUSTER_NAME_LENGTH - len("-db")
    if len(contract.name) > longest:
        yield ("x-service", "name"), f"must not exceed {longest} characters with CloudNativePG"
    try:
        memory_bytes(declared.get("storage", "1Gi"))
    except ValueError as error:
        yield (*node, "storage"), str(error)
    for field, bounds in zip(declared.get("backups", "").split(), SCHEDULE, strict=False):
        minimum, maximum = bounds
        if any(not minimum <= int(n) <= maximum for n in re.findall(r"(?<!/)\b\d+", field)):
            yield (*node, "backups"), f"{field!r} is not between {minimum} and {maximum}"
