"""The cost of the engine in addition to libllama: its loop beside the shortest possible loop, over the same context.

`python -m benchmarks.step_overhead [--model FILE] [--threads N] [--quick]` prints one JSON line for each number of
sequences and each kind of sampling. `outside_decode_ms` is the time of a step outside `llama_decode`, which is this
project's own cost. `ratio` compares whole steps and is as noisy as the machine.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.subject import circumstances, cpu_count, model_path
from neuron_lib.engine.cells import StreamCells
from neuron_lib.engine.line import Request
from neuron_lib.engine.loop import EngineLoop
from neuron_lib.engine.prompt_cache import PromptCache
from neuron_lib.engine.protocol import Began, Cancelled, StepEvents, encode_frame
from neuron_lib.engine.runner import LlamaRunner
from neuron_lib.engine.scheduler import Scheduler
from neuron_lib.engine.sequence import Sequence
from neuron_lib.engine.step_costs import StepCosts
from neuron_lib.llama.batch import Batch
from neuron_lib.llama.bindings import init_backend, route_logs
from neuron_lib.llama.context import Context, DecodeStatus
from neuron_lib.llama.model import Model
from neuron_lib.sampling.sampler import SamplerChain
from neuron_lib.types import ContextParams, Sampling

SEATS: Final = 8
N_CTX: Final = 1024
N_BATCH: Final = 512
PROMPT: Final = "<|im_start|>user\nWrite a long story about a fox.<|im_end|>\n<|im_start|>assistant\n"
SAMPLINGS: Final = {
    "greedy": Sampling(temperature=0, seed=1),
    "default": Sampling(temperature=0.7, seed=1, repetition_penalty=1.1, repeat_last_n=64),
    "top_k_p": Sampling(temperature=0.7, seed=1, top_k=40, top_p=0.95),
}


class TimedContext(Context):
    """Adds up the seconds in `llama_decode`."""

    decode_s = 0.0

    def decode(self, batch: Batch) -> DecodeStatus:
        started = time.perf_counter()
        status = super().decode(batch)
        self.decode_s += time.perf_counter() - started
        return status


def bare_steps(context: Context, prompt: list[int], *, sequences: int) -> Iterator[None]:
    """Greedy decoding with nothing around it. One step for each `next`. The first step reads the prompts."""
    batch = Batch(N_BATCH)
    for seq_id in range(sequences):
        context.memory.clear(seq_id)
    rows = [batch.add(seq_id, prompt, position=0, wants_logits=True) for seq_id in range(sequences)]
    position = len(prompt)
    while True:
        context.decode(batch)
        last = [int(context.logits(row).argmax()) for row in rows]
        batch.clear()
        rows = [batch.add(seq_id, [last[seq_id]], position=position, wants_logits=True) for seq_id in range(sequences)]
        position += 1
        yield


def engine_steps(
    context: Context, model: Model, prompt: list[int], *, sequences: int, sampling: Sampling
) -> Iterator[None]:
    """The engine's own loop, up to the bytes of its frames. One step for each `next`."""
    cells, costs = StreamCells(SEATS, context.n_ctx), StepCosts(target_step_s=0.1)
    cache = PromptCache(
        seats=SEATS, cells=cells, costs=costs, is_enabled=False
    )  # all prompts are read in the first step
    scheduler = Scheduler(cache=cache, cells=cells, costs=costs, n_batch=context.n_batch, n_ctx=context.n_ctx)

    def report(report: StepEvents | Began | Cancelled) -> None:
        encode_frame(report)

    loop = EngineLoop(scheduler, LlamaRunner(context, model.vocab), report=report)
    for seq_id in range(sequences):
        context.memory.clear(seq_id)
        sampler = SamplerChain(sampling, history=prompt, vocab=model.vocab)
        sequence = Sequence(request=seq_id, prompt=prompt, max_tokens=N_CTX, sampler=sampler)
        scheduler.submit(Request(seq_id, (sequence,)))
    while True:
        loop.step()
        yield


def measure(context: TimedContext, steps: Iterator[None], count: int) -> tuple[float, float]:
    """Milliseconds of a step, and those of them outside `llama_decode`. The prompts are read before."""
    next(steps)
    context.decode_s = 0.0
    started = time.perf_counter()
    for _ in range(count):
        next(steps)
    whole_s = time.perf_counter() - started
    return whole_s / count * 1000, (whole_s - context.decode_s) / count * 1000


@contextmanager
def opened(path: Path, *, threads: int) -> Iterator[tuple[Model, TimedContext]]:
    """The model and a context that measures its time."""
    route_logs(lambda _level, _text: None)
    init_backend()
    with (
        Model(path, gpu_layers=-1, on_progress=lambda _fraction: True) as model,
        TimedContext(
            model, ContextParams(n_ctx=N_CTX, n_batch=N_BATCH, n_ubatch=N_BATCH, threads=threads), seats=SEATS
        ) as context,
    ):
        context.warm_up(model.vocab)
        yield model, context


def main() -> None:
    """Run the two loops in turns, so that both meet the same conditions, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=model_path(), help="a GGUF file (default: the demo model)")
    parser.add_argument("--threads", type=int, default=cpu_count())
    parser.add_argument("--quick", action="store_true", help="only prove that it works")
    options = parser.parse_args()
    rounds, count = (1, 4) if options.quick else (5, 60)
    with opened(options.model, threads=options.threads) as (model, context):
        prompt = model.vocab.tokenize(PROMPT, add_special=True)
        for sequences in (1, 4, 8):
            for name, sampling in SAMPLINGS.items():
                bare, engine = [], []
                for _ in range(rounds):
                    bare.append(measure(context, bare_steps(context, prompt, sequences=sequences), count))
                    steps = engine_steps(context, model, prompt, sequences=sequences, sampling=sampling)
                    engine.append(measure(context, steps, count))
                bare_ms, bare_outside_ms = (statistics.median(column) for column in zip(*bare, strict=True))
                step_ms, outside_ms = (statistics.median(column) for column in zip(*engine, strict=True))
                line = {
                    "bench": "step_overhead",
                    "sequences": sequences,
                    "sampling": name,
                    "bare_step_ms": round(bare_ms, 2),
                    "step_ms": round(step_ms, 2),
                    "ratio": round(bare_ms / step_ms, 3),
                    "bare_outside_decode_ms": round(bare_outside_ms, 3),
                    "outside_decode_ms": round(outside_ms, 3),
                    "steps": rounds * count,
                }
                print(json.dumps(line | circumstances(options.threads, options.model.name)), flush=True)


if __name__ == "__main__":
    main()
