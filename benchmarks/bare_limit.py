"""The speed limit: libllama driven by the shortest loop there is, no scheduler, no process boundary, no HTTP.

`python benchmarks/bare_limit.py MODEL.gguf THREADS` then reads lines `STREAMS TOKENS` and answers each with one JSON
object. It stays loaded between rounds, as a server does.
"""

import json
import sys
import time
from pathlib import Path

from neuron_lib.llama.batch import Batch
from neuron_lib.llama.bindings import init_backend, route_logs
from neuron_lib.llama.context import Context
from neuron_lib.llama.model import Model

SEATS, N_CTX, N_BATCH = 8, 4096, 512
PROMPT = "<|im_start|>user\nWrite a long story about a fox, part 1.<|im_end|>\n<|im_start|>assistant\n"


def generate(context: Context, batch: Batch, prompt: list[int], *, streams: int, tokens: int) -> float:
    """Read `prompt` on every stream, then generate `tokens` on each, greedily; the seconds it took."""
    started = time.perf_counter()
    last = []
    for seq_id in range(streams):
        context.clear_sequence(seq_id)
        batch.clear()
        row = batch.add(seq_id, prompt, position=0, wants_logits=True)
        context.decode(batch)
        last.append(int(context.logits(row).argmax()))
    for position in range(len(prompt), len(prompt) + tokens - 1):
        batch.clear()
        rows = [batch.add(seq_id, [last[seq_id]], position=position, wants_logits=True) for seq_id in range(streams)]
        context.decode(batch)
        last = [int(context.logits(row).argmax()) for row in rows]
    return time.perf_counter() - started


def main() -> None:
    """Load once, answer until the input ends."""
    path, threads = Path(sys.argv[1]), int(sys.argv[2])
    route_logs(lambda _level, _text: None)
    init_backend()
    with (
        Model(path, gpu_layers=-1, on_progress=lambda _fraction: True) as model,
        Context(model, seats=SEATS, n_ctx=N_CTX, n_batch=N_BATCH, n_ubatch=N_BATCH, threads=threads) as context,
    ):
        context.warm_up(model.vocab)
        batch = Batch(N_BATCH)
        prompt = model.vocab.tokenize(PROMPT, add_special=False)
        for line in sys.stdin:
            streams, tokens = map(int, line.split())
            seconds = generate(context, batch, prompt, streams=streams, tokens=tokens)
            print(json.dumps({"completion_tokens": streams * tokens, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
