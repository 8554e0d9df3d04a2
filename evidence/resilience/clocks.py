"""Clocks that are wrong, or are set while the service runs: libfaketime, but for monotonic time."""

import time
from pathlib import Path

from evidence.harness.postgres import postgres
from evidence.harness.services import Service, serving
from evidence.resilience.load import Stream, failed, loading, once, told
from evidence.resilience.scenario import NotRun, Scenario, Trial
from evidence.resilience.tenants import tenant
from service.identity.tokens import LEEWAY_SECONDS

LIBRARIES = "/usr/lib/*/faketime/libfaketimeMT.so.1"
HOURS = 7200


def skewed(trial: Trial) -> None:
    """A token of a replica whose clock is ahead or behind, at one whose clock is right."""
    # A token issued two hours ago has expired.
    expected = {
        LEEWAY_SECONDS - 2: 200,
        LEEWAY_SECONDS + 2: 401,
        -(LEEWAY_SECONDS + 2): 200,
        -HOURS: 401,
    }
    with (
        postgres(trial.folder) as database,
        serving(trial.folder, database.app_url) as right,
    ):
        for seconds, status in expected.items():
            clock = Clock(trial.folder)
            clock.set(seconds)
            wrong = Service(trial.folder, database.app_url, environment=clock.settings())
            try:
                wrong.start()
                # Its own token it takes, or there would be no organization.
                answered = once(right.port, tenant(wrong.port).list()).status
            finally:
                wrong.stop()
            trial.note(f"{seconds:+} s: {answered}")
            trial.demand(answered == status, f"{seconds:+} s: {answered}, not {status}")


def set_while_running(trial: Trial) -> None:
    """The clock jumps two hours ahead and back under load; timeouts and pools must not care."""
    with postgres(trial.folder) as database:
        clock = Clock(trial.folder)
        clock.set(0)
        service = Service(trial.folder, database.app_url, environment=clock.settings())
        try:
            service.start()
            for jump in (HOURS, 0, -600, 0):
                clock.set(jump)
                time.sleep(1.2)  # the keys are looked at each second
                acme = tenant(service.port, f"At {jump}")
                read = Stream("read", lambda _, a=acme: a.list(), 4, 0.01)  # type: ignore[misc]
                with loading(service.port, read) as load:
                    time.sleep(1)
                    replies = load.stop()
                slowest = max(reply.seconds for reply in replies)
                trial.note(f"{jump:+} s: {len(failed(replies))} failed of {len(replies):,}")
                trial.demand(not failed(replies), f"{jump:+} s: {told(failed(replies))}")
                trial.demand(slowest < 1.5, f"{jump:+} s: an answer took {slowest:.1f} s")
                trial.demand(service.ready() == 200, f"{jump:+} s: /ready is not 200")
        finally:
            service.stop()


class Clock:
    """A file that libfaketime reads the offset of a process from, at each look at the clock."""

    def __init__(self, folder: Path) -> None:
        libraries = sorted(Path("/").glob(LIBRARIES.removeprefix("/")))
        if not libraries:
            raise NotRun("libfaketime is not installed (Debian: apt-get install faketime)")
        self._library, self._file = libraries[0], folder / "clock"

    def set(self, seconds: float) -> None:
        draft = self._file.with_suffix(".new")
        draft.write_text(f"{seconds:+}s\n")
        draft.rename(self._file)

    def settings(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }


SCENARIOS = (
    Scenario(
        "skew",
        f"a token of a replica whose clock is ahead is taken up to {LEEWAY_SECONDS} s, and no more",
        skewed,
    ),
    Scenario(
        "clock",
        "the clock is set 2 h ahead, back, 10 min behind, back: 0 failed, no wait is longer",
        set_while_running,
    ),
)
