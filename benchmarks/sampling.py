"""The cost of choosing a token, for every mix of options, on rows of several shapes and sizes.

`python -m benchmarks.sampling [--quick]` prints one JSON line for each shape and mix. Times are milliseconds for one
token: the median, and the shortest, which is the better number on a busy machine.
"""

import argparse
import json
import statistics
import time
from typing import Any, Final

import numpy as np

from benchmarks.subject import circumstances
from neuron_lib.sampling.filters import Scores
from neuron_lib.sampling.sampler import SamplerChain
from neuron_lib.types import Sampling

SIZES: Final = (49_152, 262_144)
PROMPT: Final = tuple(range(1000, 1500))
MIXES: Final[dict[str, dict[str, Any]]] = {
    "greedy": {"temperature": 0.0},
    "greedy, penalties": {"temperature": 0.0, "repetition_penalty": 1.1, "repeat_last_n": 64},
    "temperature": {},
    "top_k": {"top_k": 40},
    "top_k, top_p": {"top_k": 40, "top_p": 0.95},
    "top_k, top_p, min_p, penalties": {
        "top_k": 40,
        "top_p": 0.95,
        "min_p": 0.05,
        "repetition_penalty": 1.1,
        "repeat_last_n": 64,
    },
    "top_p": {"top_p": 0.95},
    "top_p at temperature 1": {"top_p": 0.95, "temperature": 1.0},
    "top_p 0.5": {"top_p": 0.5},
    "top_p, min_p": {"top_p": 0.95, "min_p": 0.05},
    "min_p": {"min_p": 0.05},
    "typical_p": {"typical_p": 0.95},
    "typical_p, top_p": {"typical_p": 0.95, "top_p": 0.95},
    "top_n_sigma": {"top_n_sigma": 1.0},
    "min_p, xtc": {"min_p": 0.02, "xtc_probability": 0.5},
    "top_p, xtc": {"top_p": 0.95, "xtc_probability": 0.5},
    "dry": {"dry_multiplier": 0.8, "top_k": 40},
    "top_k 5 of log-probabilities": {"top_k": 40},
}


class Letters:
    """A vocabulary whose tokens have one letter and never end a reply."""

    eog = frozenset[int]()

    def text(self, token: int) -> bytes:  # noqa: ARG002 - every token has the same text
        return b"x"

    def tokens_containing(self, text: str) -> frozenset[int]:  # noqa: ARG002 - no token breaks a repetition
        return frozenset()


def rows(size: int) -> dict[str, Scores]:
    """Rows like those of a model, with sure and unsure choices, and rows that no model makes."""
    random = np.random.default_rng(1)
    bulk = random.normal(0, 2.5, size).astype(np.float32)
    peaked, spread = bulk.copy(), bulk.copy()
    peaked[random.integers(0, size, 30)] = random.normal(20, 3, 30)
    spread[random.integers(0, size, 3000)] = random.normal(16, 2, 3000)
    return {
        "peaked": peaked,
        "spread": spread,
        "flat": random.normal(0, 0.5, size).astype(np.float32),
        "equal": np.zeros(size, np.float32),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only prove that it works")
    options = parser.parse_args()
    tokens = 3 if options.quick else 150
    for size in SIZES:
        for shape, row in rows(size).items():
            for name, mix in MIXES.items():
                sampling = Sampling(**{"temperature": 0.8, "seed": 1} | mix)
                top_logprobs = 5 if name.endswith("log-probabilities") else None
                chain = SamplerChain(sampling, history=PROMPT, vocab=Letters(), top_logprobs=top_logprobs)
                times_s = []
                for _ in range(tokens):
                    started_s = time.perf_counter()
                    chain.sample(row)
                    times_s.append(time.perf_counter() - started_s)
                line = {
                    "bench": "sampling",
                    "vocabulary": size,
                    "row": shape,
                    "mix": name,
                    "median_ms": round(statistics.median(times_s) * 1000, 3),
                    "shortest_ms": round(min(times_s) * 1000, 3),
                }
                print(json.dumps(line | circumstances(1)), flush=True)


if __name__ == "__main__":
    main()
