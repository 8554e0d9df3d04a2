"""The machinery that serves the contract."""

import warnings

# Connexion imports Starlette's test client, which says that it will one day want another library.
warnings.filterwarnings("ignore", message="Using `httpx` with `starlette.testclient`")
