"""Routing in a tree of path segments, without backtracking: a literal wins over a parameter."""

from dataclasses import dataclass, field
from typing import Any

from connexion.middleware.abstract import ROUTING_CONTEXT, AbstractRoutingAPI
from connexion.middleware.routing import RoutingMiddleware
from connexion.operations import AbstractOperation
from connexion.spec import Specification
from starlette.types import ASGIApp, Receive, Scope, Send

from service.http import problems
from service.http.responses import send_response
from service.http.uri import decode_segment


@dataclass
class RouteNode:
    """A path prefix: the segments that may follow it, and the operations of the path itself."""

    literals: dict[str, "RouteNode"] = field(default_factory=dict)
    parameter: "RouteNode | None" = None
    operations: dict[str, dict[str, str]] = field(default_factory=dict)
    parameter_names: tuple[str, ...] = ()


class RouteTree(AbstractRoutingAPI[str]):
    """The paths of the contract; an operation is known by its operationId."""

    def __init__(self, specification: Specification, **options: Any) -> None:
        self.root = RouteNode()
        self.literal_paths: dict[bytes, RouteNode] = {}
        super().__init__(specification, **options)

    def make_operation(self, operation: AbstractOperation) -> str:
        """Return what Connexion passes to `_add_operation_internal`."""
        return str(operation.operation_id)

    @staticmethod
    def _framework_path_and_name(operation: AbstractOperation, path: str) -> tuple[str, str]:
        return path, path

    def _add_operation_internal(
        self, method: str, path: str, operation: str, name: str | None = None
    ) -> None:
        node, names = self.root, []
        for segment in path.strip("/").split("/"):
            if segment.startswith("{"):
                names.append(segment[1:-1])
                node.parameter = node.parameter or RouteNode()
                node = node.parameter
            else:
                node = node.literals.setdefault(segment, RouteNode())
        node.parameter_names = tuple(names)
        if not names:
            self.literal_paths[path.encode()] = node
        # The routing context of Connexion; nothing changes it.
        node.operations[method.upper()] = {"api_base_path": "", "operation_id": operation}

    def find(self, raw_path: bytes) -> tuple[RouteNode, list[Any]] | None:
        """Return the node of a path and the values of its parameters in order, or None."""
        if node := self.literal_paths.get(raw_path):
            return node, []
        node, values = self.root, []
        for raw in raw_path[1:].decode("latin-1").split("/"):
            segment = decode_segment(raw)
            following = node.literals.get(segment) if isinstance(segment, str) else None
            if following is None and raw:
                values.append(segment)
                following = node.parameter
            if following is None:
                return None
            node = following
        return (node, values) if node.operations else None


class Router(RoutingMiddleware):
    """Replaces Connexion's routing, which matches regular expressions one after the other."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.routes: RouteTree

    def add_api(self, specification: Specification, **options: Any) -> None:
        """Build the tree; Connexion calls this once."""
        self.routes = RouteTree(specification, **options)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        found = self.routes.find(scope["raw_path"])
        if found is None:
            raise problems.not_found()
        node, values = found
        method = scope["method"]
        routing_context = node.operations.get(method)
        if routing_context is None:
            await _respond_to_other_method(node, method, send)
            return
        scope["path_params"] = dict(zip(node.parameter_names, values, strict=True))
        scope["extensions"][ROUTING_CONTEXT] = routing_context
        await self.app(scope, receive, send)


async def _respond_to_other_method(node: RouteNode, method: str, send: Send) -> None:
    """Respond to OPTIONS with the methods of the path, and reject every other method."""
    methods = {*node.operations, "OPTIONS"}
    if "GET" in methods:
        methods.add("HEAD")
    allow = ", ".join(sorted(methods))
    if method != "OPTIONS":
        raise problems.method_not_allowed(allow)
    await send_response(send, 204, b"", {"Allow": allow})
