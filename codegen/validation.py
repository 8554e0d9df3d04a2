"""What of a contract cannot be honoured in a cluster: each key by its line, with the reason."""

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from codegen.facts import RESOURCES, Environment, environment, environment_indexes, probes
from codegen.quantities import cpu_cores, memory_bytes
from openapi.contract import Contract, ContractError, Operation
from openapi.documents import NodePath

Violation = tuple[NodePath, str]

PROBES = ("startup", "liveness", "readiness")
MAX_ROUTES = 1000  # sixteen HTTPRoutes of 64 matches; an Ingress or a Gateway is slow long before
# Second, minute, hour, day, month, weekday: what CloudNativePG's operator takes.
SCHEDULE = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
# semver.org, with the parts that Helm takes.
SEMVER = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"
    r"(-(0|[1-9]\d*|\d*[A-Za-z-][0-9A-Za-z-]*)(\.(0|[1-9]\d*|\d*[A-Za-z-][0-9A-Za-z-]*))*)?"
    r"(\+[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?"
)
# RFC 1123 section 2.1, lower case as the Gateway API and Ingress demand.
_LABEL = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
HOST = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*")


def check(contract: Contract) -> None:
    """Raise `ContractError` with every key that cannot be honoured, by file and line."""
    findings = [*_faults(contract)]
    if findings:
        raise fault(contract, findings)


def fault(contract: Contract, findings: list[Violation]) -> ContractError:
    """Return the error that names the line of each place of `contract`, and why."""
    return ContractError(contract.issue(place, reason) for place, reason in findings)


def _faults(contract: Contract) -> Iterator[Violation]:
    yield from _service_faults(contract)
    yield from _probe_faults(contract)
    yield from _environment_faults(contract)


def _service_faults(contract: Contract) -> Iterator[Violation]:
    service: NodePath = ("x-service",)
    if not SEMVER.fullmatch(contract.version):
        yield ("info", "version"), f"{contract.version!r} is no semantic version, as a chart needs"
    elif len(contract.version) > 63:
        yield ("info", "version"), "is over 63 characters, the longest label"
    if "source" not in contract.service:
        yield service, "lacks `source`: the repository and revision that Argo CD reads"
    yield from _resource_faults(contract.service.get("resources", {}), (*service, "resources"))
    routes = [o for o in contract.operations.values() if not o.extensions.get("x-internal")]
    if len(routes) > MAX_ROUTES:
        yield ("paths",), f"routes {len(routes)} operations; at most {MAX_ROUTES} can be"


def _resource_faults(resources: Mapping[str, Any], place: NodePath) -> Iterator[Violation]:
    kinds: dict[str, Callable[[Any], Any]] = {"cpu": cpu_cores, "memory": memory_bytes}
    known: dict[tuple[str, str], Any] = {}
    merged = {**RESOURCES, **resources}
    for part, name in ((p, n) for p in merged for n in merged[p]):
        try:
            known[part, name] = kinds[name](merged[part][name])
        except ValueError as error:
            yield (*place, part, name), str(error)
    for name in kinds:
        low, high = known.get(("requests", name)), known.get(("limits", name))
        if low is not None and high is not None and low > high:
            at = (*place, "requests", name) if "requests" in resources else (*place, "limits", name)
            yield at, f"requests more {name} than its limit, {merged['limits'][name]}"


def _scaling_faults(scaling: Mapping[str, int], place: NodePath) -> Iterator[Violation]:
    if scaling["min"] > scaling["max"]:
        yield (*place, "min"), f"is above max, {scaling['max']}"


def _probe_faults(contract: Contract) -> Iterator[Violation]:
    found = list(probes(contract))
    for kind, count in Counter(kind for kind, _ in found).items():
        for _, operation in [p for p in found if p[0] == kind][1:] if count > 1 else ():
            yield _probe(operation), f"another operation is the {kind} probe already"
    for _, operation in found:
        if operation.security:
            yield _probe(operation), f"{operation.id} needs a token, which a probe has not"
        if operation.method != "get":
            yield _probe(operation), f"a probe sends GET, and {operation.id} is {operation.method}"
        if "{" in operation.path or any(p.get("required") for p in operation.parameters):
            yield _probe(operation), f"{operation.id} has parameters, which a probe cannot fill"
    missing = [kind for kind in PROBES if kind not in {kind for kind, _ in found}]
    if missing:
        yield ("paths",), f"no operation has the x-probe {' or '.join(missing)}"


def _probe(operation: Operation) -> NodePath:
    return ("paths", operation.path, operation.method, "x-probe")


def _environment_faults(contract: Contract) -> Iterator[Violation]:
    servers = contract.document.get("servers", [])
    indices = environment_indexes(contract)
    if not indices:
        yield ("servers",), "no server is an environment: write x-environment below one"
    for index in range(len(servers)):
        if index not in indices:
            yield ("servers", index), "is no environment: write x-environment"
    seen: dict[tuple[str, str], int] = {}
    for index in indices:
        env = environment(contract, index)
        yield from _server_faults(servers[index], index)
        yield from _one_environment_faults(contract, env)
        for kind, value, key in (
            ("host", env.host, ("servers", index, "url")),
            ("name", env.name, (*env.place, "name")),
            ("place", f"{env.cluster}/{env.namespace}", env.place),
        ):
            first = seen.setdefault((kind, value), index)
            if first != index:
                what = "namespace and cluster" if kind == "place" else kind
                yield key, f"the {what} {value} is that of servers.{first} already"


def _server_faults(server: Mapping[str, Any], index: int) -> Iterator[Violation]:
    place: NodePath = ("servers", index, "url")
    try:
        url = urlsplit(server["url"])
        port = url.port
    except ValueError:
        yield place, "is no URL"
        return
    if url.scheme not in ("http", "https"):
        yield place, "must begin with http:// or https://"
        return
    authority = url.netloc
    if not HOST.fullmatch(authority.partition(":")[0]) or _is_address(authority):
        yield place, f"{authority[:80]!r} is no DNS name (lower case letters, digits, hyphens)"
    elif port not in (None, 443 if url.scheme == "https" else 80):
        yield place, "names a port: what is in front of the service listens on 80 and 443"
    if url.path not in ("", "/") or url.query or url.fragment:
        yield place, "has a path: the service answers at the root of its host"


def _is_address(authority: str) -> bool:
    try:
        ipaddress.ip_address(authority.partition(":")[0])
    except ValueError:
        return False
    return True


def _one_environment_faults(contract: Contract, env: Environment) -> Iterator[Violation]:
    own = contract.document["servers"][env.place[1]]["x-environment"]
    if len(f"{contract.name}-{env.name}-root") > 63:
        yield (*env.place, "name"), f"with the service's name is over {63 - 6} characters"
    if "scaling" in own:
        yield from _scaling_faults(own["scaling"], (*env.place, "scaling"))
        if "replicas" in own:
            yield (*env.place, "replicas"), "contradicts scaling: write one of them"
    if env.exposure == "none" and "edge" in own:
        yield (*env.place, "edge"), "nothing is exposed here: exposure is none"
    edge = own.get("edge", {})
    yield from _network_faults(edge.get("networks", ()), (*env.place, "edge", "networks"))
    yield from _postgres_faults(contract, env, own.get("postgres", {}))


def _network_faults(networks: Sequence[str], place: NodePath) -> Iterator[Violation]:
    for i, network in enumerate(networks):
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            yield (*place, i), str(error)


def _postgres_faults(
    contract: Contract, env: Environment, own: Mapping[str, Any]
) -> Iterator[Violation]:
    place: NodePath = (*env.place, "postgres")
    for_mode = {
        "external": {"mode", "networks", "port"},
        "cloudnative-pg": {"mode", "instances", "storage", "pooler", "backups", "operator"},
    }[env.postgres.mode]
    for key in own.keys() - for_mode:
        yield (*place, key), f"means nothing with mode {env.postgres.mode}"
    if env.postgres.mode == "external":
        if not env.postgres.networks:
            here = place if own else env.place
            yield here, "postgres.networks says where PostgreSQL is: nothing else is reached"
        yield from _network_faults(own.get("networks", ()), (*place, "networks"))
        return
    if len(contract.name) > 47:
        yield ("x-service", "name"), "is over 47 characters: CloudNativePG takes 50, with `-db`"
    try:
        memory_bytes(own.get("storage", "1Gi"))
    except ValueError as error:
        yield (*place, "storage"), str(error)
    for field, (least, most) in zip(own.get("backups", "").split(), SCHEDULE, strict=False):
        if any(not least <= int(n) <= most for n in re.findall(r"(?<!/)\b\d+", field)):
            yield (*place, "backups"), f"{field!r} is not within {least}-{most}"
