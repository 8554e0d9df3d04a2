"""Signing keys: the only place that creates, reads and checks key files."""

import calendar
import errno
import math
import os
import re
import secrets
import stat
import time
from collections.abc import Callable
from pathlib import Path

from jwt.algorithms import HMACAlgorithm
from jwt.exceptions import InvalidKeyError

MIN_BYTES = 32  # HS256 (RFC 7518 section 3.2)
MAX_BYTES = 4096
_KID_FORMAT = "%Y%m%dT%H%M%SZ"
_ALL_IN_FUTURE = "every key in {} becomes active in the future: add one that is active now"
# Words of six characters or more: random base64 contains shorter ones by accident.
_PLACEHOLDER = re.compile(
    rb"secret|passw[o0]rd|change[-_ ]?me|default|example|covenant|qwerty|letmein|insecure"
    rb"|develop|testing|placeholder|replace|private|12345678|abcdefgh|deadbeef",
    re.IGNORECASE,
)


class KeysError(Exception):
    """The key directory cannot be used. The message is one line without key material."""


def create_key(directory: Path, now: float) -> str:
    """Write a new random key, active from `now` (epoch), and return its kid.

    The file appears complete (mode 0600) or not at all. A missing directory is created (mode
    0700). Raises `KeysError`, also when there is already a key for the second of `now`.
    """
    kid = _kid(now)
    draft = directory / f".{kid}.new"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Only one process can create the draft of this kid, so the rename overwrites nothing.
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(32))
                file.flush()
                os.fsync(descriptor)
            if os.path.lexists(directory / kid):
                raise FileExistsError(errno.EEXIST, "the file exists")
            draft.rename(directory / kid)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise KeysError(f"cannot create key {kid} in {directory}: {error.strerror}") from None
    return kid


class KeyRing:
    """The keys of one directory, as of the last successful load: {kid: secret bytes}.

    One file is one key, named by its activation time in UTC (`20261123T080000Z`). The secret is
    its content without surrounding ASCII whitespace. Dotfiles and folders are ignored, links are
    followed: Kubernetes mounts a Secret as links through `..data`.
    """

    def __init__(self, directory: Path, clock: Callable[[], float] = time.time) -> None:
        """Load the keys. Raises `KeysError`."""
        self._directory = directory
        self._clock = clock
        self._keys: dict[str, bytes] = {}
        self.generation = 0
        self.reload_error = ""  # why the directory is rejected while older keys are in use
        self.reload()

    def reload(self) -> bool:
        """Read the directory again; return whether the set of keys changed.

        Raises `KeysError` and adds no key when a file is bad or no key can sign. Keys whose files
        are gone are retired even then, unless no key that can sign would be left.
        """
        names = _key_names(self._directory)
        try:
            loaded = _read_keys(self._directory, names)
            if self._active(loaded) is None:
                raise KeysError(_ALL_IN_FUTURE.format(self._directory))
        except KeysError:
            remaining = {kid: key for kid, key in self._keys.items() if kid in names}
            if self._active(remaining) is not None:
                self._replace(remaining)
            raise
        return self._replace(loaded)

    def signing(self) -> tuple[str, bytes]:
        """Return (kid, secret) of the newest active key. Raises `KeysError`."""
        keys = self._keys
        kid = self._active(keys)
        if kid is None:  # the clock was set back
            raise KeysError(_ALL_IN_FUTURE.format(self._directory))
        return kid, keys[kid]

    def __len__(self) -> int:
        return len(self._keys)

    def signing_key_age(self) -> float:
        """Return how long (s) the signing key has been active, NaN when no key is."""
        kid = self._active(self._keys)
        activated = calendar.timegm(time.strptime(kid, _KID_FORMAT)) if kid else math.nan
        return self._clock() - activated

    def get(self, kid: str) -> bytes | None:
        """Return the secret of `kid`, which may not be active yet, or None for an unknown `kid`."""
        return self._keys.get(kid)

    def _active(self, keys: dict[str, bytes]) -> str | None:
        now = _kid(self._clock())
        return max((kid for kid in keys if kid <= now), default=None)

    def _replace(self, keys: dict[str, bytes]) -> bool:
        if keys == self._keys:
            return False
        self._keys = keys
        # Last: a thread that sees the new generation must not find an old key.
        self.generation += 1
        return True


def _kid(now: float) -> str:
    return time.strftime(_KID_FORMAT, time.gmtime(now))


def _key_names(directory: Path) -> set[str]:
    """Return the names of the key files. Raises `KeysError` when there are none."""
    try:
        names = {entry.name for entry in os.scandir(directory) if _is_key_file(entry)}
    except OSError as error:
        raise KeysError(f"cannot read the key directory {directory}: {error.strerror}") from None
    if not names:
        raise KeysError(
            f"there is no key in {directory}: add a file named by its activation time in UTC,"
            " such as 20261123T080000Z"
        )
    return names


def _is_key_file(entry: os.DirEntry[str]) -> bool:
    if entry.name.startswith("."):
        return False
    try:
        return not stat.S_ISDIR(entry.stat().st_mode)
    except FileNotFoundError:  # removed meanwhile, or a link left over from a Secret's update
        return False
    except OSError:
        return True  # reading it reports the error


def _read_keys(directory: Path, names: set[str]) -> dict[str, bytes]:
    keys: dict[str, bytes] = {}
    for name in sorted(names):
        if not _is_kid(name):
            raise KeysError(
                f"key file {name!a} in {directory} must be named by its activation time in UTC,"
                " such as 20261123T080000Z"
            )
        try:
            key = _content(directory / name)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise KeysError(f"cannot read key {name} in {directory}: {error.strerror}") from None
        if weakness := _weakness(key):
            raise KeysError(f"key {name} in {directory} {weakness}")
        keys[name] = key
    return keys


def _is_kid(name: str) -> bool:
    try:
        return _kid(calendar.timegm(time.strptime(name, _KID_FORMAT))) == name
    except ValueError:
        return False


def _content(path: Path) -> bytes:
    # Without O_NONBLOCK, opening a named pipe would block the service.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(0, "not a regular file")
        content = file.read(MAX_BYTES + 1)
    return content if len(content) > MAX_BYTES else content.strip()


def _weakness(key: bytes) -> str | None:
    """Return why `key` cannot be a secret for HS256, or None."""
    if len(key) < MIN_BYTES:
        return f"is too short: {len(key)} bytes, at least {MIN_BYTES} are required"
    if len(key) > MAX_BYTES:
        return f"is longer than {MAX_BYTES} bytes"
    if not _is_symmetric(key):
        return "is a PEM, SSH, certificate or JWK file, not a secret"
    if _PLACEHOLDER.search(key) or len(set(key)) < 8:
        return "is a placeholder, not random bytes"
    return None


def _is_symmetric(key: bytes) -> bool:
    if b"-----BEGIN" in key:
        return False
    try:
        HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(key)
    except InvalidKeyError:
        return False
    return True
