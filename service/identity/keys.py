"""Signing keys: the one place that makes, reads and judges key files."""

import calendar
import errno
import math
import os
import re
import secrets
import stat
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from jwt.algorithms import HMACAlgorithm
from jwt.exceptions import InvalidKeyError

MIN_BYTES = 32
MAX_BYTES = 4096
_KID_FORMAT = "%Y%m%dT%H%M%SZ"
_HEX_DIGITS = frozenset(b"0123456789abcdefABCDEF")
# Words of six characters or more: random base64 holds shorter ones by accident.
_WORDS = re.compile(
    rb"secret|passw[o0]rd|change[-_ ]?me|default|example|covenant|qwerty|letmein|insecure"
    rb"|develop|testing|placeholder|replace|private|12345678|abcdefgh|deadbeef",
    re.IGNORECASE,
)
# Printable with a blank, or letters of one case without a digit. Line breaks stand in base64 too.
_PHRASE = re.compile(rb"(?=.* )[\t-\r -~]+|[\t-\r -/:-`{-~]+|[\t-\r -/:-@\[-~]+", re.DOTALL)


class KeysError(Exception):
    """The key directory cannot be used. The text is one line and holds no key material."""


def create_key(directory: Path, now: float) -> str:
    """Write a new random key, active from `now` (epoch), and return its kid.

    The file appears whole (mode 0600) or not at all; a missing directory is made (mode 0700).
    Raises `KeysError`, also when the second of `now` has a key already.
    """
    kid = _kid(now)
    draft = directory / f".{kid}.new"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Who holds the draft is the only one to make this kid, so the rename overwrites nothing.
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(32))
                file.flush()
                os.fsync(descriptor)
            if os.path.lexists(directory / kid):
                raise FileExistsError(errno.EEXIST, "it exists already")
            draft.rename(directory / kid)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise KeysError(f"cannot make key {kid} in {directory}: {error.strerror}") from None
    return kid


class KeyRing:
    """The keys of one directory, as of its last good load: {kid: secret bytes}.

    One file is one key, named by its activation time in UTC (`20261123T080000Z`). The secret is
    the content without surrounding ASCII whitespace. Dotfiles and folders are ignored, links are
    followed: Kubernetes mounts a Secret as links through `..data`.
    """

    def __init__(self, directory: Path, clock: Callable[[], float] = time.time) -> None:
        """Load the keys. Raises `KeysError`."""
        self._directory = directory
        self._clock = clock
        self._keys: dict[str, bytes] = {}
        self.generation = 0
        self.complaint = ""  # why the directory is refused, while older keys serve
        self.reload()

    def reload(self) -> bool:
        """Read the directory again; return True when the set of keys changed.

        Raises `KeysError` and adds nothing when a file is bad or no key could sign. Keys whose
        files are gone are retired even then, unless none that can sign would be left.
        """
        names = _names(self._directory)
        try:
            fresh = _read(self._directory, names)
            if self._active(fresh) is None:
                raise KeysError(f"every key in {self._directory} is in the future")
        except KeysError:
            left = {kid: key for kid, key in self._keys.items() if kid in names}
            if self._active(left) is not None:
                self._replace(left)
            raise
        return self._replace(fresh)

    def signing(self) -> tuple[str, bytes]:
        """Return (kid, secret) of the youngest key that is active. Raises `KeysError`."""
        keys = self._keys
        kid = self._active(keys)
        if kid is None:  # the clock was set back
            raise KeysError(f"every key in {self._directory} is in the future")
        return kid, keys[kid]

    def __len__(self) -> int:
        return len(self._keys)

    def age(self) -> float:
        """Return for how many seconds the signing key has been active, NaN if none is."""
        kid = self._active(self._keys)
        begin = calendar.timegm(time.strptime(kid, _KID_FORMAT)) if kid else math.nan
        return self._clock() - begin

    def get(self, kid: str) -> bytes | None:
        """Return the secret of `kid`, active or not yet, or None."""
        return self._keys.get(kid)

    def _active(self, keys: dict[str, bytes]) -> str | None:
        now = _kid(self._clock())
        return max((kid for kid in keys if kid <= now), default=None)

    def _replace(self, keys: dict[str, bytes]) -> bool:
        if keys == self._keys:
            return False
        self._keys = keys
        # Last: whoever sees the new generation must not meet an old key any more.
        self.generation += 1
        return True


def _kid(now: float) -> str:
    return time.strftime(_KID_FORMAT, time.gmtime(now))


def _names(directory: Path) -> set[str]:
    """Return the names of the key files. Raises `KeysError` when there is none."""
    try:
        names = {entry.name for entry in os.scandir(directory) if _is_key_file(entry)}
    except OSError as error:
        raise KeysError(f"cannot read the key directory {directory}: {error.strerror}") from None
    if not names:
        raise KeysError(f"no key in {directory}")
    return names


def _is_key_file(entry: os.DirEntry[str]) -> bool:
    if entry.name.startswith("."):
        return False
    try:
        return not stat.S_ISDIR(entry.stat().st_mode)
    except FileNotFoundError:  # removed meanwhile, or a link that a Secret's update left behind
        return False
    except OSError:
        return True  # reading it will tell what is wrong


def _read(directory: Path, names: set[str]) -> dict[str, bytes]:
    keys: dict[str, bytes] = {}
    for name in sorted(names):
        if not _is_kid(name):
            raise KeysError(
                f"key file {name!a} in {directory} is not named by its activation time in UTC,"
                " like 20261123T080000Z"
            )
        try:
            key = _content(directory / name)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise KeysError(f"cannot read key {name} in {directory}: {error.strerror}") from None
        weakness = _weakness(key)
        if weakness is not None:
            raise KeysError(f"key {name} in {directory} {weakness}")
        keys[name] = key
    return keys


def _is_kid(name: str) -> bool:
    try:
        return _kid(calendar.timegm(time.strptime(name, _KID_FORMAT))) == name
    except ValueError:
        return False


def _content(path: Path) -> bytes:
    # Without O_NONBLOCK, opening a pipe would hang the service.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(0, "not a regular file")
        content = file.read(MAX_BYTES + 1)
    return content if len(content) > MAX_BYTES else content.strip()


def _weakness(key: bytes) -> str | None:
    """Say why `key` is no secret for HS256 (RFC 7518 section 3.2), or None.

    Catches what people type and paste. Random bytes, as they are, in base64 or in hexadecimal
    (which has 16 distinct bytes at the most), pass but for less than one in a million.
    """
    if len(key) < MIN_BYTES:
        return f"is too short: {len(key)} bytes, at least {MIN_BYTES} are needed"
    if len(key) > MAX_BYTES:
        return f"is longer than {MAX_BYTES} bytes"
    if not _is_symmetric(key):
        return "is a PEM, SSH, certificate or JWK file, not a secret"
    if _WORDS.search(key):
        return "contains a dictionary word or a default"
    if _PHRASE.fullmatch(key):
        return "is a phrase, not random"
    fewest = 8 if _HEX_DIGITS.issuperset(key) else 16
    steps = Counter((after - before) % 256 for before, after in pairwise(key))
    if len(set(key)) < fewest or _repeats(key) or steps.most_common(1)[0][1] > len(key) // 2:
        return "is not random: too few distinct bytes, a repetition or a sequence"
    return None


def _is_symmetric(key: bytes) -> bool:
    if b"-----BEGIN" in key:
        return False
    try:
        HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(key)
    except InvalidKeyError:
        return False
    return True


def _repeats(key: bytes) -> bool:
    """Tell whether the key is one piece of at most half its length, over and over."""
    return any(key[period:] == key[:-period] for period in range(1, len(key) // 2 + 1))
