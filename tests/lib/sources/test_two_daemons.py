"""Two daemons on one cache: one verifies a file, and the other waits for that as long as the first one shows life."""

import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from neuron_lib.errors import SourceUnavailable
from neuron_lib.sources.fetch_protocol import Fetched, FetchOrder, Frame
from neuron_lib.sources.fetch_worker import fetch
from neuron_lib.sources.hub_cache import lock_path, repository_folder
from neuron_lib.sources.repository import Listing, RepoFile
from tests.fakes.model_cache import COMMIT, known_file, order_for, put, repository_in
from tests.patience import PATIENCE_S

MODEL = b"weights"
FILE = known_file(MODEL)
STEP_S = 40.0
"""Between two looks. The other daemon gives up after 60 s without progress."""


class VerifyingDaemon:
    """Holds the lock of the file during so many `looks` of the other, 40 s apart, and may give a sign before each."""

    def __init__(self, lock: Path, *, looks: int, gives_signs: bool) -> None:
        lock.parent.mkdir(parents=True, exist_ok=True)
        self._lock = lock
        self._file = lock.open("ab")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self._looks_left = looks
        self.now_s = 0.0
        self._gives_signs = gives_signs
        self._signs = count(1)
        self._was_noticed = threading.Semaphore(0)

    def pause(self, _seconds: float) -> None:
        """The waiting daemon has looked at the lock."""
        self._was_noticed.release()

    def emit(self, _frame: Frame) -> None:
        """The waiting daemon reports; then it looks at the rate."""
        if self._looks_left > 0:
            if self._gives_signs:
                os.utime(self._lock, ns=(0, 10**18 + next(self._signs)))
            while self._was_noticed.acquire(blocking=False):
                pass
            for _ in range(2):  # the first look may have begun before the sign
                assert self._was_noticed.acquire(timeout=PATIENCE_S)
        self._looks_left -= 1
        if self._looks_left <= 0:
            self._file.close()
        else:
            self.now_s += STEP_S

    def end(self) -> None:
        self._looks_left = 0
        self._file.close()


Start = Callable[[int, bool], VerifyingDaemon]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Begin to verify in another daemon: for how many looks, and whether with signs. Time passes only meanwhile."""
    monkeypatch.setattr("neuron_lib.sources.fetch_worker._REPORT_INTERVAL_S", 0)
    started: list[VerifyingDaemon] = []

    def begin(looks: int, gives_signs: bool) -> VerifyingDaemon:  # noqa: FBT001 - a test names it by its constant
        lock = lock_path(repository_folder(repository_in(tmp_path)), FILE.blob)
        started.append(VerifyingDaemon(lock, looks=looks, gives_signs=gives_signs))
        monkeypatch.setattr("neuron_lib.sources.fetch_worker.time.monotonic", lambda: started[-1].now_s)
        return started[-1]

    yield begin
    for daemon in started:
        daemon.end()


def verify_as_second(cache: Path, first: VerifyingDaemon) -> Fetched:
    return fetch(order(cache), first.emit, pause=first.pause)


def order(cache: Path) -> FetchOrder:
    put(cache, {"m.gguf": MODEL}, is_hashed=False)
    listing = Listing(COMMIT, (RepoFile("m.gguf", FILE.size, FILE.sha256),))
    return order_for(repository_in(cache), listing=listing)


WITH_SIGNS, WITHOUT_SIGNS = True, False


def test_a_daemon_that_verifies_for_minutes_is_waited_for_as_long_as_it_shows_progress(
    start: Start, tmp_path: Path
) -> None:
    assert verify_as_second(tmp_path, start(12, WITH_SIGNS)).commit == COMMIT


def test_a_daemon_that_hangs_with_the_lock_is_given_up(start: Start, tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailable, match="another process is fetching the same file"):
        verify_as_second(tmp_path, start(12, WITHOUT_SIGNS))
