"""Clocks that are wrong or that jump, simulated by libfaketime; monotonic time stays correct."""

import time
from pathlib import Path

from evidence.harness.postgres import postgres
from evidence.harness.services import Service, serving
from evidence.resilience.load import Stream, failures, loading, send_once, summarize
from evidence.resilience.scenario import NotRun, Scenario, Trial
from evidence.resilience.tenants import create_tenant
from service.identity.verification import LEEWAY_SECONDS

LIBRARIES = "usr/lib/*/faketime/libfaketimeMT.so.1"
TWO_HOURS_SECONDS = 7200
# The service checks the folder of its keys once a second.
KEYS_RELOADED_SECONDS = 1.2


def skewed_replica(trial: Trial) -> None:
    """Send tokens of a replica whose clock is wrong to one whose clock is right."""
    # A token that was issued two hours ago has expired.
    expected = {
        LEEWAY_SECONDS - 2: 200,
        LEEWAY_SECONDS + 2: 401,
        -(LEEWAY_SECONDS + 2): 200,
        -TWO_HOURS_SECONDS: 401,
    }
    with (
        postgres(trial.folder) as database,
        serving(trial.folder, database.app_url) as correct,
    ):
        for offset, status in expected.items():
            clock = Clock(trial.folder)
            clock.set(offset)
            skewed = Service(trial.folder, database.app_url, environment=clock.environment())
            try:
                skewed.start()
                # The skewed replica accepts its own token, or there would be no organization.
                tenant = create_tenant(skewed.port)
                actual = send_once(correct.port, tenant.list()).status
            finally:
                skewed.stop()
            trial.record(f"{offset:+} s: {actual}")
            trial.expect(actual == status, f"{offset:+} s: status {actual}, expected {status}")


def jumping_clock(trial: Trial) -> None:
    """Move the clock under load. Timeouts and pools must depend on monotonic time alone."""
    with postgres(trial.folder) as database:
        clock = Clock(trial.folder)
        clock.set(0)
        service = Service(trial.folder, database.app_url, environment=clock.environment())
        try:
            service.start()
            for offset in (TWO_HOURS_SECONDS, 0, -600, 0):
                clock.set(offset)
                time.sleep(KEYS_RELOADED_SECONDS)
                _load(trial, service, offset)
        finally:
            service.stop()


def _load(trial: Trial, service: Service, offset: int) -> None:
    tenant = create_tenant(service.port, f"At {offset}")
    with loading(service.port, Stream("read", lambda _: tenant.list(), 4, 0.01)) as load:
        time.sleep(1)
        responses = load.stop()
    failed = failures(responses)
    slowest = max(response.seconds for response in responses)
    trial.record(f"{offset:+} s: {len(failed)} failed of {len(responses):,}")
    trial.expect(not failed, f"{offset:+} s: failed: {summarize(failed)}")
    trial.expect(slowest < 1.5, f"{offset:+} s: a response took {slowest:.1f} s")
    trial.expect(service.ready() == 200, f"{offset:+} s: /ready is not 200")


class Clock:
    """A file with an offset, which libfaketime reads whenever a process reads the clock."""

    def __init__(self, folder: Path) -> None:
        libraries = sorted(Path("/").glob(LIBRARIES))
        if not libraries:
            raise NotRun("libfaketime is not installed (Debian: apt-get install faketime)")
        self._library, self._file = libraries[0], folder / "clock"

    def set(self, seconds: float) -> None:
        """Set the offset from the real time."""
        draft = self._file.with_suffix(".new")
        draft.write_text(f"{seconds:+}s\n")
        draft.rename(self._file)

    def environment(self) -> dict[str, str]:
        """Return the environment of a process that follows this clock."""
        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }


SCENARIOS = (
    Scenario(
        "skew",
        f"a replica's clock is ahead: its tokens are accepted up to {LEEWAY_SECONDS} s, no more",
        skewed_replica,
    ),
    Scenario(
        "clock",
        "the clock jumps 2 h ahead, back, 10 min behind, back: 0 failed, no request takes longer",
        jumping_clock,
    ),
)
