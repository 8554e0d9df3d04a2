"""The data that every system serves: organizations with projects, and tokens for them."""

import time
from dataclasses import dataclass
from pathlib import Path

import psycopg

from db import migrate, roles
from dev.local.embedded import Server
from openapi.contract import Contract
from service.identity import keys, tokens
from service.identity.keys import KeyRing
from service.identity.verification import TokenTerms

OWNER_PASSWORD = APP_PASSWORD = "bench"
ROTATING_TOKENS = 100
# Twice the size of the service's token cache, so that every request verifies its token.
UNCACHED_TOKENS = 20_000

INSERT_ORGANIZATIONS = """
insert into organizations (id, name) select gen_random_uuid(), 'Org ' || n
    from generate_series(1, {count}) n"""
INSERT_PROJECTS = """
insert into projects (org_id, id, name, created_at)
    select o.id, gen_random_uuid(), 'Project ' || n, timestamptz '2026-11-23 11:00:00.123456Z'
    from organizations o, generate_series(1, {count}) n"""


@dataclass(frozen=True)
class Data:
    """One database, and the tokens for it.

    `rotating_tokens` and `uncached_tokens` are files with lines `token org_id project_id`;
    `targets` are pairs of an organization and one of its projects.
    """

    url: str
    key: bytes
    keys_dir: Path
    rotating_tokens: Path
    uncached_tokens: Path
    targets: list[tuple[str, str]]


def create_data(
    server: Server, folder: Path, contract: Contract, *, orgs: int, projects: int
) -> Data:
    """Create a database with `orgs` organizations of `projects` each, vacuumed and analyzed."""
    name = f"bench_{orgs * projects}"
    roles.create_roles(server.url(), OWNER_PASSWORD, APP_PASSWORD)
    roles.create_database(server.url(), name)
    migrate.upgrade(server.url(roles.OWNER, OWNER_PASSWORD, name))
    with psycopg.connect(server.url(database=name), autocommit=True) as connection:
        connection.execute(INSERT_ORGANIZATIONS.format(count=orgs).encode())
        connection.execute(INSERT_PROJECTS.format(count=projects).encode())
        connection.execute("vacuum analyze")
        targets = connection.execute(
            """select distinct on (org_id) org_id::text, id::text from projects
               order by org_id, id limit %s""",
            (ROTATING_TOKENS,),
        ).fetchall()
    keys_dir = folder / "keys"
    if not keys_dir.exists():
        keys.create_key(keys_dir, time.time() - 60)
    ring = KeyRing(keys_dir)
    data = Data(
        url=server.url(roles.APP, APP_PASSWORD, name),
        key=ring.signing()[1],
        keys_dir=keys_dir,
        rotating_tokens=folder / f"{name}.rotating",
        uncached_tokens=folder / f"{name}.uncached",
        targets=targets,
    )
    _write_tokens(data.rotating_tokens, ROTATING_TOKENS, targets, ring, contract)
    _write_tokens(data.uncached_tokens, UNCACHED_TOKENS, targets, ring, contract)
    return data


def _write_tokens(
    file: Path, count: int, targets: list[tuple[str, str]], ring: KeyRing, contract: Contract
) -> None:
    """Write `count` tokens of different guests, for each target in turn."""
    terms = TokenTerms(**contract.token)
    now = time.time()
    with file.open("w") as lines:
        for n in range(count):
            org, project = targets[n % len(targets)]
            token, _ = tokens.issue(ring, terms, subject=f"guest-{n:05d}", org_id=org, now=now)
            lines.write(f"{token} {org} {project}\n")
