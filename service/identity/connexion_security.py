"""Connexion applies the contract's security requirements to each operation; we verify the tokens.

Connexion's own middleware creates a request object per request and looks the operation up twice.
The subclasses here keep its compiled security requirements and skip the rest.
"""

from collections.abc import Callable
from typing import Any

from connexion.middleware.abstract import ROUTING_CONTEXT
from connexion.middleware.security import SecurityAPI, SecurityMiddleware, SecurityOperation
from connexion.operations import AbstractOperation
from connexion.security import AbstractSecurityHandler
from starlette.types import Receive, Scope, Send

from service.identity.authentication import Verify, authenticate


class SecurityRequest:
    """The parts of a request that Connexion's verification uses."""

    __slots__ = ("context", "scope")

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.context: dict[str, Any] = {}  # Connexion writes here; nothing reads it


class BearerHandler(AbstractSecurityHandler):
    """Connexion's hook for the scheme `bearer`: it puts the principal into the request context."""

    def __init__(self, verify: Verify) -> None:
        self._verify = verify

    def get_fn(self, security_scheme: Any, required_scopes: Any) -> Callable[[Any], Any]:
        """Return the function that Connexion calls with a `SecurityRequest`."""

        def verify(request: SecurityRequest) -> dict[str, Any]:
            principal = authenticate(request.scope["headers"], self._verify)
            request.scope["covenant"].principal = principal
            return {"sub": principal.subject}

        return verify


class AuthenticatedOperation(SecurityOperation):
    """An operation with the security requirements that the contract declares for it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.security:
            await self.verification_fn(SecurityRequest(scope))
        await self.next_app(scope, receive, send)


class AuthenticationAPI(SecurityAPI):
    """The operations of the contract, by operationId."""

    def make_operation(self, operation: AbstractOperation) -> AuthenticatedOperation:
        """Return an operation as Connexion compiles it."""
        compiled: AuthenticatedOperation = AuthenticatedOperation.from_operation(
            operation,
            next_app=self.next_app,
            security_handler_factory=self.security_handler_factory,
        )
        return compiled


class AuthenticationMiddleware(SecurityMiddleware):
    """Passes a request on to its operation, or raises what `authenticate` raises."""

    api_cls = AuthenticationAPI

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        id = scope["extensions"][ROUTING_CONTEXT]["operation_id"]
        await self.apis[""][0].operations[id](scope, receive, send)  # the only API there is
