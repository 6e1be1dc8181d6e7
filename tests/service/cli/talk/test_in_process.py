"""A speaker whose model is loaded in this process."""

import contextlib
from collections.abc import Iterator

import pytest

from neuron_lib import Registry
from neuron_lib.blocking import BlockingRegistry
from neuron_lib.config import load_config
from neuron_lib.errors import EngineDead
from neuron_lib.testing import ScriptedHarness, ScriptedModel
from neuron_lib.types import Chat, ModelSpec, ReasoningDelta
from neuron_service.backends import BACKENDS
from neuron_service.cli.talk.in_process import InProcess, with_seats
from neuron_service.cli.talk.pieces import Ended, Message, Order, Said, SpeakerFailed, Thought

MODEL = "acme/talker"
ORDER = Order(messages=(Message(role="user", content="Hi"),), max_tokens=9, temperature=0.5, seed=3)


@pytest.fixture
def harness() -> ScriptedHarness:
    return ScriptedHarness({MODEL: ScriptedModel(reply=(ReasoningDelta("hm"), "Hel", "lo"))})


@pytest.fixture
def speaker(harness: ScriptedHarness) -> Iterator[InProcess]:
    with BlockingRegistry(Registry([harness])) as registry:
        registry.load(ModelSpec(model_id=MODEL))
        yield InProcess(registry, MODEL)


def test_a_reply_comes_in_pieces_and_ends_with_its_numbers(speaker: InProcess, harness: ScriptedHarness) -> None:
    with speaker.answer(ORDER) as pieces:
        *said, end = list(pieces)
    assert said == [Thought("hm"), Said("Hel"), Said("lo")]
    assert isinstance(end, Ended)
    assert (end.reason, end.prompt_tokens) == ("stop", 7)
    (task,) = harness.requests
    assert isinstance(task, Chat)
    assert (task.max_tokens, task.sampling.temperature, task.sampling.seed) == (9, 0.5, 3)
    assert task.sampling.ignore_eos is None


def test_an_interrupt_ends_the_reply_and_the_next_one_can_begin(speaker: InProcess, harness: ScriptedHarness) -> None:
    with contextlib.suppress(KeyboardInterrupt), speaker.answer(ORDER) as pieces:
        next(pieces)
        raise KeyboardInterrupt
    assert harness.log[-1] == f"end {MODEL}"
    with speaker.answer(ORDER) as pieces:
        assert len(list(pieces)) == 4


def test_a_reply_that_dies_is_a_failure_in_words(speaker: InProcess, harness: ScriptedHarness) -> None:
    harness.scripts[MODEL].reply = ("Hel", EngineDead(MODEL, reason="killed"))
    with pytest.raises(SpeakerFailed, match="is gone: killed"), speaker.answer(ORDER) as pieces:
        list(pieces)


def test_a_single_person_gets_a_model_with_a_single_seat() -> None:
    config = with_seats(load_config(None, {}, sections=BACKENDS), 1)
    assert config.harness["llamacpp"].admission.max_in_flight == 1
