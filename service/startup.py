"""What the service is started with, judged before the rest is imported, which takes a second."""

import os
from functools import cache

from openapi import contract
from openapi.contract import Contract, ContractError
from service import settings
from service.exits import exit_with
from service.settings import Settings, SettingsError


@cache
def load_and_validate() -> tuple[Settings, Contract]:
    """Return the settings and the contract; exit 1 with every reason when one is refused."""
    if "MIGRATION_DATABASE_URL" in os.environ:
        exit_with("MIGRATION_DATABASE_URL: the owner's password is not for the serving process")
    refused = []
    try:
        environment = settings.load()
    except SettingsError as error:
        refused.append(str(error))
    try:
        declared = contract.load()
    except ContractError as error:
        refused.append(str(error))
    if refused:
        exit_with("\n".join(refused))
    return environment, declared
