import os
import secrets
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service.identity.keys import KeyRing, KeysError, create_key
from tests.platform.corpus_tokens import PEM

NOW = 1_795_420_800.0  # 2026-11-23 08:00:00 UTC
HOUR = 3600


class Clock:
    """A clock that tests set."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def write(directory: Path, name: str, content: bytes | None = None) -> bytes:
    directory.mkdir(exist_ok=True)
    content = secrets.token_hex(32).encode() if content is None else content
    (directory / name).write_bytes(content)
    return content


def refusal(directory: Path) -> str:
    with pytest.raises(KeysError) as refused:
        KeyRing(directory, Clock())
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_new_key_is_named_by_its_time_and_only_the_owner_may_read_it(tmp_path: Path) -> None:
    directory = tmp_path / "local" / "keys"
    old = os.umask(0)
    try:
        kid = create_key(directory, NOW + 0.9)
    finally:
        os.umask(old)
    assert kid == "20261123T080000Z"
    assert os.listdir(directory) == [kid]
    assert directory.stat().st_mode & 0o777 == 0o700
    assert (directory / kid).stat().st_mode & 0o777 == 0o600
    content = (directory / kid).read_text()
    assert len(bytes.fromhex(content)) == 32
    assert content == content.lower()
    assert KeyRing(directory, Clock()).signing() == (kid, content.encode())


def test_a_second_key_differs_and_a_key_is_never_overwritten(tmp_path: Path) -> None:
    first = create_key(tmp_path, NOW)
    content = (tmp_path / first).read_bytes()
    with pytest.raises(KeysError, match="exists already"):
        create_key(tmp_path, NOW)
    second = create_key(tmp_path, NOW + 1)
    assert (tmp_path / first).read_bytes() == content != (tmp_path / second).read_bytes()
    assert sorted(os.listdir(tmp_path)) == [first, second]


def test_of_many_who_make_the_same_key_one_succeeds(tmp_path: Path) -> None:
    def attempt(_: int) -> str | None:
        try:
            return create_key(tmp_path, NOW)
        except KeysError:
            return None

    with ThreadPoolExecutor(16) as pool:
        made = [kid for kid in pool.map(attempt, range(64)) if kid]
    assert made == os.listdir(tmp_path) == ["20261123T080000Z"]


def test_a_key_in_the_making_is_left_to_its_maker(tmp_path: Path) -> None:
    write(tmp_path, ".20261123T080000Z.new", b"half a ke")
    with pytest.raises(KeysError, match="File exists"):
        create_key(tmp_path, NOW)
    assert os.listdir(tmp_path) == [".20261123T080000Z.new"]
    assert (tmp_path / ".20261123T080000Z.new").read_bytes() == b"half a ke"


def test_a_key_that_cannot_be_written_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(KeysError, match=r"cannot make key 2026.* in .*file"):
        create_key(tmp_path / "file", NOW)


def test_the_youngest_active_key_signs_and_a_future_one_already_verifies(tmp_path: Path) -> None:
    clock = Clock()
    old, young = write(tmp_path, "20261101T000000Z"), write(tmp_path, "20261123T080000Z")
    future = write(tmp_path, "20261123T080010Z")
    keys = KeyRing(tmp_path, clock)
    assert keys.signing() == ("20261123T080000Z", young)
    assert keys.get("20261101T000000Z") == old
    assert keys.get("20261123T080010Z") == future
    clock.now = NOW + 9.9
    assert keys.signing()[1] == young
    clock.now = NOW + 10
    assert keys.signing() == ("20261123T080010Z", future)
    clock.now = NOW - 366 * 86400
    with pytest.raises(KeysError, match="in the future"):
        keys.signing()


def test_an_unknown_kid_has_no_key(tmp_path: Path) -> None:
    write(tmp_path / "k", "20261123T080000Z")
    keys = KeyRing(tmp_path / "k", Clock())
    for kid in ("", "20261123t080000z", "../k/20261123T080000Z", "20261124T080000Z", "\ud800"):
        assert keys.get(kid) is None


def test_reload_tells_whether_the_keys_changed(tmp_path: Path) -> None:
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


def test_a_secret_swapped_as_kubernetes_does_it_is_followed(tmp_path: Path) -> None:
    def version(name: str, *kids: str) -> dict[str, bytes]:
        written = {kid: write(tmp_path / name, kid) for kid in kids}
        (tmp_path / "..data_tmp").symlink_to(name)
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")
        return written

    first = version("..2026_1", "20261101T000000Z", "20261102T000000Z")
    for kid in first:
        (tmp_path / kid).symlink_to(Path("..data") / kid)
    keys = KeyRing(tmp_path, Clock())
    assert {kid: keys.get(kid) for kid in first} == first

    second = version("..2026_2", "20261102T000000Z", "20261103T000000Z")
    assert keys.reload() is True  # the link of the removed key dangles, the new one has none yet
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
        (b"", "too short: 0 bytes, at least 32"),
        (b" \n", "too short: 0 bytes"),
        (b"q8X1l0Zt5mJ3dWb7VfYhK2sN9cRgT4u", "too short: 31 bytes"),
        (b"q8X1l0Zt5mJ3dWb7VfYhK2sN9cRgT4u\n", "too short: 31 bytes"),
        (b"q8X1l0Zt5mJ3dWb7VfYhK2sN9cRgT4uE" * 129, "longer than 4096 bytes"),
        (b"q8X1l0Zt5mJ3dWb7VfYhK2sN9cRgT4uE" + b" " * 4096, "longer than 4096 bytes"),
        (PEM, "is a PEM, SSH"),
        (PEM.replace(b"PUBLIC", b"UNHEARD-OF"), "is a PEM, SSH"),
        (b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKr0h4Vb6q0d7oJtP4mXwz3yq5", "is a PEM, SSH"),
        (b'{"kty":"oct","k":"q8X1l0Zt5mJ3dWb7VfYhK2sN9cRgT4uE"}', "is a PEM, SSH"),
        (b"secret" * 10, "dictionary"),
        (b"a-string-secret-at-least-256-bits-long", "dictionary"),
        (b"ChangeMe-" + b"a9cbc0a140b248be89a514c4b91cf0ba", "dictionary"),
        (b"PASSW0RD1234PASSW0RD5678XyZ-Abc+90", "dictionary"),
        (b"covenant-q8X1l0Zt5mJ3dWb7VfYhK2sN9", "dictionary"),
        (b"Correct horse 1 battery staple 2 and more", "a phrase"),
        (b"correct-horse-battery-staple-and-more", "a phrase"),
        (b"THEQUICKBROWNFOXJUMPSOVERTHELAZYDOG", "a phrase"),
        (b"\xa5" * 32, "not random"),
        (bytes(64), "not random"),
        (b"0" * 64, "not random"),
        (b"0f1e2d3c4b5a6978" * 4, "not random"),
        (b"q8X1l0Zt5mJ3dWb7" * 2, "not random"),
        (b"q8X1l0Zt5mJ3dWb7V" * 2 + b"q8X", "not random"),
        (bytes(range(100, 140)), "not random"),
        (b"abcdefghijABCDEFGHIJ0123456789-_", "dictionary"),
        (b"zyxwvutsrqponmlkjihgfedcba9876543210", "not random"),
        (b"aAbB1" * 6 + b"BbAa1Ba", "not random"),
        (b"xXyY1zZ1XyxYzZX1yxZ1zYXxy1ZzXYx1yZ", "not random"),
    ],
)
def test_a_weak_key_is_refused_with_the_reason(tmp_path: Path, key: bytes, reason: str) -> None:
    write(tmp_path, "20261122T080000Z")
    write(tmp_path, "20261123T080000Z", key)
    text = refusal(tmp_path)
    assert "key 20261123T080000Z in " in text
    assert reason in text
    assert len(key.strip()) < 8 or key.strip().decode("latin-1") not in text


def test_random_keys_of_every_usual_spelling_are_accepted(tmp_path: Path) -> None:
    spellings = (
        lambda: secrets.token_hex(32).encode(),
        lambda: secrets.token_hex(32).upper().encode(),
        lambda: secrets.token_hex(16).encode(),
        lambda: secrets.token_urlsafe(32).encode(),
        lambda: bytes(byte | 0x80 for byte in secrets.token_bytes(32)),
    )
    for number in range(300):
        write(tmp_path, f"20261123T07{number // 60:02}{number % 60:02}Z", spellings[number % 5]())
    assert KeyRing(tmp_path, Clock()).signing()[0] == "20261123T070459Z"


@pytest.mark.parametrize(
    "name",
    [
        *("README", "key", "20261123T080000", "20261123T080000z", "20261123T080000Z.txt"),
        *("20261323T080000Z", "20261123T250000Z", "20261123T235960Z", "2026-11-23T08:00:00Z"),
        *("\uff12\uff10\uff12\uff161123T080000Z", "20261123T080000Z\nroot"),
    ],
)
def test_a_badly_named_file_is_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path, "20261122T080000Z")
    write(tmp_path, name)
    text = refusal(tmp_path)
    assert ascii(name) in text
    assert "not named by its activation time" in text


def test_a_directory_without_a_usable_key_is_refused(tmp_path: Path) -> None:
    assert "cannot read the key directory" in refusal(tmp_path / "missing")
    (tmp_path / "file").touch()
    assert "cannot read the key directory" in refusal(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert "no key in" in refusal(tmp_path / "empty")
    write(tmp_path / "future", "20261123T080001Z")
    assert "in the future" in refusal(tmp_path / "future")


def test_a_file_that_cannot_be_read_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "20261123T080000Z").symlink_to("20261123T080000Z")
    assert "cannot read key 20261123T080000Z" in refusal(tmp_path)
    (tmp_path / "20261123T080000Z").unlink()
    os.mkfifo(tmp_path / "20261123T080000Z")
    assert "not a regular file" in refusal(tmp_path)


@pytest.mark.parametrize("fault", ["empty", "missing", "short", "badly named", "future only"])
def test_a_broken_reload_keeps_the_last_good_keys(tmp_path: Path, fault: str) -> None:
    directory = tmp_path / "keys"
    key = write(directory, "20261122T080000Z")
    keys = KeyRing(directory, Clock())
    generation = keys.generation
    shutil.rmtree(directory)
    match fault:
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


@pytest.mark.parametrize("gone", ["20261121T080000Z", "..data/20261121T080000Z"])
def test_a_removed_key_is_retired_even_beside_a_broken_one(tmp_path: Path, gone: str) -> None:
    (tmp_path / "..data").mkdir()
    leaked, kept = write(tmp_path, gone), write(tmp_path, "20261122T080000Z")
    if gone != "20261121T080000Z":
        (tmp_path / "20261121T080000Z").symlink_to(gone)
    keys = KeyRing(tmp_path, Clock())
    assert keys.get("20261121T080000Z") == leaked
    generation = keys.generation
    (tmp_path / gone).unlink()
    write(tmp_path, "20261123T080000Z", b"short")
    with pytest.raises(KeysError, match="too short"):
        keys.reload()
    assert keys.get("20261121T080000Z") is None
    assert keys.get("20261123T080000Z") is None
    assert keys.signing() == ("20261122T080000Z", kept)
    assert keys.generation == generation + 1


def test_no_key_is_ever_shown(tmp_path: Path) -> None:
    key = write(tmp_path, "20261122T080000Z")
    keys = KeyRing(tmp_path, Clock())
    write(tmp_path, "20261123T080000Z", key + b" and a phrase that says Kerfuffle")
    with pytest.raises(KeysError) as refused:
        keys.reload()
    error: BaseException | None = refused.value
    shown = f"{keys} {keys!r}"
    while error is not None:
        shown += f" {error} {error!r} {error.args}"
        error = error.__cause__ or error.__context__
    assert key.decode() not in shown
    assert "Kerfuffle" not in shown
