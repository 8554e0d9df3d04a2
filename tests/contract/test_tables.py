"""The generic operations of every table of the contract, with its examples, for two tenants."""

from collections.abc import Iterator

import pytest

from openapi import contract
from tests.platform.fix_postgres import Database
from tests.platform.fix_resources import ResourceService, ResourceTenant, resource_tenant
from tests.platform.fix_service import Service
from tests.platform.test_resources import (
    operations,
    test_a_reference_to_another_tenants_row_is_a_reference_to_a_missing_row,
    test_every_operation_treats_another_tenants_row_as_missing,
)

__all__ = [
    "test_a_reference_to_another_tenants_row_is_a_reference_to_a_missing_row",
    "test_every_operation_treats_another_tenants_row_as_missing",
]


@pytest.fixture(scope="session")
def resources(service: Service, database: Database) -> ResourceService:
    return ResourceService(service, contract.load(), database)


@pytest.fixture
def acme(resources: ResourceService) -> Iterator[ResourceTenant]:
    with resource_tenant(resources, "Acme") as created:
        yield created


@pytest.fixture
def rival(resources: ResourceService) -> Iterator[ResourceTenant]:
    with resource_tenant(resources, "Rival") as created:
        yield created


def test_every_operation_succeeds_with_its_example(
    resources: ResourceService, acme: ResourceTenant
) -> None:
    for operation in operations(resources):
        acme.row(operation.tag)  # expects 201
        if operation.verb == "create":
            continue
        body = acme.body(operation) if operation.body else None
        response = acme.http.request(operation.method, acme.path(operation), json=body)
        assert str(response.status_code) in operation.responses, operation.id
        assert response.is_success, (operation.id, response.text)
