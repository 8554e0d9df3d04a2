"""Settings: every malformed, missing or misspelled one is reported by name before the start."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evidence.harness.processes import ROOT
from service import settings
from service.identity import keys
from service.settings import SettingsError

SECRET = "s3cr3t-canary"
URL = f"postgresql://covenant_app:{SECRET}@127.0.0.1:1/covenant"
GOOD = {"DATABASE_URL": URL, "KEYS_DIR": "/keys"}


def load_errors(**environment: str) -> list[str]:
    """Return the lines of the error for the good settings with these changes."""
    with pytest.raises(SettingsError) as error:
        settings.load({**GOOD, **environment})
    assert SECRET not in str(error.value)
    return str(error.value).splitlines()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("DATABASE_URL", bad) for bad in (f"mysql://a:{SECRET}@b/c", SECRET, f"host={SECRET}")],
        ("DATABASE_URL", f"postgresql://a:{SECRET}@b:notaport/c?nonsense={SECRET}"),
        *[("PORT", bad) for bad in ("x", "-1", "65536", "80.5", "8_0", "٣", "0x50", "1e3")],
        *[("ADMIN_PORT", bad) for bad in ("x", "0", "65536", "8080")],
        *[("TOKEN_TTL", bad) for bad in ("0", "-1", "86401", "hour", "nan", "1_000")],
        *[("DATABASE_CONNECTIONS", bad) for bad in ("0", "101", "many")],
        *[("DRAIN_SECONDS", bad) for bad in ("-1", "301", "nan", "inf", "soon")],
        *[("GUEST_LIMIT", bad) for bad in ("many", "20", "-1/minute", "0/minute", "20/lustrum")],
        ("GUEST_LIMIT", "1/second;20/minute"),
        *[
            ("REDIS_URL", f"{bad}?x={SECRET}")
            for bad in ("http://a", "redis://", "redis://a:b", "redis://a/b", "redis://a/0")
        ],
        *[("REDIS_URL", bad) for bad in ("localhost:6379", "redis://a#b", "unix:///run/redis")],
        *[("TRUSTED_PROXIES", bad) for bad in ("10.0.0.0/33", "proxy", "::1, x", SECRET, "*")],
        *[("CORS_ORIGINS", bad) for bad in ("*", "null", "app.example.com", "https://a/b", SECRET)],
        *[
            ("CORS_ORIGINS", bad)
            for bad in ("https://*.example.com", "https://a.example/", "ftp://a")
        ],
        *[("SWAGGER_UI", bad) for bad in ("maybe", "2")],
        ("VALIDATE_RESPONSES", "perhaps"),
        ("LOG_FORMAT", "xml"),
        *[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", bad)
            for bad in ("collector:4317", "grpc://a", f"http://a:{SECRET}@b", "http://")
        ],
    ],
)
def test_a_malformed_setting_is_rejected_by_name(name: str, value: str) -> None:
    [line] = load_errors(**{name: value})
    setting, _, message = line.partition(":")
    assert setting == name
    assert value not in message.split(" such as ")[0] or len(value) < 4


@pytest.mark.parametrize(
    ("misspelled", "intended"),
    [
        ("DATABASE_URI", "DATABASE_URL"),
        ("KEY_DIR", "KEYS_DIR"),
        ("CORS_ORIGIN", "CORS_ORIGINS"),
        ("TRUSTED_PROXY", "TRUSTED_PROXIES"),
        ("DRAIN_SECOND", "DRAIN_SECONDS"),
        ("GUEST_LIMITS", "GUEST_LIMIT"),
        ("SWAGGERUI", "SWAGGER_UI"),
        ("LOGFORMAT", "LOG_FORMAT"),
        ("TOKEN_TTLS", "TOKEN_TTL"),
        ("database_url", "DATABASE_URL"),
        ("Keys_Dir", "KEYS_DIR"),
    ],
)
def test_a_misspelled_setting_is_rejected(misspelled: str, intended: str) -> None:
    message = f"{misspelled}: unknown setting; did you mean {intended}?"
    assert load_errors(**{misspelled: SECRET}) == [message]


def test_other_environment_variables_are_ignored() -> None:
    for name in ("PATH", "HOSTNAME", "PORTAL", "LANGUAGE", "PGHOST", "TEST_DATABASE_URL", "host"):
        assert settings.load({**GOOD, name: "x"}).port == 8080


def test_an_empty_setting_has_its_default() -> None:
    read = settings.load({**GOOD, "PORT": "", "CORS_ORIGINS": "", "GUEST_LIMIT": "", "HOST": ""})
    assert (read.port, read.host, read.cors_origins, read.guest_limit) == (
        8080,
        "127.0.0.1",
        (),
        None,
    )


def test_all_errors_are_reported_at_once() -> None:
    with pytest.raises(SettingsError) as error:
        settings.load({"PORT": "x", "LOG_FORMAT": "xml", "KEY_DIR": "/keys"})
    assert [line.partition(":")[0] for line in str(error.value).splitlines()] == [
        "DATABASE_URL",
        "KEYS_DIR",
        "KEY_DIR",
        "LOG_FORMAT",
        "PORT",
    ]


def test_the_database_url_may_be_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text(f"{URL}\n")
    read = settings.load({"DATABASE_URL_FILE": str(file), "KEYS_DIR": "/keys"})
    assert (read.database_url, read.database_url_file) == (URL, file)
    assert SECRET not in repr(read)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot read "),
        (b"\xff", "cannot read "),
        (b"", "must be a URL such as "),
        (f"mysql://a:{SECRET}@b/c".encode(), "must be a URL such as "),
        (f"postgresql://a:{SECRET}@b:notaport/c?no=1".encode(), "is not a URL that libpq"),
    ],
)
def test_a_file_without_a_database_url_is_rejected(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    file = tmp_path / "url"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError) as error:
        settings.load({"DATABASE_URL_FILE": str(file), "KEYS_DIR": "/keys"})
    [line] = str(error.value).splitlines()
    assert line.startswith(f"DATABASE_URL_FILE: {reason}")
    assert SECRET not in line


def test_the_database_url_must_not_be_set_twice(tmp_path: Path) -> None:
    (tmp_path / "url").write_text(URL)
    with pytest.raises(SettingsError, match="set DATABASE_URL or DATABASE_URL_FILE, not both"):
        settings.load({**GOOD, "DATABASE_URL_FILE": str(tmp_path / "url")})


def test_settings_are_frozen_and_their_representation_contains_no_secret() -> None:
    read = settings.load(GOOD)
    assert SECRET not in repr(read)
    with pytest.raises(ValueError, match="frozen"):
        read.port = 1


def run(command: str = "serve", **environment: str) -> tuple[int, list[str]]:
    """Run a command that must fail; return its exit code and its output."""
    clean = {k: v for k, v in os.environ.items() if k not in (*GOOD, "MIGRATION_DATABASE_URL")}
    done = subprocess.run(
        [sys.executable, "-m", "service", command],
        cwd=ROOT,
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert SECRET not in done.stdout + done.stderr
    return done.returncode, (done.stdout + done.stderr).splitlines()


def test_the_service_exits_with_one_line_per_error() -> None:
    code, lines = run(DATABASE_URL=f"mysql://{SECRET}", PORT="x", CORS_ORIGIN=SECRET)
    assert code == 1
    assert [line.partition(":")[0] for line in lines] == [
        "CORS_ORIGIN",
        "DATABASE_URL",
        "KEYS_DIR",
        "PORT",
    ]


def test_the_serving_process_rejects_the_owners_password(tmp_path: Path) -> None:
    keys.create_key(tmp_path, time.time())
    code, lines = run(DATABASE_URL=URL, KEYS_DIR=str(tmp_path), MIGRATION_DATABASE_URL=URL)
    assert code == 1
    assert lines == ["MIGRATION_DATABASE_URL: must not be set for the serving process"]


def test_there_is_no_default_signing_key(tmp_path: Path) -> None:
    code, lines = run(DATABASE_URL=URL, KEYS_DIR=str(tmp_path))
    assert (code, len(lines)) == (1, 1)
    assert lines[0].startswith(f"there is no key in {tmp_path}: ")


def test_a_port_that_is_in_use_is_reported_in_one_line(tmp_path: Path) -> None:
    keys.create_key(tmp_path, time.time())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        code, lines = run(DATABASE_URL=URL, KEYS_DIR=str(tmp_path), PORT=str(port))
    reason = f"PORT: cannot listen on 127.0.0.1:{port}: Address already in use"
    assert (code, lines) == (1, [reason])


@pytest.mark.parametrize("host", ["x" * 300, "192.0.2.1"])
def test_a_host_that_is_not_local_is_reported_in_one_line(tmp_path: Path, host: str) -> None:
    keys.create_key(tmp_path, time.time())
    code, lines = run(DATABASE_URL=URL, KEYS_DIR=str(tmp_path), HOST=host)
    assert code == 1
    assert len(lines) == 1
    assert "cannot listen on" in lines[0]


def test_an_unknown_command_is_reported_in_one_line() -> None:
    code, lines = run("nonsense")
    assert (code, len(lines)) == (2, 1)
    assert lines[0].startswith("usage: python -m service serve")
