"""The description of the service, and its health checks."""

from typing import Any

from db.connections.database import Database
from db.errors import Reason, Unavailable
from openapi.contract import Contract
from service.status import Status


async def index(contract: Contract) -> dict[str, Any]:
    return {
        "name": contract.name,
        "version": contract.version,
        "contract": f"sha256:{contract.hash}",
        "links": {
            "contract": "/openapi.json",
            "docs": "/ui",
            "health": "/health",
            "ready": "/ready",
            "guest": "/auth/guest",
            "orgs": "/orgs",
        },
    }


async def health() -> dict[str, str]:
    return {"status": "alive"}


async def ready(status: Status, database: Database) -> dict[str, str]:
    if status.stopping:
        raise Unavailable(Reason.NOT_READY, "the service is stopping")
    if error := database.not_ready_error:
        raise error
    return {"status": "ready"}
