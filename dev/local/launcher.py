"""A program that replaces itself by another, which then ends with its parent.

`dev.local.child_process` runs it by its path, so it imports only the standard library.
"""

import ctypes
import os
import pwd
import signal
import sys
from contextlib import suppress
from enum import StrEnum

# From <linux/prctl.h>, <linux/sched.h> and <linux/capability.h>.
PR_SET_PDEATHSIG = 1
PR_SET_SECUREBITS = 28
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
SECBIT_NO_SETUID_FIXUP = 4
CLONE_NEWUSER = 0x10000000
CAPABILITY_VERSION_3 = 0x20080522
CAP_DAC_OVERRIDE = 1


class ParentWatch(StrEnum):
    """How the program learns that its parent has ended; it then gets SIGINT."""

    SIGNAL = "signal"  # from the kernel; Linux only
    WATCHDOG = "watchdog"  # from a forked process that reads the parent's pipe until its end


def become(watch: ParentWatch, parent: int, data: str, command: list[str]) -> None:
    """Replace this interpreter by `command`, as a user that PostgreSQL accepts.

    It ends with the process `parent`. `data` is the data directory, whose owner root changes to.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    pid, uid, owner = os.getpid(), os.geteuid(), os.stat(data)
    if uid == 0 and owner.st_uid != 0:
        _drop_root(libc, owner.st_uid, owner.st_gid)
    elif sys.platform == "linux" and (uid == 0 or not _has_name(uid)):
        # In a user namespace without a map, every uid appears as nobody's. If that is not
        # permitted, `command` reports what is missing.
        libc.unshare(CLONE_NEWUSER)
    if watch is ParentWatch.SIGNAL:
        # After the change of user, which clears the setting.
        libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGINT), 0, 0, 0)
        if os.getppid() != parent:
            sys.exit("the parent process has already ended")
    elif os.fork() == 0:
        os.read(0, 1)
        if os.getppid() == pid:
            os.kill(pid, signal.SIGINT)
        os._exit(0)
    os.execv(command[0], command)  # noqa: S606, without a shell on purpose


def _drop_root(libc: ctypes.CDLL, uid: int, gid: int) -> None:
    """Change to `uid`, but keep CAP_DAC_OVERRIDE: only root may have access to the files."""
    # Otherwise setuid and access(2) would clear the capability.
    libc.prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0)
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3)
    mask = 1 << CAP_DAC_OVERRIDE
    libc.capset(
        header, (ctypes.c_uint32 * 6)(mask, mask, mask)
    )  # effective, permitted, inheritable
    # Otherwise exec would clear it.
    libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_OVERRIDE, 0, 0)


def _has_name(uid: int) -> bool:
    with suppress(KeyError):
        return bool(pwd.getpwuid(uid))
    return False


if __name__ == "__main__":
    become(ParentWatch(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:])
