"""What a contract says about deployment, as frozen facts."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from openapi.contract import Contract, Operation, deref
from openapi.documents import NodePath

RESOURCES = {
    "requests": {"cpu": "100m", "memory": "192Mi"},
    "limits": {"cpu": "1", "memory": "384Mi"},
}
EDGES = {
    "ingress": {"name": "traefik", "namespace": "kube-system"},
    "gateway": {"name": "gateway", "namespace": "gateway"},
    "none": {"name": "", "namespace": ""},
}
# RFC 1918 and RFC 4193: where the pods of an edge are, unless the contract says it closer.
PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")


@dataclass(frozen=True)
class Route:
    """One path of the contract as the edge matches it; `pattern` is a regular expression."""

    path: str
    exact: str | None
    prefix: str | None
    pattern: str | None
    methods: tuple[str, ...]


@dataclass(frozen=True)
class Postgres:
    """Where an environment's PostgreSQL is; counts are 0 for what is absent."""

    mode: str
    port: int
    networks: tuple[str, ...]
    instances: int
    storage: str
    pooler: int
    backups: str
    operator: bool


@dataclass(frozen=True)
class Environment:
    """One server entry of the contract."""

    name: str
    place: NodePath
    description: str
    host: str
    tls: bool
    namespace: str
    cluster: str
    exposure: str
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
    """All that the templates may say; `hash` is the contract's SHA-256 in hex."""

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
    smoke: bool
    environments: tuple[Environment, ...]


def from_contract(contract: Contract) -> Facts:
    """Return the facts of a contract that `refusals.check` lets pass."""
    service = contract.service
    source = service.get("source", {})
    return Facts(
        name=contract.name,
        title=contract.title,
        version=contract.version,
        hash=contract.hash,
        image=service.get("image", contract.name),
        repository=source["repository"],
        revision=source["revision"],
        port=service.get("port", 8080),
        resources=_texts({**RESOURCES, **service.get("resources", {})}),
        probes={kind: operation.path for kind, operation in probes(contract)},
        token=dict(contract.token),
        tenant=contract.tenant.get("claim", ""),
        routes=tuple(_routes(contract)),
        slos=tuple(_slos(contract)),
        operations=tuple(_smoke_operations(contract)),
        smoke={"auth.guest", "orgs.create"} <= contract.operations.keys(),
        environments=tuple(environment(contract, i) for i in environment_indexes(contract)),
    )


def environment_indexes(contract: Contract) -> list[int]:
    servers = contract.document.get("servers", [])
    return [i for i, server in enumerate(servers) if "x-environment" in server]


def environment(contract: Contract, index: int) -> Environment:
    server = contract.document["servers"][index]
    own, service = server["x-environment"], contract.service
    exposure = own.get("exposure", "none")
    scheme, host = _scheme_and_host(server["url"])
    postgres = own.get("postgres", {"mode": "external"})
    scaling = own.get("scaling", None if "replicas" in own else service.get("scaling"))
    return Environment(
        name=own["name"],
        place=("servers", index, "x-environment"),
        description=server.get("description", own["name"]),
        host=host,
        tls=scheme == "https",
        namespace=own.get("namespace", f"{contract.name}-{own['name']}"),
        cluster=own.get("cluster", "in-cluster"),
        exposure=exposure,
        edge={"networks": PRIVATE, **own.get("edge", EDGES[exposure])},
        replicas=own.get("replicas", service.get("replicas", 2)),
        scaling={"cpu": 70, **scaling} if scaling else None,
        bootstrap=own.get("secrets", "existing") == "bootstrap",
        docs=own.get("docs", False),
        monitoring=own.get("monitoring", False),
        postgres=Postgres(
            mode=postgres["mode"],
            port=postgres.get("port", 5432),
            networks=tuple(postgres.get("networks", ())),
            instances=postgres.get("instances", 1),
            storage=str(postgres.get("storage", "10Gi")),
            pooler=postgres.get("pooler", 0),
            backups=postgres.get("backups", ""),
            operator=postgres.get("operator", "install") == "install",
        ),
        values=own.get("values", {}),
    )


def _scheme_and_host(url: str) -> tuple[str, str]:
    try:
        parts = urlsplit(url)
    except ValueError:  # which the refusals name
        return "", url
    return parts.scheme, parts.hostname or ""


def _texts(resources: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Return quantities as Kubernetes writes them: a number of cores or bytes becomes a string."""
    return {k: {name: str(v) for name, v in part.items()} for k, part in resources.items()}


def probes(contract: Contract) -> Iterator[tuple[str, Operation]]:
    for operation in contract.operations.values():
        kinds = operation.extensions.get("x-probe", [])
        for kind in [kinds] if isinstance(kinds, str) else kinds:
            yield kind, operation


def _routes(contract: Contract) -> Iterator[Route]:
    """Yield what the edge lets through: the paths and methods that are not internal."""
    paths: dict[str, list[str]] = {}
    for operation in contract.operations.values():
        if operation.extensions.get("x-internal") is not True:
            paths.setdefault(operation.path, []).append(operation.method.upper())
    for path, methods in paths.items():
        head, parameter, _ = path.partition("/{")
        pattern = "".join(
            "[^/]+" if part.startswith("{") else re.escape(part)
            for part in re.split(r"(\{[^{}]*\})", path)
        )
        yield Route(
            path=path,
            exact=None if parameter else path,
            prefix=(head or "/") if parameter else None,
            pattern=f"^{pattern}$" if parameter else None,
            methods=tuple(methods),
        )


def _slos(contract: Contract) -> Iterator[Mapping[str, Any]]:
    """Yield what each operation aims at; `seconds` as the service writes the bound of a bucket.

    A probe that answers 503 does what it is for.
    """
    for operation in contract.operations.values():
        slo = operation.extensions.get("x-slo")
        if slo is None or "x-probe" in operation.extensions:
            continue
        aims: dict[str, Any] = {"operation": operation.id}
        if "availability" in slo:
            aims["availability"] = slo["availability"]
        if "latency_ms" in slo:
            aims["seconds"] = str(slo["latency_ms"] / 1000)
        yield aims


def _smoke_operations(contract: Contract) -> Iterator[Mapping[str, Any]]:
    """Yield each operation as the chart's tests call it, with an example of its body."""
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
