"""The service in a process of its own, and tenants that use it over HTTP."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from evidence.harness import services
from tests.platform.fix_postgres import Database
from tests.platform.fix_problems import check_response

TIMEOUT_SECONDS = 20.0


class Service(services.Service):
    """A service process, and clients that check its responses against the contract."""

    def http(self, **options: Any) -> httpx.Client:
        """Return a client that checks every response with `check_response`."""
        hooks = {"response": [check_response]}
        # The service speaks plain HTTP, and loading CA certificates takes longer than a test.
        return httpx.Client(
            base_url=self.url, timeout=15, event_hooks=hooks, verify=False, **options
        )


class Tenant:
    """A guest who owns one organization, `org`."""

    def __init__(self, service: Service, name: str) -> None:
        self.http = service.http()
        guest = self.http.post("/auth/guest").json()
        self.subject: str = guest["subject"]
        self.token: str = guest["access_token"]
        self.http.headers["Authorization"] = f"Bearer {self.token}"
        self.org: str = self.post("/orgs", name=name)["id"]

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        """Create a resource and return it; fail unless the status is 201."""
        response = self.http.post(path, json=body)
        assert response.status_code == 201, response.text
        created: dict[str, Any] = response.json()
        return created

    def get(self, path: str, **query: Any) -> httpx.Response:
        return self.http.get(path, params=query)

    def project(self, name: str) -> dict[str, Any]:
        return self.post(f"/orgs/{self.org}/projects", name=name)


def until(condition: Callable[[], Any], timeout: float = TIMEOUT_SECONDS) -> Any:
    """Return the first true value of `condition`; fail after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not true within {timeout} s"
        time.sleep(0.02)


def get_status(url: str) -> int:
    """Return the status of a GET, or 0 when no response arrives."""
    try:
        return httpx.get(url, timeout=10, verify=False).status_code
    except httpx.TransportError:
        return 0


def has_status(url: str, status: int = 200) -> bool:
    return get_status(url) == status


@contextmanager
def serving(
    folder: Path,
    database_url: str,
    *,
    command: tuple[str, ...] = services.SERVE,
    ready: bool = True,
    **settings: str,
) -> Iterator[Service]:
    """Run a service that validates its own responses until the end of the block."""
    settings = {"VALIDATE_RESPONSES": "true", **settings}
    service = Service(folder, database_url, command=command, **settings)
    try:
        service.start(ready=ready)
        yield service
    finally:
        service.stop()


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory, database: Database) -> Iterator[Service]:
    """The service that tests share; a test that changes or stops a service starts another one."""
    with serving(tmp_path_factory.mktemp("service"), database.app_url) as running:
        yield running


@pytest.fixture(scope="session")
def faulty(tmp_path_factory: pytest.TempPathFactory, database: Database) -> Iterator[Service]:
    """A service that also has the operations of tests/platform/faults/."""
    folder = tmp_path_factory.mktemp("faulty")
    with serving(
        folder,
        database.app_url,
        command=("-m", "tests.platform.app_with_faults"),
        FAULTS_CONTRACT=str(folder / "contract.json"),
    ) as running:
        yield running


@pytest.fixture(scope="session")
def limited_service(
    tmp_path_factory: pytest.TempPathFactory, database: Database
) -> Iterator[Service]:
    """A service with a rate limit for guests and without Swagger UI."""
    folder = tmp_path_factory.mktemp("limited")
    with serving(folder, database.app_url, GUEST_LIMIT="20/minute", SWAGGER_UI="false") as running:
        yield running


@contextmanager
def tenant(service: Service, name: str) -> Iterator[Tenant]:
    """Yield a new tenant of any service."""
    created = Tenant(service, name)
    try:
        yield created
    finally:
        created.http.close()


@pytest.fixture(scope="session")
def shared_tenant(service: Service) -> Iterator[Tenant]:
    """A tenant for tests whose requests are rejected, or whose rows no other test looks at."""
    with tenant(service, "Shared") as created:
        yield created


@pytest.fixture
def acme(service: Service) -> Iterator[Tenant]:
    with tenant(service, "Acme") as created:
        yield created


@pytest.fixture
def rival(service: Service) -> Iterator[Tenant]:
    with tenant(service, "Rival") as created:
        yield created


@pytest.fixture
def anonymous(service: Service) -> Iterator[httpx.Client]:
    """A client without a token."""
    with service.http() as client:
        yield client
