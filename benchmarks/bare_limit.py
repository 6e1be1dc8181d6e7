"""The speed limit: libllama driven by the shortest loop there is, no scheduler, no process boundary, no HTTP.

`python -m benchmarks.bare_limit MODEL.gguf THREADS` then reads lines `STREAMS TOKENS` and answers each with one JSON
object: the same chats as `load_generator.py` sends, all prompts in one batch, then TOKENS greedy tokens on each. It
stays loaded between rounds, as a server does.
"""

import datetime as dt
import json
import sys
import time
from pathlib import Path

from benchmarks.subject import story
from neuron_lib.llama.batch import Batch
from neuron_lib.llama.bindings import init_backend, route_logs
from neuron_lib.llama.context import Context
from neuron_lib.llama.model import Model
from neuron_lib.text.chat_template import CHATML, ChatTemplate

SEATS, N_CTX, N_BATCH = 8, 4096, 512


def generate(context: Context, batch: Batch, prompts: list[list[int]], *, tokens: int) -> float:
    """Read one prompt on each stream, then generate `tokens` on each, greedily; the seconds it took."""
    started = time.perf_counter()
    batch.clear()
    rows = []
    for seq_id, prompt in enumerate(prompts):
        context.clear_sequence(seq_id)
        rows.append(batch.add(seq_id, prompt, position=0, wants_logits=True))
    for step in range(tokens):
        context.decode(batch)
        last = [int(context.logits(row).argmax()) for row in rows]
        batch.clear()
        rows = [
            batch.add(seq_id, [token], position=len(prompts[seq_id]) + step, wants_logits=True)
            for seq_id, token in enumerate(last)
        ]
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
        template = ChatTemplate(model.chat_template or CHATML, bos_token=model.vocab.bos, eos_token=model.vocab.eos)
        for line in sys.stdin:
            streams, tokens = map(int, line.split())
            prompts = [
                model.vocab.tokenize(template.render([story(n)], now=dt.datetime.now), add_special=False)
                for n in range(streams)
            ]
            seconds = generate(context, batch, prompts, tokens=tokens)
            print(json.dumps({"completion_tokens": streams * tokens, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
