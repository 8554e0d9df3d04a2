"""The path is matched once, segment by segment; a literal segment wins over a parameter."""

from dataclasses import dataclass, field
from typing import Any

from connexion.middleware.abstract import ROUTING_CONTEXT, AbstractRoutingAPI
from connexion.middleware.routing import RoutingMiddleware
from connexion.operations import AbstractOperation
from connexion.spec import Specification
from starlette.types import ASGIApp, Receive, Scope, Send

from service.http.problems import Problem
from service.http.responses import send_response
from service.operations import parameters


@dataclass
class RouteNode:
    """What may follow a path: literal segments, a parameter, and the methods that end here."""

    literals: dict[str, "RouteNode"] = field(default_factory=dict)
    parameter: "RouteNode | None" = None
    operations: dict[str, dict[str, str]] = field(default_factory=dict)
    names: tuple[str, ...] = ()


class RouteTree(AbstractRoutingAPI[str]):
    """The contract's paths as a tree; an operation is known by its operationId."""

    def __init__(self, specification: Specification, **options: Any) -> None:
        self.root = RouteNode()
        self.literal: dict[bytes, RouteNode] = {}
        super().__init__(specification, **options)

    def make_operation(self, operation: AbstractOperation) -> str:
        return str(operation.operation_id)

    @staticmethod
    def _framework_path_and_name(operation: AbstractOperation, path: str) -> tuple[str, str]:
        return path, path

    def _add_operation_internal(
        self, method: str, path: str, operation: str, name: str | None = None
    ) -> None:
        node, names = self.root, []
        for part in path.strip("/").split("/"):
            if part.startswith("{"):
                names.append(part[1:-1])
                node.parameter = node.parameter or RouteNode()
                node = node.parameter
            else:
                node = node.literals.setdefault(part, RouteNode())
        node.names = tuple(names)
        if not names:
            self.literal[path.encode()] = node
        # What Connexion's own routing hands on; nobody changes it.
        node.operations[method.upper()] = {"api_base_path": "", "operation_id": operation}

    def find(self, raw_path: bytes) -> tuple[RouteNode, list[Any]] | None:
        """Return where a path ends and the values of its parameters, in order."""
        if node := self.literal.get(raw_path):
            return node, []
        node, values = self.root, []
        for raw in raw_path[1:].decode("latin-1").split("/"):
            part = parameters.decode_segment(raw)
            following = node.literals.get(part) if isinstance(part, str) else None
            if following is None and raw:
                values.append(part)
                following = node.parameter
            if following is None:
                return None
            node = following
        return (node, values) if node.operations else None


class Router(RoutingMiddleware):
    """Takes the place of Connexion's routing, and hands on what it hands on."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.routes: RouteTree

    def add_api(self, specification: Specification, **options: Any) -> None:
        self.routes = RouteTree(specification, **options)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        found = self.routes.find(scope["raw_path"])
        if found is None:
            raise Problem("not-found", "There is nothing here")
        node, values = found
        method = scope["method"]
        routed = node.operations.get(method)
        if routed is None:
            await _method_not_allowed(node, method, send)
            return
        scope["path_params"] = dict(zip(node.names, values, strict=True))
        scope["extensions"][ROUTING_CONTEXT] = routed
        await self.app(scope, receive, send)


async def _method_not_allowed(node: RouteNode, method: str, send: Send) -> None:
    methods = {*node.operations, "OPTIONS"}
    if "GET" in methods:
        methods.add("HEAD")
    allow = {"Allow": ", ".join(sorted(methods))}
    if method != "OPTIONS":
        raise Problem("method-not-allowed", "Not with this method", headers=allow)
    await send_response(send, 204, b"", allow)
