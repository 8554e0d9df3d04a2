"""Deployment facts: everything the templates need from a contract, as frozen records."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

from openapi.contract import Contract, Operation, deref
from openapi.documents import NodePath

DEFAULT_RESOURCES = {
    "requests": {"cpu": "100m", "memory": "192Mi"},
    "limits": {"cpu": "1", "memory": "384Mi"},
}
# RFC 1918 and RFC 4193: trusted as edge networks unless the contract lists narrower ones.
PRIVATE_NETWORKS = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")


class Exposure(StrEnum):
    """How clients outside the cluster reach the service."""

    INGRESS = "ingress"
    GATEWAY = "gateway"
    NONE = "none"


class PostgresMode(StrEnum):
    """Who runs the PostgreSQL of an environment."""

    EXTERNAL = "external"
    CLOUDNATIVE_PG = "cloudnative-pg"


DEFAULT_EDGES = {
    Exposure.INGRESS: {"name": "traefik", "namespace": "kube-system"},
    Exposure.GATEWAY: {"name": "gateway", "namespace": "gateway"},
    Exposure.NONE: {"name": "", "namespace": ""},
}


@dataclass(frozen=True)
class Route:
    """One path of the contract as the edge matches it; `pattern` is a regular expression.

    A path without parameters has `exact`, a path with parameters has `prefix` and `pattern`.
    """

    path: str
    exact: str | None
    prefix: str | None
    pattern: str | None
    methods: tuple[str, ...]


@dataclass(frozen=True)
class Postgres:
    """The PostgreSQL of an environment.

    `pooler` is the number of pooler instances, 0 without a pooler; `backups` is a cron schedule,
    empty without backups; `installs_operator` is true if Argo CD installs CloudNativePG.
    """

    mode: PostgresMode
    port: int
    networks: tuple[str, ...]
    instances: int
    storage: str
    pooler: int
    backups: str
    installs_operator: bool


@dataclass(frozen=True)
class Environment:
    """One server entry of the contract; `node` is the path of its `x-environment`."""

    name: str
    node: NodePath
    description: str
    host: str
    tls: bool
    namespace: str
    cluster: str
    exposure: Exposure
    edge: Mapping[str, Any]
    replicas: int
    scaling: Mapping[str, int] | None
    bootstrap: bool
    docs: bool
    monitoring: bool
    postgres: Postgres
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Facts:
    """Everything a template can reference; `hash` is the contract's SHA-256 in hex."""

    name: str
    title: str
    version: str
    hash: str
    image: str
    repository: str
    revision: str
    port: int
    resources: Mapping[str, Mapping[str, str]]
    probes: Mapping[str, str]
    token: Mapping[str, Any]
    tenant: str
    routes: tuple[Route, ...]
    slos: tuple[Mapping[str, Any], ...]
    operations: tuple[Mapping[str, Any], ...]
    has_smoke_tests: bool
    environments: tuple[Environment, ...]


def from_contract(contract: Contract) -> Facts:
    """Return the facts of a contract that passed `validation.check`."""
    service = contract.service
    source = service["source"]
    return Facts(
        name=contract.name,
        title=contract.title,
        version=contract.version,
        hash=contract.hash,
        image=service.get("image", contract.name),
        repository=source["repository"],
        revision=source["revision"],
        port=service.get("port", 8080),
        resources=_quantities_as_text({**DEFAULT_RESOURCES, **service.get("resources", {})}),
        probes={kind: operation.path for kind, operation in probes(contract)},
        token=dict(contract.token),
        tenant=contract.tenant.get("claim", ""),
        routes=tuple(_routes(contract)),
        slos=tuple(_slos(contract)),
        operations=tuple(_operations(contract)),
        has_smoke_tests={"auth.guest", "orgs.create"} <= contract.operations.keys(),
        environments=tuple(environment(contract, i) for i in environment_indexes(contract)),
    )


def environment_indexes(contract: Contract) -> list[int]:
    """Return the indexes of the `servers` entries that have an `x-environment`."""
    servers = contract.document.get("servers", [])
    return [i for i, server in enumerate(servers) if "x-environment" in server]


def environment(contract: Contract, index: int) -> Environment:
    """Return the environment of `servers[index]`, with every default filled in."""
    server = contract.document["servers"][index]
    declared, service = server["x-environment"], contract.service
    exposure = Exposure(declared.get("exposure", Exposure.NONE))
    scheme, host = _scheme_and_host(server["url"])
    scaling = declared.get("scaling", None if "replicas" in declared else service.get("scaling"))
    return Environment(
        name=declared["name"],
        node=("servers", index, "x-environment"),
        description=server.get("description", declared["name"]),
        host=host,
        tls=scheme == "https",
        namespace=declared.get("namespace", f"{contract.name}-{declared['name']}"),
        cluster=declared.get("cluster", "in-cluster"),
        exposure=exposure,
        edge={"networks": PRIVATE_NETWORKS, **declared.get("edge", DEFAULT_EDGES[exposure])},
        replicas=declared.get("replicas", service.get("replicas", 2)),
        scaling={"cpu": 70, **scaling} if scaling else None,
        bootstrap=declared.get("secrets", "existing") == "bootstrap",
        docs=declared.get("docs", False),
        monitoring=declared.get("monitoring", False),
        postgres=_postgres(declared.get("postgres", {"mode": PostgresMode.EXTERNAL})),
        values=declared.get("values", {}),
    )


def _postgres(declared: Mapping[str, Any]) -> Postgres:
    return Postgres(
        mode=PostgresMode(declared["mode"]),
        port=declared.get("port", 5432),
        networks=tuple(declared.get("networks", ())),
        instances=declared.get("instances", 1),
        storage=str(declared.get("storage", "10Gi")),
        pooler=declared.get("pooler", 0),
        backups=declared.get("backups", ""),
        installs_operator=declared.get("operator", "install") == "install",
    )


def _scheme_and_host(url: str) -> tuple[str, str]:
    try:
        parts = urlsplit(url)
    except ValueError:  # `validation` reports it
        return "", url
    return parts.scheme, parts.hostname or ""


def _quantities_as_text(resources: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Return resources with every quantity as a string: the chart's schema takes no numbers."""
    return {
        part: {name: str(quantity) for name, quantity in quantities.items()}
        for part, quantities in resources.items()
    }


def probes(contract: Contract) -> Iterator[tuple[str, Operation]]:
    """Yield (kind, operation) for every `x-probe` of the contract."""
    for operation in contract.operations.values():
        kinds = operation.extensions.get("x-probe", [])
        for kind in [kinds] if isinstance(kinds, str) else kinds:
            yield kind, operation


def _routes(contract: Contract) -> Iterator[Route]:
    """Yield the paths the edge routes, with the methods that are not internal."""
    methods_by_path: dict[str, list[str]] = {}
    for operation in contract.operations.values():
        if operation.extensions.get("x-internal") is not True:
            methods_by_path.setdefault(operation.path, []).append(operation.method.upper())
    for path, methods in methods_by_path.items():
        methods += ["HEAD"] if "GET" in methods else []
        methods.append("OPTIONS")  # CORS preflights
        prefix, parameter, _ = path.partition("/{")
        pattern = "".join(
            "[^/]+" if part.startswith("{") else re.escape(part)
            for part in re.split(r"(\{[^{}]*\})", path)
        )
        yield Route(
            path=path,
            exact=None if parameter else path,
            prefix=(prefix or "/") if parameter else None,
            pattern=f"^{pattern}$" if parameter else None,
            methods=tuple(methods),
        )


def _slos(contract: Contract) -> Iterator[Mapping[str, Any]]:
    """Yield the objectives of each operation, `seconds` formatted like the `le` of a bucket.

    Probes have none: a probe that responds with 503 does its job.
    """
    for operation in contract.operations.values():
        slo = operation.extensions.get("x-slo")
        if slo is None or "x-probe" in operation.extensions:
            continue
        objectives: dict[str, Any] = {"operation": operation.id}
        if "availability" in slo:
            objectives["availability"] = slo["availability"]
        if "latency_ms" in slo:
            objectives["seconds"] = str(slo["latency_ms"] / 1000)
        yield objectives


def _operations(contract: Contract) -> Iterator[Mapping[str, Any]]:
    """Yield each operation as the chart's tests call it, with an example body."""
    for operation in contract.operations.values():
        media = (operation.body or {}).get("content", {}).get("application/json", {})
        example = media.get("example", deref({}, media.get("schema", {})).get("example"))
        yield {
            "id": operation.id,
            "method": operation.method.upper(),
            "path": operation.path,
            "body": example,
            "secured": bool(operation.security),
        }
