"""Keys and passwords change while requests are answered."""

import secrets
import time
from functools import partial
from pathlib import Path

from evidence.harness.postgres import postgres
from evidence.harness.services import Service, serving
from evidence.resilience.database import keyed
from evidence.resilience.load import Request, Stream, failed, loading, once, told
from evidence.resilience.scenario import Scenario, Trial, until
from evidence.resilience.tenants import Tenant, parsed, tenant
from service.identity import keys


def signing_key(trial: Trial) -> None:
    """A key is added, tokens are exchanged for ones it signed, the old key is retired."""
    rounds, least = (1, 500) if trial.short else (3, 10_000)
    with (
        postgres(trial.folder) as database,
        serving(trial.folder, database.app_url) as service,
    ):
        wallet = Wallet(service)
        read = Stream("read", lambda _: wallet.tenant.list(), 8, 0.01)
        fresh = Stream("fresh", lambda _: wallet.tenant.list(), 2, 0.01, fresh=True)
        slowest = 0.0
        with loading(service.port, read, fresh) as load:
            for _ in range(rounds):
                old = wallet.tenant
                retired = sorted(path.name for path in service.keys_dir.iterdir())
                keys.create_key(service.keys_dir, time.time())
                trial.demand(until(wallet.exchange, 5) <= 5, "no token of the new key within 5 s")
                time.sleep(1)  # what was asked with the old token has its answer
                for name in retired:
                    (service.keys_dir / name).unlink()
                slowest = max(slowest, until(partial(_is_dead, service.port, old), 10))
                time.sleep(1)  # kids are seconds
            until(lambda: len(load.replies) >= least, 60)
            replies = load.stop()
        trial.note(f"{rounds} rotations, {len(failed(replies))} failed of {len(replies):,}")
        trial.demand(not failed(replies), f"failed: {told(failed(replies))}")
        trial.within("the retired key dead after", slowest, 5.0)


def _is_dead(port: int, tenant: Tenant) -> bool:
    return once(port, tenant.list()).status == 401


class Wallet:
    """A tenant whose token is exchanged for one that the youngest key signed."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.tenant = tenant(service.port)

    def exchange(self) -> bool:
        """Return whether the new token is signed by another key than the old one."""
        body = b'{"org_id": "%s"}' % self.tenant.org.encode()
        request = Request("POST", "/auth/token", self.tenant.token, body)
        reply = once(self._service.port, request)
        if reply.status != 200:
            return False
        token = str(parsed(reply)["access_token"])
        if token.split(".")[0] == self.tenant.token.split(".")[0]:  # the header holds the kid
            return False
        self.tenant = Tenant(token, self.tenant.org)
        return True


def password(trial: Trial) -> None:
    """The role's password changes, the mounted Secret a little later, and then all sign in anew."""
    with postgres(trial.folder) as database:
        file = trial.folder / "url"
        user, _, rest = database.app_url.removeprefix("postgresql://").partition(":")
        place = rest.partition("@")[2]
        _write(file, database.app_url)
        with serving(trial.folder, "", DATABASE_URL_FILE=str(file)) as service:
            acme = tenant(service.port)
            read = Stream("read", lambda _: acme.list(), 8, 0.01)
            with loading(service.port, read, keyed(acme)) as load:
                for _ in range(1 if trial.short else 5):
                    time.sleep(0.5)
                    new = secrets.token_hex(16)
                    database.execute(f"alter role {user} password '{new}'")
                    time.sleep(0.2)
                    _write(file, f"postgresql://{user}:{new}@{place}")
                    # Those that were connected with the old one must come back with the new one.
                    database.execute(
                        "select pg_terminate_backend(pid) from pg_stat_activity"
                        f" where usename = '{user}'"
                    )
                    time.sleep(0.5)
                until(lambda: len(load.replies) >= (300 if trial.short else 10_000), 60)
                replies = load.stop()
        trial.note(f"{len(failed(replies))} failed of {len(replies):,}")
        trial.demand(not failed(replies), f"failed: {told(failed(replies))}")


def _write(file: Path, url: str) -> None:
    draft = file.with_suffix(".new")
    draft.write_text(url)
    draft.rename(file)


SCENARIOS = (
    Scenario(
        "keys",
        "3 new signing keys: 0 failed of 10,000 and more, a retired key is dead within 5 s",
        signing_key,
        short=True,
    ),
    Scenario(
        "password",
        "5 new database passwords, each connection made anew: 0 failed of 10,000 and more",
        password,
        short=True,
    ),
)
