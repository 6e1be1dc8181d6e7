"""Cells of its own for each sequence, or one pool for all: the cost of each, and the cost of moving a prefix.

`python -m benchmarks.kv_layout [--model FILE] [--threads N] [--rounds N] [--quick]` prints JSON lines of two kinds.
`kv_layout` has the tokens per second of decoding with so many sequences of so many tokens, and of reading into the last
of them, in both layouts, which are measured in turns. `kv_moves` has the milliseconds to copy, save and restore a
sequence of so many tokens, and those of libllama's own copy of a whole KV stream, which `Memory.copy` does not use.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from itertools import product
from pathlib import Path
from typing import Final, Literal

from benchmarks.subject import circumstances, cpu_count, model_path
from neuron_lib.llama.batch import Batch
from neuron_lib.llama.bindings import init_backend, lib, route_logs
from neuron_lib.llama.context import Context
from neuron_lib.llama.model import Model
from neuron_lib.types import ContextParams

N_BATCH: Final = 512
READ: Final = 256
"""The number of tokens whose reading is timed, at the end of the last sequence."""
SEQUENCES: Final = (1, 4, 8, 16)
LENGTHS: Final = (100, 500, 1000, 2000, 4000)
MOVED_N_CTX: Final = 4096
LAYOUTS: Final[tuple[Literal["per_sequence", "unified"], ...]] = ("per_sequence", "unified")


class Lab:
    """A context whose sequences are filled, timed and reset to their former length."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.memory = context.memory
        self._batch = Batch(N_BATCH)

    def read(self, seq_id: int, count: int) -> float:
        """Append so many tokens to a sequence. Returns the seconds that it took."""
        started = time.perf_counter()
        for first in range(0, count, N_BATCH):
            self._batch.clear()
            position = self.memory.length(seq_id)
            tokens = [1000 + n % 40_000 for n in range(position, position + min(N_BATCH, count - first))]
            self._batch.add(seq_id, tokens, position=position, wants_logits=0)
            self.context.decode(self._batch)
        return time.perf_counter() - started

    def step(self, seq_ids: range) -> float:
        """Decode one token of each sequence. Returns the seconds that it took."""
        self._batch.clear()
        for seq_id in seq_ids:
            self._batch.add(seq_id, [1000], position=self.memory.length(seq_id), wants_logits=1)
        started = time.perf_counter()
        self.context.decode(self._batch)
        return time.perf_counter() - started

    def fill(self, sequences: int, length: int) -> None:
        """Give each sequence its own cells with the same tokens. Only one sequence computes them."""
        self.read(0, length)
        state = self.memory.save(0)
        for seq_id in range(1, sequences):
            self.memory.restore(state, seq_id)

    def decode_s(self, sequences: int, length: int, steps: int) -> float:
        """Seconds of one decode step, the mean of `steps`."""
        seconds = sum(self.step(range(sequences)) for _ in range(steps))
        for seq_id in range(sequences):
            self.memory.truncate(seq_id, length)
        return seconds / steps

    def read_s(self, sequences: int, length: int) -> float:
        """Seconds to read one token of a prompt, the mean of the last `READ`."""
        count = min(READ, length)
        self.memory.truncate(sequences - 1, length - count)
        return self.read(sequences - 1, count) / count


def opened(stack: ExitStack, model: Model, *, seats: int, n_ctx: int, threads: int) -> Mapping[str, Lab]:
    """One lab for each layout, with the same number of cells."""
    return {
        layout: Lab(
            stack.enter_context(
                Context(
                    model,
                    ContextParams(n_ctx=n_ctx, n_batch=N_BATCH, n_ubatch=N_BATCH, threads=threads, kv_layout=layout),
                    seats=seats,
                )
            )
        )
        for layout in LAYOUTS
    }


def speeds(model: Model, *, sequences: int, length: int, threads: int, rounds: int, steps: int) -> dict[str, object]:
    """Medians of both layouts, and the median of each round's ratio of unified to per-sequence."""
    with ExitStack() as stack:
        labs = opened(stack, model, seats=sequences, n_ctx=length + steps, threads=threads)
        for lab in labs.values():
            lab.fill(sequences, length)
        decode: dict[str, list[float]] = {layout: [] for layout in labs}
        read: dict[str, list[float]] = {layout: [] for layout in labs}
        for _ in range(rounds):
            for layout, lab in labs.items():
                decode[layout].append(sequences / lab.decode_s(sequences, length, steps))
                read[layout].append(1 / lab.read_s(sequences, length))
    return {
        "decode_tok_s": {layout: round(statistics.median(values), 1) for layout, values in decode.items()},
        "prefill_tok_s": {layout: round(statistics.median(values), 1) for layout, values in read.items()},
        "decode_ratio": _median_ratio(decode),
        "prefill_ratio": _median_ratio(read),
    }


def _median_ratio(rounds: Mapping[str, list[float]]) -> float:
    pairs = zip(rounds["unified"], rounds["per_sequence"], strict=True)
    return round(statistics.median(unified / own for unified, own in pairs), 3)


def moves(model: Model, *, lengths: tuple[int, ...], threads: int, rounds: int) -> Iterator[dict[str, object]]:
    """Milliseconds of every way to move a sequence, one line for each length."""
    with ExitStack() as stack:
        labs = opened(stack, model, seats=3, n_ctx=MOVED_N_CTX, threads=threads)
        streams, pool = labs["per_sequence"], labs["unified"]
        for lab in labs.values():
            lab.read(2, 8)
        for length in lengths:
            for lab in labs.values():
                lab.read(0, length - lab.memory.length(0))
            state = streams.memory.save(0)
            yield {
                "tokens": length,
                "state_bytes": state.nbytes,
                "copy_per_sequence_ms": _median_ms(partial(streams.memory.copy, 0, 1, length), rounds),
                "copy_unified_ms": _median_ms(partial(pool.memory.copy, 0, 1, length), rounds),
                "save_ms": _median_ms(partial(streams.memory.save, 0), rounds),
                "restore_ms": _median_ms(partial(streams.memory.restore, state, 1), rounds),
                "whole_stream_ms": round(_whole_stream_ms(streams, rounds), 3),
            }


def _median_ms(act: Callable[[], object], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        act()
        times.append(time.perf_counter() - started)
    return round(statistics.median(times) * 1000, 3)


def _whole_stream_ms(lab: Lab, rounds: int) -> float:
    """How much longer a step takes that first copies KV stream 0 to KV stream 1, as llama_memory_seq_cp asked."""
    memory = lib.llama_get_memory(lab.context._pointer)
    plain, copying = [], []
    for _ in range(rounds):
        plain.append(lab.step(range(2, 3)))
        lib.llama_memory_seq_cp(memory, 0, 1, -1, -1)
        copying.append(lab.step(range(2, 3)))
        lab.memory.clear(1)
    return (statistics.median(copying) - statistics.median(plain)) * 1000


def main() -> None:
    """Measure everything with one loaded model, the smallest first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=model_path(), help="a GGUF file (default: the demo model)")
    parser.add_argument("--threads", type=int, default=cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="only prove that it works")
    options = parser.parse_args()
    sequences, lengths = ((1, 2), (20, 40)) if options.quick else (SEQUENCES, LENGTHS)
    rounds, steps = (1, 2) if options.quick else (options.rounds, 8)
    about = circumstances(options.threads) | {"model": options.model.name}
    route_logs(lambda _level, _text: None)
    init_backend()
    with Model(options.model, gpu_layers=-1, on_progress=lambda _fraction: True) as model:
        for line in moves(model, lengths=lengths, threads=options.threads, rounds=max(3, 2 * rounds)):
            print(json.dumps({"bench": "kv_moves", "n_ctx": MOVED_N_CTX} | line | about), flush=True)
        for count, length in product(sequences, lengths):
            measured = speeds(
                model, sequences=count, length=length, threads=options.threads, rounds=rounds, steps=steps
            )
            line = {"bench": "kv_layout", "sequences": count, "tokens": length} | measured
            print(json.dumps(line | about), flush=True)


if __name__ == "__main__":
    main()
