"""The service as a process of its own, and tenants who use it over HTTP."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from evidence.harness import services
from tests.platform.fix_postgres import Database
from tests.platform.fix_problems import on_response

PATIENCE = 20.0


class Service(services.Service):
    """A service process, and clients that hold its answers against the contract."""

    def http(self, **options: Any) -> httpx.Client:
        """Return a client that checks that every problem is one of the contract."""
        hooks = {"response": [on_response]}
        # There is no TLS here, and loading certificates takes longer than a test.
        return httpx.Client(
            base_url=self.url, timeout=15, event_hooks=hooks, verify=False, **options
        )


class Tenant:
    """A guest with an organization of its own."""

    def __init__(self, service: Service, name: str) -> None:
        self.http = service.http()
        signed_in = self.http.post("/auth/guest").json()
        self.subject: str = signed_in["subject"]
        self.token: str = signed_in["access_token"]
        self.http.headers["Authorization"] = f"Bearer {self.token}"
        self.org: str = self.post("/orgs", name=name)["id"]

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        """Create what must be created; returns its body."""
        response = self.http.post(path, json=body)
        assert response.status_code == 201, response.text
        created: dict[str, Any] = response.json()
        return created

    def get(self, path: str, **query: Any) -> httpx.Response:
        return self.http.get(path, params=query)

    def project(self, name: str) -> dict[str, Any]:
        return self.post(f"/orgs/{self.org}/projects", name=name)


def until(condition: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """Return the first true value of `condition`; fail when there is none in time."""
    deadline = time.monotonic() + patience
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


def answers(url: str, status: int = 200) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == status
    except httpx.TransportError:
        return False


@contextmanager
def serving(
    folder: Path,
    database_url: str,
    *,
    command: tuple[str, ...] = services.SERVE,
    ready: bool = True,
    **settings: str,
) -> Iterator[Service]:
    """Run a service that checks its own responses until the end of the block."""
    settings = {"VALIDATE_RESPONSES": "true", **settings}
    service = Service(folder, database_url, command=command, environment=settings)
    try:
        service.start(ready=ready)
        yield service
    finally:
        service.stop()


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory, database: Database) -> Iterator[Service]:
    """The service that tests share; one that a test changes or stops is its own."""
    with serving(tmp_path_factory.mktemp("service"), database.app_url) as running:
        yield running


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory, database: Database) -> Iterator[Service]:
    """A service that also has the operations of tests/platform/faults/."""
    folder = tmp_path_factory.mktemp("planted")
    plant = str(folder / "contract.json")
    with serving(
        folder, database.app_url, command=("-m", "tests.platform.app_with_faults"), PLANT_FILE=plant
    ) as running:
        yield running


@pytest.fixture(scope="session")
def strict(tmp_path_factory: pytest.TempPathFactory, database: Database) -> Iterator[Service]:
    """A service that limits guests and has no Swagger UI."""
    folder = tmp_path_factory.mktemp("strict")
    with serving(folder, database.app_url, GUEST_LIMIT="20/minute", SWAGGER_UI="false") as running:
        yield running


@contextmanager
def tenant(service: Service, name: str) -> Iterator[Tenant]:
    """A new tenant of any service."""
    made = Tenant(service, name)
    try:
        yield made
    finally:
        made.http.close()


@pytest.fixture(scope="session")
def someone(service: Service) -> Iterator[Tenant]:
    """A tenant for tests that are refused before they change anything."""
    with tenant(service, "Someone") as made:
        yield made


@pytest.fixture
def acme(service: Service) -> Iterator[Tenant]:
    with tenant(service, "Acme") as made:
        yield made


@pytest.fixture
def rival(service: Service) -> Iterator[Tenant]:
    with tenant(service, "Rival") as made:
        yield made


@pytest.fixture
def nobody(service: Service) -> Iterator[httpx.Client]:
    """A client without a token."""
    with service.http() as client:
        yield client
