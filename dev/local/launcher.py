"""A program that turns into another, as a user who may run it and ending with its parent.

`dev.local.embedded` runs it by its path, as a script of its own: it imports nothing of ours.
"""

import ctypes
import os
import pwd
import signal
import sys
from contextlib import suppress


def become(ends_by: str, parent: int, data: str, command: list[str]) -> None:
    """Turn this interpreter into `command`, as a user who may run it, and to end with `parent`."""
    libc = ctypes.CDLL(None, use_errno=True)
    me, uid, owner = os.getpid(), os.geteuid(), os.stat(data)
    if uid == 0 and owner.st_uid != 0:
        _leave_root(libc, owner.st_uid, owner.st_gid)
    elif sys.platform == "linux" and (uid == 0 or not _has_name(uid)):
        # In a user namespace without a map every uid appears as nobody's. Where that is not
        # permitted, `command` itself says what it misses.
        libc.unshare(0x10000000)  # CLONE_NEWUSER
    if ends_by == "signal":
        libc.prctl(1, int(signal.SIGINT), 0, 0, 0)  # PR_SET_PDEATHSIG; a change of user undoes it
        if os.getppid() != parent:
            sys.exit("the parent had ended")
    elif os.fork() == 0:  # the watchdog
        os.read(0, 1)
        if os.getppid() == me:
            os.kill(me, signal.SIGINT)
        os._exit(0)
    os.execv(command[0], command)  # noqa: S606, no shell is meant


def _leave_root(libc: ctypes.CDLL, uid: int, gid: int) -> None:
    """Become `uid`, but keep CAP_DAC_OVERRIDE: the files may lie where only root may enter."""
    libc.prctl(28, 4, 0, 0, 0)  # PR_SET_SECUREBITS, no fixup: setuid and access(2) leave it alone
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    header, sets = (ctypes.c_uint32 * 2)(0x20080522), (ctypes.c_uint32 * 6)(2, 2, 2)
    libc.capset(header, sets)  # effective, permitted, inheritable
    libc.prctl(47, 2, 1, 0, 0)  # PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE: else it ends at exec


def _has_name(uid: int) -> bool:
    with suppress(KeyError):
        return bool(pwd.getpwuid(uid))
    return False


if __name__ == "__main__":
    become(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4:])
