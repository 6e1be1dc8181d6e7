"""How long a command that asks a service takes from its start to its end, beside a Python that does nothing.

`python -m benchmarks.command_start [--rounds N]` prints one JSON line per command. The service is a program of a few
lines that answers at once, so that only the command is measured. All commands are measured in turns.
"""

import argparse
import json
import os
import pty
import resource
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from threading import Thread
from typing import Any, Final

from benchmarks.replies import percentile
from benchmarks.subject import circumstances, cpu_count

ROOT: Final = Path(__file__).parents[1]
_LIMIT_S: Final = 60.0
_ANSWERS: Final[dict[str, Any]] = {
    "/health": {
        "models": [{"id": "acme/assistant", "in_flight": 0, "queue_depth": 0}],
        "activation": {"pending": [], "failed": []},
    },
    "/models": [{"id": "acme/assistant", "status": "loaded"}],
}
COMMANDS: Final[dict[str, tuple[str, ...]]] = {
    "python -c pass": ("-c", "pass"),
    "neuron --help": ("-m", "neuron_service", "--help"),
    "neuron ps": ("-m", "neuron_service", "ps"),
    "neuron ps --json": ("-m", "neuron_service", "ps", "--json"),
}


class _Service(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps(_ANSWERS[self.path]).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def address_string(self) -> str:
        """A client of a Unix socket has no address."""
        return ""


@contextmanager
def service() -> Iterator[str]:
    """A service that answers at once. Yields its address."""
    with tempfile.TemporaryDirectory(prefix="neuron-bench-") as folder:
        path = f"{folder}/socket"
        with ThreadingUnixStreamServer(path, _Service) as server:
            thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            try:
                yield f"unix:{path}"
            finally:
                server.shutdown()
                thread.join()


def run_once(arguments: tuple[str, ...], host: str, *, on_terminal: bool) -> tuple[float, float]:
    """Seconds from the start of a command to its end, and the CPU seconds that it used."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "NEURON_HOST": host}
    master, slave = pty.openpty()
    with closing(os.fdopen(master, "rb", 0)), os.fdopen(slave, "wb", 0) as terminal:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        started = time.perf_counter()
        stdout = terminal if on_terminal else subprocess.DEVNULL
        with subprocess.Popen([sys.executable, *arguments], cwd="/", env=environ, stdout=stdout) as process:
            # A wait with a limit of `subprocess` looks every 50 ms at the most, which is too rarely here.
            with os.fdopen(os.pidfd_open(process.pid)) as end:
                ended, _, _ = select.select([end], [], [], _LIMIT_S)
            if not ended or process.wait() != 0:
                process.kill()
                raise SystemExit(f"{arguments} did not end well")
        elapsed_s = time.perf_counter() - started
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return elapsed_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(*, rounds: int) -> list[dict[str, Any]]:
    """All rounds of all commands, in turns. One result for each command."""
    subjects = [*((name, each, False) for name, each in COMMANDS.items()), ("neuron ps", COMMANDS["neuron ps"], True)]
    seen: list[list[tuple[float, float]]] = [[] for _ in subjects]
    with service() as host:
        for _ in range(rounds):
            for index, (_, arguments, on_terminal) in enumerate(subjects):
                seen[index].append(run_once(arguments, host, on_terminal=on_terminal))
    return [
        {
            "bench": "command_start",
            "subject": name,
            "terminal": on_terminal,
            "rounds": rounds,
            "unit": "ms",
            "wall_p50": round(percentile([wall for wall, _ in runs], 0.5) * 1000),
            "wall_min": round(min(wall for wall, _ in runs) * 1000),
            "cpu_p50": round(percentile([cpu for _, cpu in runs], 0.5) * 1000),
            "load_1_min": round(os.getloadavg()[0], 1),
        }
        for (name, _, on_terminal), runs in zip(subjects, seen, strict=True)
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.command_start", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="one round, only to see that it works")
    options = parser.parse_args()
    for result in measure(rounds=1 if options.quick else options.rounds):
        print(json.dumps({**result, **circumstances(cpu_count())}))


if __name__ == "__main__":
    main()
