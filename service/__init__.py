"""Serves the contract: HTTP, authentication, validation, operations, limits, telemetry."""

import warnings

# Connexion imports Starlette's test client, which is never used here.
warnings.filterwarnings("ignore", message="Using `httpx` with `starlette.testclient`")
