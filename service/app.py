"""Where everything is put together: sole owner of the settings, the keys and the connections."""

import asyncio
import importlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import structlog
from connexion import AsyncApp
from connexion.middleware.lifespan import LifespanMiddleware
from connexion.resolver import Resolver
from starlette.types import ASGIApp

from db import expected_tables
from db.connections import dsn
from db.connections.database import Database
from openapi.contract import Contract, public_document
from openapi.contract import Operation as Declared
from service.http import admin
from service.http.docs import DocsMiddleware
from service.http.request_middleware import RequestMiddleware
from service.http.router import Router
from service.identity.connexion_security import AuthenticationMiddleware, BearerHandler
from service.identity.keys import KeyRing, KeysError
from service.identity.tokens import TokenTerms, TokenVerifier
from service.limits.rate_counters import RedisCounters
from service.limits.rate_limits import RateLimits
from service.operations import bodies, crud, validation
from service.operations.operation import HandlerError, Operation, OperationMiddleware, Services
from service.settings import Settings
from service.status import Status
from service.telemetry.exposition import MetricsCollector, renderer
from service.telemetry.metrics import Metrics

RELOAD_KEYS = 1.0

log = structlog.get_logger("covenant.keys")


@dataclass(frozen=True)
class Parts:
    """What create_app() owns, for the process that runs it."""

    app: AsyncApp
    admin: ASGIApp
    status: Status
    metrics: Metrics


def create_app(
    settings: Settings, contract: Contract, clock: Callable[[], float] = time.time
) -> Parts:
    """Return the service as an ASGI application; it connects when its lifespan starts.

    Raises `KeysError` and `HandlerError`.
    """
    status = Status()
    metrics = Metrics(contract.operations)
    keys = KeyRing(settings.keys_dir, clock)
    lifetime = min(settings.token_ttl or contract.token["lifetime"], contract.token["lifetime"])
    terms = TokenTerms(contract.token["issuer"], contract.token["audience"], lifetime)
    traces = _traces(settings, contract)
    database = (traces.database if traces else Database)(
        dsn.from_file(file) if (file := settings.database_url_file) else settings.database_url,
        refuse=status.refuse,
        demanded=expected_tables.from_contract(contract),
        connections=settings.database_connections,
    )
    shared = RedisCounters(settings.redis_url) if settings.redis_url else None
    services = Services(
        database=database,
        contract=contract,
        limits=RateLimits(contract.name, shared, settings.guest_limit, on=settings.rate_limits),
        room=bodies.BodyBudget(),
        validate_responses=settings.validate_responses,
        lent={
            "clock": clock,
            "contract": contract,
            "database": database,
            "keys": keys,
            "status": status,
            "terms": terms,
        },
    )
    operations = {id: _operation(o, contract, services) for id, o in contract.operations.items()}
    app = AsyncApp(
        "covenant",
        lifespan=partial(_lifespan, database=database, keys=keys, shared=shared, traces=traces),
        middlewares=[
            LifespanMiddleware,
            partial(
                RequestMiddleware,
                status=status,
                trusted_proxies=settings.trusted_proxies,
                cors_origins=settings.cors_origins,
                metrics=metrics,
            ),
            partial(DocsMiddleware, contract=contract, swagger_ui=settings.swagger_ui),
            Router,
            *([traces.middleware] if traces else []),
            AuthenticationMiddleware,
            partial(OperationMiddleware, operations=operations),
        ],
        security_map={"bearer": partial(BearerHandler, TokenVerifier(keys, terms, clock))},
        resolver=Resolver(operations.__getitem__),
    )
    app.add_api(public_document(contract), base_path="")
    told = MetricsCollector(metrics, contract, database, keys, status, shared)
    return Parts(app, admin.create_admin_app(renderer(told)), status, metrics)


def _traces(settings: Settings, contract: Contract) -> Any:
    """Return the `Traces`, None when they are off: then nothing of them is even imported."""
    endpoint = settings.otel_exporter_otlp_endpoint
    if endpoint is None:
        return None
    return importlib.import_module("service.telemetry.tracing").Traces(endpoint, contract)


def _operation(declared: Declared, contract: Contract, services: Services) -> Operation:
    """The user's own handler comes first, and may call the generic one."""
    generic = crud.generic_handler(declared, contract.tables, _stored)
    if generic:
        services = replace(services, lent={**services.lent, "generic": generic})
    return Operation(_handler(declared, generic), declared, services)


def _handler(operation: Declared, generic: Callable[..., Any] | None) -> Callable[..., Any]:
    name = f"handlers.{operation.tag}"
    try:
        module = importlib.import_module(name)
    except SyntaxError as error:
        file = f"handlers/{operation.tag}.py:{error.lineno}"
        raise HandlerError(f"{file}: {error.msg}") from None
    except ImportError as error:
        if generic and error.name == name:
            return generic
        raise HandlerError(f"{name} cannot be imported: {error}") from None
    found: Any = getattr(module, operation.function, generic)
    handler: Callable[..., Any] = found
    return handler


def _stored(schema: Mapping[str, Any]) -> validation.Validate:
    """Return what finds the faults of a value that is to be stored."""
    return validation.compile_schema(dict(schema), "body", sent=False)


@asynccontextmanager
async def _lifespan(
    _: Any, database: Database, keys: KeyRing, shared: RedisCounters | None, traces: Any
) -> AsyncIterator[None]:
    await database.open()
    if shared:
        await shared.open()
    reloading = asyncio.create_task(_reload(keys))
    try:
        yield
    finally:
        reloading.cancel()
        await database.close()
        if shared:
            await shared.close()
        if traces:
            await traces.close()


async def _reload(keys: KeyRing) -> None:
    """Follow the key directory. A complaint is made once, not every second."""
    while True:
        await asyncio.sleep(RELOAD_KEYS)
        try:
            if keys.reload():
                log.info("the keys changed", signing=keys.signing()[0])
            keys.complaint = ""
        except KeysError as error:
            if str(error) != keys.complaint:
                keys.complaint = str(error)
                log.error(keys.complaint)
