"""Key files and the key ring: creation, reload, rotation, and what is rejected."""

import os
import secrets
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service.identity.keys import KeyRing, KeysError, create_key
from tests.platform.corpus_forge import PEM
from tests.platform.fix_tokens import NOW, Clock


def write(directory: Path, name: str, content: bytes | None = None) -> bytes:
    """Write a key file, by default with a random secret, and return its content."""
    directory.mkdir(exist_ok=True)
    content = secrets.token_hex(32).encode() if content is None else content
    (directory / name).write_bytes(content)
    return content


def load_error(directory: Path) -> str:
    """Return the error of loading the keys, which must be one line."""
    with pytest.raises(KeysError) as error:
        KeyRing(directory, Clock())
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_new_key_is_named_by_its_activation_time_and_readable_by_its_owner_only(
    tmp_path: Path,
) -> None:
    directory = tmp_path / "local" / "keys"
    umask = os.umask(0)
    try:
        kid = create_key(directory, NOW + 0.9)
    finally:
        os.umask(umask)
    assert kid == "20261123T080000Z"
    assert os.listdir(directory) == [kid]
    assert directory.stat().st_mode & 0o777 == 0o700
    assert (directory / kid).stat().st_mode & 0o777 == 0o600
    content = (directory / kid).read_text()
    assert len(bytes.fromhex(content)) == 32
    assert content == content.lower()
    assert KeyRing(directory, Clock()).signing() == (kid, content.encode())


def test_each_key_is_different_and_no_key_is_overwritten(tmp_path: Path) -> None:
    first = create_key(tmp_path, NOW)
    content = (tmp_path / first).read_bytes()
    with pytest.raises(KeysError, match=f"cannot create key {first} in .*: the file exists"):
        create_key(tmp_path, NOW)
    second = create_key(tmp_path, NOW + 1)
    assert (tmp_path / first).read_bytes() == content != (tmp_path / second).read_bytes()
    assert sorted(os.listdir(tmp_path)) == [first, second]


def test_of_many_concurrent_attempts_to_create_a_key_one_succeeds(tmp_path: Path) -> None:
    def attempt(_: int) -> str | None:
        try:
            return create_key(tmp_path, NOW)
        except KeysError:
            return None

    with ThreadPoolExecutor(16) as pool:
        created = [kid for kid in pool.map(attempt, range(64)) if kid]
    assert created == os.listdir(tmp_path) == ["20261123T080000Z"]


def test_the_draft_of_another_process_is_left_alone(tmp_path: Path) -> None:
    write(tmp_path, ".20261123T080000Z.new", b"half a ke")
    with pytest.raises(KeysError, match="File exists"):
        create_key(tmp_path, NOW)
    assert os.listdir(tmp_path) == [".20261123T080000Z.new"]
    assert (tmp_path / ".20261123T080000Z.new").read_bytes() == b"half a ke"


def test_the_error_says_why_a_key_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(KeysError, match=r"cannot create key 2026.* in .*file: File exists"):
        create_key(tmp_path / "file", NOW)


def test_the_newest_active_key_signs_and_a_future_key_already_verifies(tmp_path: Path) -> None:
    clock = Clock()
    old, newest = write(tmp_path, "20261101T000000Z"), write(tmp_path, "20261123T080000Z")
    future = write(tmp_path, "20261123T080010Z")
    keys = KeyRing(tmp_path, clock)
    assert keys.signing() == ("20261123T080000Z", newest)
    assert keys.get("20261101T000000Z") == old
    assert keys.get("20261123T080010Z") == future
    clock.now = NOW + 9.9
    assert keys.signing()[1] == newest
    clock.now = NOW + 10
    assert keys.signing() == ("20261123T080010Z", future)
    clock.now = NOW - 366 * 86400
    with pytest.raises(KeysError, match="becomes active in the future"):
        keys.signing()


def test_an_unknown_kid_has_no_key(tmp_path: Path) -> None:
    write(tmp_path / "k", "20261123T080000Z")
    keys = KeyRing(tmp_path / "k", Clock())
    for kid in ("", "20261123t080000z", "../k/20261123T080000Z", "20261124T080000Z", "\ud800"):
        assert keys.get(kid) is None


def test_reload_returns_whether_the_keys_changed(tmp_path: Path) -> None:
    write(tmp_path, "20261101T000000Z")
    keys = KeyRing(tmp_path, Clock())
    generation = keys.generation
    assert keys.reload() is False
    assert keys.generation == generation
    added = write(tmp_path, "20261102T000000Z")
    assert keys.reload() is True
    assert keys.generation == generation + 1
    assert keys.signing()[1] == added
    changed = write(tmp_path, "20261102T000000Z")
    assert keys.reload() is True
    assert keys.generation == generation + 2
    assert keys.signing()[1] == changed
    (tmp_path / "20261102T000000Z").unlink()
    assert keys.reload() is True
    assert keys.generation == generation + 3
    assert keys.get("20261102T000000Z") is None


def test_an_update_of_a_kubernetes_secret_is_followed(tmp_path: Path) -> None:
    """Kubernetes replaces the link `..data`, then adds and removes the links to its files."""

    def mount(version: str, *kids: str) -> dict[str, bytes]:
        written = {kid: write(tmp_path / version, kid) for kid in kids}
        (tmp_path / "..data_tmp").symlink_to(version)
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")
        return written

    first = mount("..2026_1", "20261101T000000Z", "20261102T000000Z")
    for kid in first:
        (tmp_path / kid).symlink_to(Path("..data") / kid)
    keys = KeyRing(tmp_path, Clock())
    assert {kid: keys.get(kid) for kid in first} == first

    second = mount("..2026_2", "20261102T000000Z", "20261103T000000Z")
    assert keys.reload() is True  # one link dangles, and the new key has none yet
    assert keys.get("20261101T000000Z") is None
    (tmp_path / "20261103T000000Z").symlink_to(Path("..data") / "20261103T000000Z")
    (tmp_path / "20261101T000000Z").unlink()
    shutil.rmtree(tmp_path / "..2026_1")
    assert keys.reload() is True
    assert {kid: keys.get(kid) for kid in second} == second
    assert keys.signing()[0] == "20261103T000000Z"


def test_dotfiles_and_folders_are_ignored_and_whitespace_is_stripped(tmp_path: Path) -> None:
    key = secrets.token_urlsafe(32).encode()
    write(tmp_path, "20261123T080000Z", b" \t\r\n" + key + b" \r\n\x0b\x0c\n")
    write(tmp_path, ".20261123T080000Z.new", b"half a ke")
    write(tmp_path / "lost+found", "note")
    write(tmp_path / "20261123T070000Z", "note")
    (tmp_path / "linked").symlink_to("lost+found")
    keys = KeyRing(tmp_path, Clock())
    assert keys.signing() == ("20261123T080000Z", key)
    assert keys.get("20261123T070000Z") is None


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (b"", "is too short: 0 bytes, at least 32 are required"),
        (b" \n", "is too short: 0 bytes"),
        (b"q8X1l0Zt5mJ3dWb7VfYhK2sN9cRgT4u", "is too short: 31 bytes"),
        (b"q8X1l0Zt5mJ3dWb7VfYhK2sN9cRgT4u\n", "is too short: 31 bytes"),
        (b"q8X1l0Zt5mJ3dWb7VfYhK2sN9cRgT4uE" * 129, "is longer than 4096 bytes"),
        (b"q8X1l0Zt5mJ3dWb7VfYhK2sN9cRgT4uE" + b" " * 4096, "is longer than 4096 bytes"),
        (PEM, "is a PEM, SSH, certificate or JWK file"),
        (PEM.replace(b"PUBLIC", b"UNHEARD-OF"), "is a PEM, SSH"),
        (b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKr0h4Vb6q0d7oJtP4mXwz3yq5", "is a PEM, SSH"),
        (b'{"kty":"oct","k":"q8X1l0Zt5mJ3dWb7VfYhK2sN9cRgT4uE"}', "is a PEM, SSH"),
        (b"secret" * 10, "is a placeholder"),
        (b"a-string-secret-at-least-256-bits-long", "is a placeholder"),
        (b"ChangeMe-" + b"a9cbc0a140b248be89a514c4b91cf0ba", "is a placeholder"),
        (b"PASSW0RD1234PASSW0RD5678XyZ-Abc+90", "is a placeholder"),
        (b"covenant-q8X1l0Zt5mJ3dWb7VfYhK2sN9", "is a placeholder"),
        (b"abcdefghijABCDEFGHIJ0123456789-_", "is a placeholder"),
        (bytes(64), "is a placeholder"),
        (b"0" * 64, "is a placeholder"),
    ],
)
def test_a_key_that_cannot_be_a_secret_is_rejected_with_the_reason(
    tmp_path: Path, key: bytes, reason: str
) -> None:
    write(tmp_path, "20261122T080000Z")
    write(tmp_path, "20261123T080000Z", key)
    message = load_error(tmp_path)
    assert "key 20261123T080000Z in " in message
    assert reason in message
    assert len(key.strip()) < 8 or key.strip().decode("latin-1") not in message


def test_random_keys_in_every_usual_encoding_are_accepted(tmp_path: Path) -> None:
    encodings = (
        lambda: secrets.token_hex(32).encode(),
        lambda: secrets.token_hex(32).upper().encode(),
        lambda: secrets.token_hex(16).encode(),
        lambda: secrets.token_urlsafe(32).encode(),
        lambda: bytes(byte | 0x80 for byte in secrets.token_bytes(32)),
    )
    for number in range(300):
        write(tmp_path, f"20261123T07{number // 60:02}{number % 60:02}Z", encodings[number % 5]())
    assert KeyRing(tmp_path, Clock()).signing()[0] == "20261123T070459Z"


@pytest.mark.parametrize(
    "name",
    [
        *("README", "key", "20261123T080000", "20261123T080000z", "20261123T080000Z.txt"),
        *("20261323T080000Z", "20261123T250000Z", "20261123T235960Z", "2026-11-23T08:00:00Z"),
        *("\uff12\uff10\uff12\uff161123T080000Z", "20261123T080000Z\nroot"),
    ],
)
def test_a_file_with_another_name_is_rejected(tmp_path: Path, name: str) -> None:
    write(tmp_path, "20261122T080000Z")
    write(tmp_path, name)
    message = load_error(tmp_path)
    assert ascii(name) in message
    assert "must be named by its activation time in UTC" in message


def test_a_directory_without_a_usable_key_is_rejected(tmp_path: Path) -> None:
    assert "cannot read the key directory" in load_error(tmp_path / "missing")
    (tmp_path / "file").touch()
    assert "cannot read the key directory" in load_error(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert load_error(tmp_path / "empty").startswith(f"there is no key in {tmp_path / 'empty'}: ")
    write(tmp_path / "future", "20261123T080001Z")
    assert "becomes active in the future" in load_error(tmp_path / "future")


def test_a_file_that_cannot_be_read_is_rejected_at_once(tmp_path: Path) -> None:
    (tmp_path / "20261123T080000Z").symlink_to("20261123T080000Z")
    assert "cannot read key 20261123T080000Z" in load_error(tmp_path)
    (tmp_path / "20261123T080000Z").unlink()
    os.mkfifo(tmp_path / "20261123T080000Z")
    assert "not a regular file" in load_error(tmp_path)


@pytest.mark.parametrize("defect", ["empty", "missing", "short", "badly named", "future only"])
def test_a_failed_reload_keeps_the_last_valid_keys(tmp_path: Path, defect: str) -> None:
    directory = tmp_path / "keys"
    key = write(directory, "20261122T080000Z")
    keys = KeyRing(directory, Clock())
    generation = keys.generation
    shutil.rmtree(directory)
    match defect:
        case "empty":
            directory.mkdir()
        case "short":
            write(directory, "20261122T080000Z", b"short")
        case "badly named":
            write(directory, "key")
        case "future only":
            write(directory, "20271122T080000Z")
    for _ in range(2):
        with pytest.raises(KeysError):
            keys.reload()
        assert keys.signing() == ("20261122T080000Z", key)
        assert keys.generation == generation
    shutil.rmtree(directory, ignore_errors=True)
    write(directory, "20261122T080000Z", key)
    assert keys.reload() is False


@pytest.mark.parametrize("file", ["20261121T080000Z", "..data/20261121T080000Z"])
def test_a_removed_key_is_retired_even_when_another_key_is_bad(tmp_path: Path, file: str) -> None:
    (tmp_path / "..data").mkdir()
    leaked, other = write(tmp_path, file), write(tmp_path, "20261122T080000Z")
    if file != "20261121T080000Z":
        (tmp_path / "20261121T080000Z").symlink_to(file)
    keys = KeyRing(tmp_path, Clock())
    assert keys.get("20261121T080000Z") == leaked
    generation = keys.generation
    (tmp_path / file).unlink()
    write(tmp_path, "20261123T080000Z", b"short")
    with pytest.raises(KeysError, match="too short"):
        keys.reload()
    assert keys.get("20261121T080000Z") is None
    assert keys.get("20261123T080000Z") is None
    assert keys.signing() == ("20261122T080000Z", other)
    assert keys.generation == generation + 1


def test_no_representation_or_error_contains_key_material(tmp_path: Path) -> None:
    key = write(tmp_path, "20261122T080000Z")
    keys = KeyRing(tmp_path, Clock())
    write(tmp_path, "20261123T080000Z", key + b" and the placeholder Kerfuffle")
    with pytest.raises(KeysError) as raised:
        keys.reload()
    error: BaseException | None = raised.value
    text = f"{keys} {keys!r}"
    while error is not None:
        text += f" {error} {error!r} {error.args}"
        error = error.__cause__ or error.__context__
    assert key.decode() not in text
    assert "Kerfuffle" not in text
