"""Settings: the process environment, read once and frozen. All errors are reported at once."""

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
    """Every setting that is missing or malformed, one per line, by name."""


def _split(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _number(value: Any) -> Any:
    """Reject what Python and pydantic also accept: `8_0`, digits of other scripts, `nan`."""
    if isinstance(value, str) and not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value, re.ASCII):
        raise ValueError("must be a number such as 10")
    return value


def _networks(values: tuple[str, ...]) -> tuple[Network, ...]:
    try:
        return tuple(ip_network(value, strict=False) for value in values)
    except ValueError:
        raise ValueError("must be a list of networks such as 10.0.0.0/8,::1") from None


def _origin(value: str) -> str:
    scheme, _, rest = value.partition("://")
    if scheme not in ("http", "https") or not rest or any(c in rest for c in "/*?#@ "):
        raise ValueError("must be an origin such as https://app.example.com")
    return value


def _database_url(value: str) -> str:
    if not value.startswith(("postgresql://", "postgres://")):
        raise ValueError("must be a URL such as postgresql://user:password@host:5432/database")
    try:
        conninfo_to_dict(value)
    except Exception:
        raise ValueError("is not a URL that libpq accepts") from None
    return value


def _collector(value: str) -> str:
    scheme, _, rest = value.partition("://")
    if scheme not in ("http", "https") or not rest or any(c in rest for c in "?#@ "):
        raise ValueError("must be a URL such as http://collector:4318")
    return value


def _guest_limit(value: str) -> str | Rate:
    if value == "off":
        return value
    units = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
    match = re.fullmatch(r"([1-9][0-9]{0,5}) ?(?:/|per) ?(second|minute|hour|day)", value)
    if not match:
        raise ValueError("must be `off` or a limit such as 20/minute")
    return Rate(int(match[1]), units[match[2]])


def _redis_url(value: str) -> str:
    try:
        url = urlsplit(value)
        database = re.fullmatch("/?[0-9]{0,4}", url.path) is not None
        is_valid = database and url.hostname and url.port != 0 and not url.fragment
    except ValueError:
        is_valid = False
    if not is_valid or not value.startswith(("redis://", "rediss://")):
        raise ValueError("must be a URL such as rediss://user:password@host:6379/0")
    if url.query and parse_qs(url.query).keys() != {"ssl_ca_certs"}:
        raise ValueError("supports only the option ssl_ca_certs")
    return value


Number = BeforeValidator(_number)
DatabaseUrl = Annotated[str, AfterValidator(_database_url), Field(repr=False)]


class Settings(BaseModel):
    """The settings, named like their environment variables in lower case."""

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
    def _differs_from_port(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and value == info.data.get("port"):
            raise ValueError("must differ from PORT")
        return value


# Variables that other commands or OpenTelemetry define: not misspelled settings of this one.
OTHER_SETTINGS = (
    "MIGRATION_DATABASE_URL",
    "TEST_DATABASE_URL",
    "EMBEDDED_POSTGRESQL",  # internal: see db/security_audit.py
    *(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT" for signal in ("TRACES", "METRICS", "LOGS")),
)


def load(environment: Mapping[str, str] = os.environ) -> Settings:
    """Return the settings of an environment. Raises `SettingsError`."""
    names = {name.upper(): name for name in Settings.model_fields}
    values = {names[key]: value for key, value in environment.items() if key in names and value}
    errors = [*_misspelled(environment, [*names, *OTHER_SETTINGS]), *_read_url_file(values)]
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        errors += [_message(e) for e in error.errors(include_input=False, include_url=False)]
    if "database_url_file" in values:
        errors = [re.sub("^DATABASE_URL:", "DATABASE_URL_FILE:", error) for error in errors]
    if errors:
        raise SettingsError("\n".join(sorted(errors)))
    return settings


def _read_url_file(values: dict[str, str]) -> list[str]:
    """Add the URL that DATABASE_URL_FILE contains now to `values`; return the errors."""
    file = values.get("database_url_file")
    if file is None:
        return []
    if "database_url" in values:
        return ["DATABASE_URL_FILE: set DATABASE_URL or DATABASE_URL_FILE, not both"]
    values["database_url"] = "postgresql://"
    try:
        values["database_url"] = Path(file).read_text().strip()
    except (OSError, ValueError):
        return [f"DATABASE_URL_FILE: cannot read {file}"]
    return []


def _misspelled(environment: Mapping[str, str], names: list[str]) -> list[str]:
    """Report misspelled settings, which would be ignored; other variables are not ours."""
    return [
        f"{key}: unknown setting; did you mean {similar[0]}?"
        for key in environment
        if len(key) > 6
        and key not in names
        and (similar := difflib.get_close_matches(key.upper(), names, 1, SIMILARITY))
    ]


def _message(error: Any) -> str:
    name = str(error["loc"][0]).upper()
    if error["type"] == "missing":
        return f"{name}: is missing"
    return f"{name}: {error['msg'].removeprefix('Value error, ')}"
