"""How fast a model comes from a hub on loopback into an empty cache, beside `curl` followed by `sha256sum`.

`python -m benchmarks.fetch [--rounds N] [--quick]` prints one JSON line. Both sides write the same file to the same
disk and know its SHA-256 at the end. `transfer` is the time of the bytes, their hash and the flush to the disk. `whole`
also includes the start of the fetch process, TLS's certificates and the hub's listing, which take the same time for any
size.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import anyio

from benchmarks.subject import GGUF, circumstances, cpu_count, model_path
from neuron_lib.config import SourceConfig
from neuron_lib.sources import ModelStore
from neuron_lib.types import LoadProgress, LoadStage, ModelSpec

REPOSITORY: Final = "bench/model"
ROUNDS: Final = 15
QUICK_ROUNDS: Final = 3


@contextmanager
def hub() -> Iterator[str]:
    """A hub in a process of its own. Yields its address."""
    command = [sys.executable, "-m", "tests.fakehub", f"{REPOSITORY}={model_path()}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                    yield found[0]
                    return
            raise SystemExit("the hub did not start")
        finally:
            process.terminate()


def fetch_by_curl(endpoint: str, folder: Path) -> float:
    """The seconds that curl and sha256sum take, one after the other."""
    target = folder / GGUF
    started_s = time.perf_counter()
    subprocess.run(["curl", "-sSfL", "-o", target, f"{endpoint}/{REPOSITORY}/resolve/main/{GGUF}"], check=True)  # noqa: S607 - whichever curl is installed
    subprocess.run(["sha256sum", target], check=True, stdout=subprocess.DEVNULL)  # noqa: S607 - as above
    return time.perf_counter() - started_s


def fetch_by_neuron(endpoint: str, folder: Path) -> tuple[float, float]:
    """The seconds that a `ModelStore` with an empty cache takes, for the transfer alone and in all."""
    source = SourceConfig(endpoint=endpoint, cache_dir=folder)
    store = ModelStore(sources={"huggingface": source}, environ=os.environ)
    seen_s: dict[LoadStage, float] = {}

    def note(progress: LoadProgress) -> None:
        seen_s.setdefault(progress.stage, time.perf_counter())

    anyio.run(lambda: store.fetch(ModelSpec(model_id=REPOSITORY, harness="llamacpp"), report=note))
    ended_s = time.perf_counter()
    return seen_s[LoadStage.VERIFYING] - seen_s[LoadStage.DOWNLOADING], ended_s - seen_s[LoadStage.RESOLVING]


def measure(rounds: int) -> dict[str, Any]:
    """Measure both sides in turns."""
    size = model_path().stat().st_size
    curl_s, transfer_s, whole_s = [], [], []
    with hub() as endpoint:
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as folder:
                curl_s.append(fetch_by_curl(endpoint, Path(folder)))
            with tempfile.TemporaryDirectory() as folder:
                transfer, whole = fetch_by_neuron(endpoint, Path(folder))
                transfer_s.append(transfer)
                whole_s.append(whole)
    result: dict[str, Any] = {"bench": "fetch", "rounds": rounds, "bytes": size}
    result["curl_sha256sum_mb_per_s"] = round(size / statistics.median(curl_s) / 1e6, 1)
    for name, seconds in (("transfer", transfer_s), ("whole", whole_s)):
        ratios = sorted(theirs / ours for theirs, ours in zip(curl_s, seconds, strict=True))
        result[f"{name}_mb_per_s"] = round(size / statistics.median(seconds) / 1e6, 1)
        result[f"{name}_ratio"] = [round(value, 3) for value in (ratios[0], statistics.median(ratios), ratios[-1])]
    return result


def main() -> None:
    """Print the circumstances and the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fetch", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--quick", action="store_const", dest="rounds", const=QUICK_ROUNDS, help="a short round")
    options = parser.parse_args()
    print(json.dumps(circumstances(cpu_count()) | measure(options.rounds)))


if __name__ == "__main__":
    main()
