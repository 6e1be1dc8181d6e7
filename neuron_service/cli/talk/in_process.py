"""A speaker that loads the model in this process, by `neuron_lib`. Its engine ends with the block."""

from collections.abc import Iterator, Mapping
from concurrent.futures import wait
from contextlib import contextmanager
from typing import Final

import anyio
from msgspec.structs import replace

from neuron_lib import Chat, NeuronError, ReasoningDelta, Registry, SamplingParams, TextDelta
from neuron_lib.blocking import BlockingRegistry
from neuron_lib.config import AdmissionConfig, Config
from neuron_lib.harness import ProgressReporter
from neuron_lib.types import Finished, GenerationEvent, ModelSpec
from neuron_service.cli.failures import sentence_and_status
from neuron_service.cli.own_setup import own_harnesses, own_setup
from neuron_service.cli.talk.pieces import Ended, Order, Piece, Said, SpeakerFailed, Thought

__all__ = ("InProcess", "in_process", "with_seats")

_REPORT_S: Final = 0.1


class InProcess:
    """See `Speaker`. Lives as long as its registry is open."""

    def __init__(self, registry: BlockingRegistry, model_id: str) -> None:
        self._registry = registry
        self.model_id = model_id
        self.place = "in this process"

    @contextmanager
    def answer(self, order: Order) -> Iterator[Iterator[Piece]]:
        chat = Chat(
            model_id=self.model_id,
            messages=tuple({"role": each.role, "content": each.content} for each in order.messages),
            max_tokens=order.max_tokens,
            sampling=SamplingParams(
                temperature=order.temperature, seed=order.seed, ignore_eos=order.ignore_eos or None
            ),
        )
        with _translated(), self._registry.chat(chat) as events:
            yield _pieces(events)


@contextmanager
def in_process(
    config: Config, environ: Mapping[str, str], spec: ModelSpec, *, seats: int, report: ProgressReporter
) -> Iterator[InProcess]:
    """Load a model for the block, with `seats` replies at the same time. `report` is told of the load.

    Raises `SpeakerFailed` if the model cannot be loaded.
    """
    with BlockingRegistry(_registry(with_seats(config, seats), environ)) as registry:
        with _translated():
            loading = registry.start_load(spec)
            while wait((loading,), timeout=_REPORT_S).not_done:
                for load in registry.loading():
                    report(load.progress)
            info = loading.result()
        yield InProcess(registry, info.id)


def with_seats(config: Config, seats: int) -> Config:
    """The configuration for a single person: each model has `seats` seats, so that it takes no memory for more."""
    tables = {
        name: replace(table, admission=replace(table.admission, max_in_flight=seats))
        if isinstance(getattr(table, "admission", None), AdmissionConfig)
        else table
        for name, table in config.harness.items()
    }
    return replace(config, harness=tables)


def _registry(config: Config, environ: Mapping[str, str]) -> Registry:
    setup = anyio.run(own_setup, config, environ)
    registry = Registry(drain_timeout_s=0)
    for harness, aliases in own_harnesses(config, setup):
        registry.register(harness, aliases=aliases)
    return registry


@contextmanager
def _translated() -> Iterator[None]:
    """Errors of the library as sentences for a person."""
    try:
        yield
    except NeuronError as error:
        sentence, status = sentence_and_status(error)
        raise SpeakerFailed(sentence, exit_status=status) from error


def _pieces(events: Iterator[GenerationEvent]) -> Iterator[Piece]:
    for event in events:
        match event:
            case TextDelta(text):
                yield Said(text)
            case ReasoningDelta(text):
                yield Thought(text)
            case Finished():
                usage = event.usage
                yield Ended(
                    reason=event.reason,
                    prompt_tokens=usage.prompt_tokens,
                    completion_tokens=usage.completion_tokens,
                    cached_tokens=usage.cached_tokens,
                    prefill_ms=usage.prefill_ms,
                    decode_ms=usage.decode_ms,
                )
            case _:
                pass
