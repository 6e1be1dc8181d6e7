"""What one event of a streamed reply costs the daemon, from the engine's frame to the bytes on the client's socket.

    python -m benchmarks.daemon_cost [--streams 1 4 8 16] [--steps-per-s 0 100] [--rounds N] [--beside CHECKOUT]
    python -m benchmarks.daemon_cost --profile       # where the time goes, by function; the numbers are larger then

The daemon is the whole service in a process of its own. Its engine is `paced_engine`, which computes nothing and sends
one frame for each step, with one token for each stream: so many steps in a second, or (0) the next when the daemon has
read the one before. The clients are a third process.

Prints one JSON line for each number of streams, pace and checkout. `cpu_ms_per_event` is the CPU time of the daemon's
process alone, kernel included, for each event of a stream that the clients received: the shortest of all rounds, and
their median. With another checkout the two are measured in turns, so that a busy machine slows both alike.
"""

import argparse
import json
import os
import pstats
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final

from benchmarks.first_answer import free_port
from benchmarks.paced_engine import WARM_STEPS
from benchmarks.replies import parse_reply
from benchmarks.subject import circumstances, cpu_count

ROOT: Final = Path(__file__).parents[1]
STEPS: Final = 300
_LIMIT_S: Final = 60.0
_PAUSE_S: Final = 0.05
_HOPS: Final = 45
"""Functions that the profile shows."""


@contextmanager
def running(checkout: Path, *, profile: Path | None) -> Iterator[int]:
    """The port of a daemon of that checkout whose model is loaded."""
    with tempfile.TemporaryDirectory(prefix="neuron-bench-") as folder:
        port = free_port()
        command = [sys.executable, "-P", str(Path(__file__).with_name("paced_daemon.py")), "--port", str(port)]
        command += ["--config", f"{folder}/neuron.toml"]
        if profile is not None:
            command += ["--profile", str(profile)]
        environ = {**os.environ, "PYTHONPATH": str(checkout)}
        with subprocess.Popen(command, cwd="/", env=environ) as process:
            try:
                wait_loaded(port)
                yield port
            finally:
                process.terminate()
                process.wait(_LIMIT_S)


def wait_loaded(port: int) -> None:
    """Wait until the daemon at this port is ready. Ends the program if that takes longer than a minute."""
    deadline_s = time.monotonic() + _LIMIT_S
    while time.monotonic() < deadline_s:
        try:
            connection = HTTPConnection("127.0.0.1", port, timeout=_LIMIT_S)
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(_PAUSE_S)
    raise SystemExit("the daemon does not load its model")


def one_round(port: int, *, streams: int, steps: int, steps_per_s: float) -> dict[str, float]:
    """Let `streams` clients read one reply each. Returns milliseconds of the daemon for each event and each token, and
    how many tokens were in one event.
    """
    script = json.dumps({"streams": streams, "tokens": steps, "steps_per_s": steps_per_s})
    body = {"model": "bench/model", "stream": True, "messages": [{"role": "user", "content": script}]}
    job = json.dumps({"port": port, "streams": streams, "bodies": [json.dumps(body)] * streams})
    command = [sys.executable, "-m", "benchmarks.load_generator"]
    done = subprocess.run(command, check=True, input=job, capture_output=True, text=True, cwd=ROOT)
    replies = [
        parse_reply(sent_s, ((at_s, data.encode("latin-1")) for at_s, data in arrivals), max_tokens=steps)
        for sent_s, arrivals in json.loads(done.stdout)["logs"]
    ]
    cpu_s = max(float(reply.text.rpartition(" ")[2]) for reply in replies)
    per_token_ms = cpu_s * 1000 / streams / (steps - WARM_STEPS)
    tokens_per_event = steps * streams / sum(len(reply.arrivals_s) - 1 for reply in replies)
    return {
        "cpu_ms_per_event": per_token_ms * tokens_per_event,
        "cpu_ms_per_token": per_token_ms,
        "tokens_per_event": tokens_per_event,
    }


def measure(ports: Sequence[int], *, streams: int, steps_per_s: float, rounds: int, steps: int) -> list[dict[str, Any]]:
    """All rounds at all daemons, in turns. One result for each daemon."""
    seen: list[list[dict[str, float]]] = [[] for _ in ports]
    for _ in range(rounds):
        for index, port in enumerate(ports):
            seen[index].append(one_round(port, streams=streams, steps=steps, steps_per_s=steps_per_s))
    return [
        {
            "bench": "daemon_cost",
            "streams": streams,
            "steps_per_s": steps_per_s,
            "rounds": rounds,
            "cpu_ms_per_event": round(min(each["cpu_ms_per_event"] for each in results), 4),
            "cpu_ms_per_event_p50": round(statistics.median(each["cpu_ms_per_event"] for each in results), 4),
            "cpu_ms_per_token": round(min(each["cpu_ms_per_token"] for each in results), 4),
            "tokens_per_event": round(statistics.median(each["tokens_per_event"] for each in results), 2),
            "load_1_min": round(os.getloadavg()[0], 1),
        }
        for results in seen
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--steps-per-s", type=float, nargs="+", default=[0, 100], metavar="N")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--beside", type=Path, metavar="CHECKOUT", help="another checkout to compare with")
    parser.add_argument("--profile", action="store_true", help="also show where the time goes, by function")
    parser.add_argument("--quick", action="store_true", help="one short round, only to see that it works")
    options = parser.parse_args()
    checkouts = [ROOT] if options.beside is None else [ROOT, options.beside.resolve()]
    rounds, steps = (1, WARM_STEPS + 10) if options.quick else (options.rounds, STEPS)
    with tempfile.TemporaryDirectory(prefix="neuron-bench-") as folder:
        profiles = [Path(folder) / f"{index}" if options.profile else None for index, _ in enumerate(checkouts)]
        with ExitStack() as daemons:
            ports = [
                daemons.enter_context(running(checkout, profile=profile))
                for checkout, profile in zip(checkouts, profiles, strict=True)
            ]
            for streams in options.streams:
                for steps_per_s in options.steps_per_s:
                    results = measure(ports, streams=streams, steps_per_s=steps_per_s, rounds=rounds, steps=steps)
                    for checkout, result in zip(checkouts, results, strict=True):
                        subject = "here" if checkout == ROOT else "beside"
                        print(json.dumps({"subject": subject, **result, **circumstances(cpu_count())}), flush=True)
        for profile in filter(None, profiles):
            pstats.Stats(str(profile)).sort_stats("tottime").print_stats(_HOPS)


if __name__ == "__main__":
    main()
