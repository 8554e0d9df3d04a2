"""Signing keys and database passwords change under load."""

import secrets
import time
from functools import partial

from evidence.harness.postgres import postgres
from evidence.harness.processes import wait_until
from evidence.harness.services import Service, serving
from evidence.resilience.load import Request, Stream, failures, loading, send_once, summarize
from evidence.resilience.poolers import write_url
from evidence.resilience.scenario import Scenario, Trial, seconds_until
from evidence.resilience.tenants import Tenant, create_tenant, keyed_writes, parse_body
from service.identity import keys


def signing_key(trial: Trial) -> None:
    """Add a key, exchange tokens for ones that it signs, and retire the old key."""
    rounds, min_requests = (1, 500) if trial.is_short else (3, 10_000)
    with (
        postgres(trial.folder) as database,
        serving(trial.folder, database.app_url) as service,
    ):
        wallet = Wallet(service)
        read = Stream("read", lambda _: wallet.tenant.list(), 8, 0.01)
        reconnect = Stream("reconnect", lambda _: wallet.tenant.list(), 2, 0.01, reconnect=True)
        slowest = 0.0
        with loading(service.port, read, reconnect) as load:
            for _ in range(rounds):
                old = wallet.tenant
                retired = sorted(path.name for path in service.keys_dir.iterdir())
                keys.create_key(service.keys_dir, time.time())
                is_used = wait_until(wallet.exchange, 5)
                trial.expect(is_used, "no token is signed by the new key within 5 s")
                time.sleep(1)  # let the requests with the old token finish
                for name in retired:
                    (service.keys_dir / name).unlink()
                slowest = max(slowest, seconds_until(partial(_is_dead, service.port, old), 10))
                time.sleep(1)  # key ids have a resolution of a second
            wait_until(lambda: len(load.responses) >= min_requests, 60)
            responses = load.stop()
    failed = failures(responses)
    trial.record(f"{rounds} rotations, {len(failed)} failed of {len(responses):,}")
    trial.expect(not failed, f"failed: {summarize(failed)}")
    trial.expect_within("a retired key is rejected after", slowest, 5.0)


def _is_dead(port: int, tenant: Tenant) -> bool:
    return send_once(port, tenant.list()).status == 401


class Wallet:
    """A tenant whose token can be exchanged for one that the newest key signed."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.tenant = create_tenant(service.port)

    def exchange(self) -> bool:
        """Exchange the token, and return whether another key than before signed the new one."""
        body = b'{"org_id": "%s"}' % self.tenant.org.encode()
        request = Request("POST", "/auth/token", self.tenant.token, body)
        response = send_once(self._service.port, request)
        if response.status != 200:
            return False
        token = str(parse_body(response)["access_token"])
        # The header, the first part of a token, contains the key id.
        if token.split(".")[0] == self.tenant.token.split(".")[0]:
            return False
        self.tenant = Tenant(token, self.tenant.org)
        return True


def password(trial: Trial) -> None:
    """Change the role's password, the mounted Secret a little later, and close all connections."""
    changes, min_requests = (1, 300) if trial.is_short else (5, 10_000)
    with postgres(trial.folder) as database:
        url_file = trial.folder / "url"
        user, _, rest = database.app_url.removeprefix("postgresql://").partition(":")
        address = rest.partition("@")[2]
        write_url(url_file, database.app_url)
        with serving(trial.folder, "", DATABASE_URL_FILE=str(url_file)) as service:
            tenant = create_tenant(service.port)
            read = Stream("read", lambda _: tenant.list(), 8, 0.01)
            with loading(service.port, read, keyed_writes(tenant)) as load:
                for _ in range(changes):
                    time.sleep(0.5)
                    new = secrets.token_hex(16)
                    database.execute(f"alter role {user} password '{new}'")
                    time.sleep(0.2)
                    write_url(url_file, f"postgresql://{user}:{new}@{address}")
                    # The service must reconnect with the new password.
                    database.execute(
                        "select pg_terminate_backend(pid) from pg_stat_activity"
                        f" where usename = '{user}'"
                    )
                    time.sleep(0.5)
                wait_until(lambda: len(load.responses) >= min_requests, 60)
                responses = load.stop()
    failed = failures(responses)
    trial.record(f"{changes} changes, {len(failed)} failed of {len(responses):,}")
    trial.expect(not failed, f"failed: {summarize(failed)}")


SCENARIOS = (
    Scenario(
        "keys",
        "3 new signing keys: 0 failed of at least 10,000, a retired key is rejected within 5 s",
        signing_key,
        in_tests=True,
    ),
    Scenario(
        "password",
        "5 new database passwords, all connections reopened: 0 failed of at least 10,000",
        password,
        in_tests=True,
    ),
)
