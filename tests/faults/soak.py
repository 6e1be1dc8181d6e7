"""`python -m tests.faults.soak`: twenty minutes of mixed traffic and faults, the promises checked at the end, a report.

Eight clients chat, streamed and whole; some hang up, some send nonsense. Once a minute the engine of the real model is
killed, each half minute another model comes or goes, a gateway polls throughout.
"""

import argparse
import os
import random
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread

from tests.faults.exchanges import Ending, Exchange, Outcome
from tests.faults.footprint import anonymous_bytes, slope
from tests.faults.invariants import check_end, check_invariants
from tests.faults.rig import config, running_rig
from tests.faults.subject import KEY, REAL, SECRET, TINY, Rig
from tests.system.daemon import chat, eventually

CLIENTS = 8
HANG_UPS, NONSENSE = 0.2, 0.1
KILL_PERIOD_S = 60
CHANGE_PERIOD_S = 30
READING_PERIOD_S = 5
ENDS = (signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT)


@dataclass(slots=True)
class Report:
    """What happened. Each list has one writer."""

    endings: Counter[str] = field(default_factory=Counter)
    broken: list[Outcome] = field(default_factory=list)
    idle_recovery_s: float = 0.0
    recoveries_s: list[float] = field(default_factory=list)
    given_up: int = 0
    changes: int = 0
    anonymous: list[int] = field(default_factory=list)

    def text(self, rig: Rig, *, minutes: float) -> str:
        waits_s = sorted(rig.gateway.waits_s)
        rate = slope(self.anonymous[len(self.anonymous) // 2 :]) * 60 / READING_PERIOD_S
        recoveries = ", ".join(f"{seconds:.2f}" for seconds in self.recoveries_s) or "none"
        lines = {
            "minutes": f"{minutes:g}",
            "requests": f"{self.endings.total()}: " + ", ".join(f"{n} {e}" for e, n in self.endings.most_common()),
            "polls": f"{len(waits_s)}, {len(rig.gateway.misses)} missed; "
            f"p99 {waits_s[len(waits_s) * 99 // 100] * 1000:.0f} ms, slowest {waits_s[-1] * 1000:.0f} ms",
            "engines killed": f"{len(self.recoveries_s)}, of which {self.given_up} times the model was given up and "
            "loaded again by hand",
            "seconds until the model was back": f"{recoveries}; median "
            f"{statistics.median(self.recoveries_s or [0]):.2f}; before the traffic {self.idle_recovery_s:.2f}, "
            "with an answer",
            "loads and unloads": f"{self.changes}",
            "memory of the daemon": f"{self.anonymous[0] >> 20} MiB at first, {self.anonymous[-1] >> 20} MiB at last, "
            f"{rate / 1000:+.1f} kB a minute over the second half",
        }
        return "".join(f"{name}: {value}\n" for name, value in lines.items())


class Client:
    """Asks one thing after another until it is `over`."""

    def __init__(self, rig: Rig, *, seed: int) -> None:
        self._rig = rig
        self._random = random.Random(seed)  # noqa: S311 - the same traffic each time
        self.endings: Counter[str] = Counter()
        self.broken: list[Outcome] = []

    def run(self, over: Event) -> None:
        while not over.is_set():
            outcome = self._ask()
            self.endings[str(outcome.ending)] += 1
            if outcome.ending is Ending.BROKEN:
                self.broken.append(outcome)

    def _ask(self) -> Outcome:
        luck, model = self._random.random(), self._random.choice((REAL, REAL, TINY))
        body = chat(
            model,
            stream=self._random.random() < 0.5,
            max_tokens=self._random.randint(1, 64),
            content=f"{SECRET} {self._random.randint(0, 1 << 30)} Tell me a story."
            + " word" * self._random.randint(0, 60),
        )
        if luck < NONSENSE:
            body |= self._random.choice(
                ({"messages": []}, {"temperature": -1}, {"model": "no/such"}, {"max_tokens": "x"})
            )
        exchange = Exchange(self._rig.daemon.port, body, headers={"authorization": f"Bearer {KEY}"})
        if NONSENSE <= luck < NONSENSE + HANG_UPS:
            exchange.has_text.wait(self._random.random())
            exchange.hang_up()
        return exchange.outcome()


def measure_recovery(rig: Rig) -> float:
    """Seconds from the death of an idle engine to the end of the first answer of the next one."""
    engine = rig.engine_of(REAL)
    started_s = time.monotonic()
    os.kill(engine, signal.SIGKILL)
    rig.wait_recovered(REAL, dead=engine)
    assert rig.answer(REAL, max_tokens=1).ending is Ending.COMPLETE
    return time.monotonic() - started_s


def kill_engines(rig: Rig, report: Report, over: Event) -> None:
    """Once a minute, and see how long the model is away. One that was given up is loaded again."""
    ends = cycle(ENDS)
    while not over.wait(KILL_PERIOD_S):
        engine = rig.engine_of(REAL)
        started_s = time.monotonic()
        os.kill(engine, next(ends))
        eventually(lambda engine=engine: REAL not in rig.models() or rig.has_recovered(REAL, dead=engine))  # type: ignore[misc]  # bound now
        if REAL not in rig.models():
            report.given_up += 1
            assert rig.load(REAL).is_success
        report.recoveries_s.append(time.monotonic() - started_s)


def change_models(rig: Rig, report: Report, over: Event) -> None:
    """Each half minute the other model comes, or goes under its requests."""
    while not over.wait(CHANGE_PERIOD_S):
        reply = rig.unload(TINY) if TINY in rig.models() else rig.load(TINY)
        assert reply.is_success, reply.text
        report.changes += 1


def read_memory(rig: Rig, report: Report, over: Event) -> None:
    while not over.wait(READING_PERIOD_S):
        report.anonymous.append(anonymous_bytes(rig.pid))


@contextmanager
def beside(work: Callable[[], None]) -> Iterator[None]:
    """Do it in a thread, and raise here what went wrong there."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised below
            failures.append(error)

    thread = Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if failures:
        raise failures[0]


def soak(rig: Rig, *, minutes: float) -> Report:
    """The traffic and the faults; returns what happened."""
    report, over = Report(), Event()
    clients = [Client(rig, seed=number) for number in range(CLIENTS)]
    with ExitStack() as held:
        for act in (kill_engines, change_models, read_memory):
            held.enter_context(beside(lambda act=act: act(rig, report, over)))  # type: ignore[misc]  # bound now
        for client in clients:
            held.enter_context(beside(lambda client=client: client.run(over)))  # type: ignore[misc]  # bound now
        held.callback(over.set)
        over.wait(minutes * 60)
    for client in clients:
        report.endings += client.endings
        report.broken += client.broken
    return report


def main() -> None:
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    minutes = parser.parse_args().minutes
    with TemporaryDirectory() as place:
        folder = Path(place)
        with running_rig(folder, config(folder, REAL, TINY)) as rig:
            idle_recovery_s = measure_recovery(rig)
            report = soak(rig, minutes=minutes)
            report.idle_recovery_s = idle_recovery_s
            sys.stdout.write(report.text(rig, minutes=minutes))
            sys.stdout.flush()
            assert not report.broken, f"I3: {report.broken[0]}"
            if TINY not in rig.models():
                assert rig.load(TINY).is_success
            check_invariants(rig)
            check_end(rig)
    sys.stdout.write("every promise was kept\n")


if __name__ == "__main__":
    main()
