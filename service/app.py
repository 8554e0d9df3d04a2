"""The composition root: builds the service from settings and contract, and owns what it opens."""

import asyncio
import importlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

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
from service.http.admin import create_admin_app
from service.http.cors import Cors
from service.http.docs import DocsMiddleware
from service.http.request_middleware import RequestMiddleware
from service.http.router import Router
from service.identity.connexion_security import AuthenticationMiddleware, BearerHandler
from service.identity.keys import KeyRing, KeysError
from service.identity.tokens import TokenIssuer, TokenVerifier
from service.identity.verification import TokenTerms
from service.limits.rate_limits import RateLimits
from service.limits.redis_counters import RedisCounters
from service.operations.bodies import BodyBudget
from service.operations.crud import generic_handler
from service.operations.invocation import HandlerError, Services
from service.operations.operation import Operation, OperationMiddleware
from service.operations.validation import Validate, compile_schema
from service.settings import Settings
from service.status import Status
from service.telemetry.exposition import MetricsCollector, renderer
from service.telemetry.metrics import Metrics

RELOAD_KEYS_SECONDS = 1.0

log = structlog.get_logger("covenant.keys")


@dataclass(frozen=True)
class App:
    """The two ASGI applications, and what the process that runs them needs."""

    app: AsyncApp
    admin: ASGIApp
    status: Status
    metrics: Metrics


def create_app(
    settings: Settings, contract: Contract, clock: Callable[[], float] = time.time
) -> App:
    """Return the service; it connects when its lifespan starts.

    Raises `KeysError` and `HandlerError`.
    """
    status = Status()
    metrics = Metrics(contract.operations)
    keys = KeyRing(settings.keys_dir, clock)
    lifetime = min(settings.token_ttl or contract.token["lifetime"], contract.token["lifetime"])
    terms = TokenTerms(contract.token["issuer"], contract.token["audience"], lifetime)
    tracing = _tracing(settings, contract)
    url_file = settings.database_url_file
    database = (tracing.database if tracing else Database)(
        dsn.from_file(url_file) if url_file else settings.database_url,
        refuse=status.fail,
        expected=expected_tables.from_contract(contract),
        connections=settings.database_connections,
    )
    redis = RedisCounters(settings.redis_url) if settings.redis_url else None
    services = Services(
        database=database,
        contract=contract,
        rate_limits=RateLimits(
            contract.name, redis, settings.guest_limit, enabled=settings.rate_limits
        ),
        body_budget=BodyBudget(),
        validate_responses=settings.validate_responses,
        dependencies={
            "clock": clock,
            "contract": contract,
            "database": database,
            "issuer": TokenIssuer(keys, terms, clock),
            "status": status,
        },
    )
    operations = {id: _operation(o, contract, services) for id, o in contract.operations.items()}
    app = AsyncApp(
        "covenant",
        lifespan=partial(_lifespan, database=database, keys=keys, redis=redis, tracing=tracing),
        middlewares=[
            LifespanMiddleware,
            partial(
                RequestMiddleware,
                status=status,
                trusted_proxies=settings.trusted_proxies,
                cors=Cors(settings.cors_origins, contract.operations.values()),
                metrics=metrics,
            ),
            partial(DocsMiddleware, contract=contract, swagger_ui=settings.swagger_ui),
            Router,
            *([tracing.middleware] if tracing else []),
            AuthenticationMiddleware,
            partial(OperationMiddleware, operations=operations),
        ],
        security_map={"bearer": partial(BearerHandler, TokenVerifier(keys, terms, clock))},
        resolver=Resolver(operations.__getitem__),
    )
    app.add_api(public_document(contract), base_path="")
    collector = MetricsCollector(metrics, contract, database, keys, status, redis)
    return App(app, create_admin_app(renderer(collector)), status, metrics)


def _tracing(settings: Settings, contract: Contract) -> Any:
    """Return a `Tracing`, or None without an endpoint: then OpenTelemetry is not even imported."""
    endpoint = settings.otel_exporter_otlp_endpoint
    if endpoint is None:
        return None
    return importlib.import_module("service.telemetry.tracing").Tracing(endpoint, contract)


def _operation(declared: Declared, contract: Contract, services: Services) -> Operation:
    """Return an operation with the user's handler, or else the generic one."""
    generic = generic_handler(declared, contract.tables, _compile_stored)
    if generic:
        dependencies = {**services.dependencies, "generic": generic}
        services = replace(services, dependencies=dependencies)
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
    handler: Any = getattr(module, operation.function, generic)
    return cast("Callable[..., Any]", handler)


def _compile_stored(schema: Mapping[str, Any]) -> Validate:
    """Compile the schema of a value that is to be stored."""
    return compile_schema(dict(schema), "body", is_request=False)


@asynccontextmanager
async def _lifespan(
    _: Any, database: Database, keys: KeyRing, redis: RedisCounters | None, tracing: Any
) -> AsyncIterator[None]:
    await database.open()
    if redis:
        await redis.open()
    reloading = asyncio.create_task(_reload_keys(keys))
    try:
        yield
    finally:
        reloading.cancel()
        await database.close()
        if redis:
            await redis.close()
        if tracing:
            await tracing.close()


async def _reload_keys(keys: KeyRing) -> None:
    """Reload the key directory every second. An error is logged once, not at each attempt."""
    while True:
        await asyncio.sleep(RELOAD_KEYS_SECONDS)
        try:
            if keys.reload():
                log.info("keys_changed", signing=keys.signing()[0])
            keys.reload_error = ""
        except KeysError as error:
            if str(error) != keys.reload_error:
                keys.reload_error = str(error)
                log.error("keys_rejected", reason=keys.reload_error)
