"""Security as the contract declares it: Connexion verifies, without a request object around it."""

from collections.abc import Callable
from typing import Any

from connexion.middleware.abstract import ROUTING_CONTEXT
from connexion.middleware.security import SecurityAPI, SecurityMiddleware, SecurityOperation
from connexion.operations import AbstractOperation
from connexion.security import AbstractSecurityHandler
from starlette.types import Receive, Scope, Send

from service.identity import principals


class BearerHandler(AbstractSecurityHandler):
    """What Connexion calls for the scheme `bearer`; the principal arrives as `token_info`."""

    def __init__(self, verify: Callable[[str], dict[str, Any]]) -> None:
        self._verify = verify

    def get_fn(self, security_scheme: Any, required_scopes: Any) -> Callable[[Any], Any]:
        return lambda asked: principals.authenticate(asked.scope["headers"], self._verify)


class SecurityRequest:
    """What the verification asks of a request; Starlette's would be made for it alone."""

    __slots__ = ("context", "scope")

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.context: dict[str, Any] = {}
        scope["extensions"]["connexion_context"] = self.context


class AuthenticatedOperation(SecurityOperation):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.security:
            await self.verification_fn(SecurityRequest(scope))
        await self.next_app(scope, receive, send)


class AuthenticationAPI(SecurityAPI):
    def make_operation(self, operation: AbstractOperation) -> AuthenticatedOperation:
        secured: AuthenticatedOperation = AuthenticatedOperation.from_operation(
            operation,
            next_app=self.next_app,
            security_handler_factory=self.security_handler_factory,
        )
        return secured


class AuthenticationMiddleware(SecurityMiddleware):
    """Lets a request through to the operation, or raises what `principals` raises."""

    api_cls = AuthenticationAPI

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As Connexion's, for the one API that there is."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        id = scope["extensions"][ROUTING_CONTEXT]["operation_id"]
        await self.apis[""][0].operations[id](scope, receive, send)
