"""Checks settings and contract first: importing the rest of the service takes a second."""

import os
from functools import cache

from db import revisions
from db.revisions import RevisionError
from openapi import contract
from openapi.contract import Contract, ContractError
from service import settings
from service.exits import exit_with
from service.settings import Settings, SettingsError


@cache
def load_and_validate() -> tuple[Settings, Contract]:
    """Return the settings and the contract, or exit 1 with everything that is wrong with them."""
    if os.environ.get("MIGRATION_DATABASE_URL"):
        exit_with("MIGRATION_DATABASE_URL: must not be set for the serving process")
    errors = []
    try:
        loaded_settings = settings.load()
    except SettingsError as error:
        errors.append(str(error))
    try:
        loaded_contract = contract.load()
    except ContractError as error:
        errors.append(str(error))
    try:
        revisions.history()
    except RevisionError as error:
        errors.append(str(error))
    if errors:
        exit_with("\n".join(errors))
    return loaded_settings, loaded_contract
