"""How soon after the start of its process a daemon answers `/health`, and how much CPU time it has used until then.

`python -m benchmarks.first_answer [--rounds N] [--beside CHECKOUT]` prints one JSON line per subject. The clock starts
just before the process is started. The first request is sent as soon as the port accepts it. With another checkout the
two are measured in turns, so that a busy machine slows both alike.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks.replies import percentile
from benchmarks.subject import circumstances, cpu_count

ROOT: Final = Path(__file__).parents[1]
_LIMIT_S: Final = 60.0
_PAUSE_S: Final = 0.001
_REQUEST: Final = b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"


def free_port() -> int:
    """A port on which no program listens now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def is_answered(port: int) -> bool:
    """Whether a daemon at this port answers. Waits for the answer once the port accepts."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=_LIMIT_S) as client:
            client.sendall(_REQUEST)
            return client.recv(1024).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def first_answer(checkout: Path) -> tuple[float, float]:
    """Seconds until the first answer of a daemon of that checkout, and CPU seconds that its process used until then."""
    port = free_port()
    command = [sys.executable, "-m", "neuron_service", "serve", "--port", str(port), "--log-level", "error"]
    environ = {**os.environ, "PYTHONPATH": str(checkout)}
    started = time.perf_counter()
    with subprocess.Popen(command, cwd="/", env=environ, stdout=subprocess.DEVNULL) as process:
        try:
            while not is_answered(port):
                if process.poll() is not None or time.perf_counter() - started > _LIMIT_S:
                    raise SystemExit(f"the daemon of {checkout} does not answer")
                time.sleep(_PAUSE_S)
            elapsed_s = time.perf_counter() - started
            used = psutil.Process(process.pid).cpu_times()
        finally:
            process.terminate()
            process.wait(_LIMIT_S)
    return elapsed_s, used.user + used.system


def measure(checkouts: Sequence[Path], *, rounds: int) -> list[dict[str, Any]]:
    """All rounds of all checkouts, in turns. One result for each checkout."""
    seen: list[list[tuple[float, float]]] = [[] for _ in checkouts]
    for _ in range(rounds):
        for index, checkout in enumerate(checkouts):
            seen[index].append(first_answer(checkout))
    return [
        {
            "bench": "first_answer",
            "subject": "here" if checkout == ROOT else "beside",
            "rounds": rounds,
            "unit": "ms",
            "wall_p50": round(percentile([wall for wall, _ in answers], 0.5) * 1000),
            "wall_min": round(min(wall for wall, _ in answers) * 1000),
            "cpu_p50": round(percentile([cpu for _, cpu in answers], 0.5) * 1000),
            "load_1_min": round(os.getloadavg()[0], 1),
        }
        for checkout, answers in zip(checkouts, seen, strict=True)
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.first_answer", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--beside", type=Path, metavar="CHECKOUT", help="another checkout to compare with")
    parser.add_argument("--quick", action="store_true", help="one round, only to see that it works")
    options = parser.parse_args()
    checkouts = [ROOT] if options.beside is None else [ROOT, options.beside.resolve()]
    for result in measure(checkouts, rounds=1 if options.quick else options.rounds):
        print(json.dumps({**result, **circumstances(cpu_count())}))


if __name__ == "__main__":
    main()
