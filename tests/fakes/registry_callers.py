"""Those who call a registry in tests, and what they ask for."""

from dataclasses import dataclass, field

import anyio

from neuron_lib import ChatRequest, GenerationEvent, ModelSpec, NeuronError, Registry, TextDelta


def spec(model_id: str = "o/a", *, harness: str | None = "scripted", quant: str | None = None) -> ModelSpec:
    return ModelSpec(model_id=model_id, harness=harness, quant=quant)


def request(model_id: str = "o/a") -> ChatRequest:
    return ChatRequest(model_id=model_id, messages=({"role": "user", "content": "Hi"},))


async def reply_text(registry: Registry, model_id: str = "o/a") -> str:
    async with registry.chat(request(model_id)) as generation:
        return "".join([event.text async for event in generation if isinstance(event, TextDelta)])


@dataclass
class Caller:
    """Somebody who calls the registry in a task of its own: what came of it."""

    registry: Registry
    loaded: list[str] = field(default_factory=list)
    events: list[GenerationEvent] = field(default_factory=list)
    errors: list[NeuronError] = field(default_factory=list)
    done: anyio.Event = field(default_factory=anyio.Event)

    async def load(self, model_id: str = "o/a", *, harness: str = "scripted") -> None:
        try:
            self.loaded.append((await self.registry.load(spec(model_id, harness=harness))).id)
        except NeuronError as error:
            self.errors.append(error)
        self.done.set()

    async def unload(self, model_id: str = "o/a") -> None:
        try:
            await self.registry.unload(model_id)
        except NeuronError as error:
            self.errors.append(error)
        self.done.set()

    async def chat(self, model_id: str = "o/a") -> None:
        try:
            async with self.registry.chat(request(model_id)) as generation:
                async for event in generation:
                    self.events.append(event)
        except NeuronError as error:
            self.errors.append(error)
        self.done.set()

    async def wait_idle(self) -> None:
        await self.registry.wait_idle()
        self.done.set()
