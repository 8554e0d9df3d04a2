"""The process environment, read once and frozen; what is wrong with it is said all at once."""

import difflib
import os
import re
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, urlsplit

from psycopg.conninfo import conninfo_to_dict
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from service.limits.rate_counters import Rate

Network = IPv4Network | IPv6Network
SIMILARITY = 0.85


class SettingsError(Exception):
    """Every setting that is missing or malformed, a line each, by name."""


def _split(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _number(value: Any) -> Any:
    """Refuse what Python and pydantic would read too: `8_0`, other scripts' digits, `nan`."""
    if isinstance(value, str) and not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value, re.ASCII):
        raise ValueError("is not a number such as 10")
    return value


def _networks(values: tuple[str, ...]) -> tuple[Network, ...]:
    try:
        return tuple(ip_network(value, strict=False) for value in values)
    except ValueError:
        raise ValueError("is not a list of networks such as 10.0.0.0/8,::1") from None


def _origin(value: str) -> str:
    scheme, _, rest = value.partition("://")
    if scheme not in ("http", "https") or not rest or any(c in rest for c in "/*?#@ "):
        raise ValueError("is not an origin such as https://app.example.com")
    return value


def _database_url(value: str) -> str:
    if not value.startswith(("postgresql://", "postgres://")):
        raise ValueError("is not a URL such as postgresql://user:password@host:5432/database")
    try:
        conninfo_to_dict(value)
    except Exception:
        raise ValueError("is not a URL that libpq understands") from None
    return value


def _collector(value: str) -> str:
    scheme, _, rest = value.partition("://")
    if scheme not in ("http", "https") or not rest or any(c in rest for c in "?#@ "):
        raise ValueError("is not a URL such as http://collector:4318")
    return value


def _guest_limit(value: str) -> str | Rate:
    if value == "off":
        return value
    units = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
    read = re.fullmatch(r"([1-9][0-9]{0,5}) ?(?:/|per) ?(second|minute|hour|day)", value)
    if not read:
        raise ValueError("is neither `off` nor a limit such as 20/minute")
    return Rate(int(read[1]), units[read[2]])


def _redis_url(value: str) -> str:
    try:
        url = urlsplit(value)
        database = re.fullmatch("/?[0-9]{0,4}", url.path) is not None
        good = database and url.hostname and url.port != 0 and not url.fragment
    except ValueError:
        good = False
    if not good or not value.startswith(("redis://", "rediss://")):
        raise ValueError("is not a URL such as rediss://user:password@host:6379/0")
    if url.query and parse_qs(url.query).keys() != {"ssl_ca_certs"}:
        raise ValueError("may have the option ssl_ca_certs, and no other")
    return value


Number = BeforeValidator(_number)
DatabaseUrl = Annotated[str, AfterValidator(_database_url), Field(repr=False)]


class Settings(BaseModel):
    """The settings by the names of their environment variables, in lower case."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    database_url: DatabaseUrl
    database_url_file: Path | None = None
    keys_dir: Path
    database_connections: Annotated[int, Number, Field(ge=1, le=100)] = 4
    host: str = "127.0.0.1"
    port: Annotated[int, Number, Field(ge=0, le=65535)] = 8080
    admin_port: Annotated[int, Number, Field(ge=1, le=65535)] | None = None
    token_ttl: Annotated[int, Number, Field(ge=1, le=86400)] | None = None
    guest_limit: Annotated[Any, AfterValidator(_guest_limit)] | None = None
    rate_limits: bool = True
    redis_url: Annotated[str | None, AfterValidator(_redis_url), Field(repr=False)] = None
    trusted_proxies: Annotated[
        tuple[Any, ...], BeforeValidator(_split), AfterValidator(_networks)
    ] = ()
    cors_origins: Annotated[
        tuple[Annotated[str, AfterValidator(_origin)], ...], BeforeValidator(_split)
    ] = ()
    drain_seconds: Annotated[float, Number, Field(ge=0, le=300)] = 5
    swagger_ui: bool = True
    validate_responses: bool = False
    otel_exporter_otlp_endpoint: Annotated[str, AfterValidator(_collector)] | None = None
    log_format: Literal["auto", "json", "text"] = "auto"

    @field_validator("admin_port")
    @classmethod
    def _apart(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and value == info.data.get("port"):
            raise ValueError("is PORT too")
        return value


# Read by other commands than `serve`, so that no near miss is seen in them.
OTHER_SETTINGS = (
    "MIGRATION_DATABASE_URL",
    "TEST_DATABASE_URL",
    "EMBEDDED_POSTGRESQL",  # internal: see db/security_audit.py
    *(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT" for signal in ("TRACES", "METRICS", "LOGS")),
)


def load(environment: Mapping[str, str] = os.environ) -> Settings:
    """Return the settings of the environment. Raises `SettingsError`."""
    names = {name.upper(): name for name in Settings.model_fields}
    given = {names[key]: value for key, value in environment.items() if key in names and value}
    faults = [*_near_misses(environment, [*names, *OTHER_SETTINGS]), *_url_of_file(given)]
    try:
        settings = Settings.model_validate(given)
    except ValidationError as error:
        faults += [
            _message(fault) for fault in error.errors(include_input=False, include_url=False)
        ]
    if "database_url_file" in given:
        faults = [re.sub("^DATABASE_URL:", "DATABASE_URL_FILE:", fault) for fault in faults]
    if faults:
        raise SettingsError("\n".join(sorted(faults)))
    return settings


def _url_of_file(given: dict[str, str]) -> list[str]:
    """Put the URL that a file holds now among the settings given."""
    file = given.get("database_url_file")
    if file is None:
        return []
    if "database_url" in given:
        return ["DATABASE_URL_FILE: is given, and so is DATABASE_URL"]
    given["database_url"] = "postgresql://"
    try:
        given["database_url"] = Path(file).read_text().strip()
    except (OSError, ValueError):
        return [f"DATABASE_URL_FILE: cannot read {file}"]
    return []


def _near_misses(environment: Mapping[str, str], names: list[str]) -> list[str]:
    """A setting that is misspelt would be ignored; an environment holds much that is not ours."""
    return [
        f"{key}: unknown; did you mean {near[0]}?"
        for key in environment
        if len(key) > 6
        and key not in names
        and (near := difflib.get_close_matches(key.upper(), names, 1, SIMILARITY))
    ]


def _message(fault: Any) -> str:
    name = str(fault["loc"][0]).upper()
    if fault["type"] == "missing":
        return f"{name}: missing"
    return f"{name}: {fault['msg'].removeprefix('Value error, ')}"
