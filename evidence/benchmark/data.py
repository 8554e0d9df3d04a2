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
from service.identity.tokens import TokenTerms

OWNER_PASSWORD = APP_PASSWORD = "bench"
TOKENS = 100
DIFFERENT = 20_000

SEED = """
insert into organizations (id, name) select gen_random_uuid(), 'Org ' || n
    from generate_series(1, %(orgs)s) n;
insert into projects (org_id, id, name, created_at)
    select o.id, gen_random_uuid(), 'Project ' || n, timestamptz '2026-11-23 11:00:00.123456Z'
    from organizations o, generate_series(1, %(projects)s) n;
"""


@dataclass(frozen=True)
class Data:
    """One database of a size, and files of lines `token org_id project_id`."""

    url: str
    key: bytes
    keys_dir: Path
    rotating: Path
    different: Path
    targets: list[tuple[str, str]]


def make(server: Server, folder: Path, contract: Contract, orgs: int, projects: int) -> Data:
    """Make a database with `orgs` organizations of `projects` each, vacuumed and analyzed."""
    name = f"bench_{orgs * projects}"
    roles.create_roles(server.url(), OWNER_PASSWORD, APP_PASSWORD)
    roles.create_database(server.url(), name)
    migrate.upgrade(server.url(roles.OWNER, OWNER_PASSWORD, name))
    with psycopg.connect(server.url(database=name), autocommit=True) as connection:
        for statement in SEED.split(";")[:2]:
            connection.execute(statement % {"orgs": orgs, "projects": projects})
        connection.execute("vacuum analyze")
        targets = connection.execute(
            """select distinct on (org_id) org_id::text, id::text from projects
               order by org_id, id limit %s""",
            (TOKENS,),
        ).fetchall()
    keys_dir = folder / "keys"
    if not keys_dir.exists():
        keys.create_key(keys_dir, time.time() - 60)
    ring = KeyRing(keys_dir)
    data = Data(
        url=server.url(roles.APP, APP_PASSWORD, name),
        key=ring.signing()[1],
        keys_dir=keys_dir,
        rotating=folder / f"{name}.rotating",
        different=folder / f"{name}.different",
        targets=targets,
    )
    _write(data.rotating, TOKENS, targets, ring, contract)
    _write(data.different, DIFFERENT, targets, ring, contract)
    return data


def _write(
    file: Path, count: int, targets: list[tuple[str, str]], ring: KeyRing, contract: Contract
) -> None:
    terms = TokenTerms(**contract.token)
    now = time.time()
    with file.open("w") as lines:
        for n in range(count):
            org, project = targets[n % len(targets)]
            token, _ = tokens.issue(ring, terms, subject=f"guest-{n:05d}", org_id=org, now=now)
            lines.write(f"{token} {org} {project}\n")
