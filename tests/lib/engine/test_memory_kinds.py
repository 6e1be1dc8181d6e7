"""The whole engine in one thread, over every kind of memory that libllama has: a chat goes on where it was."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuron_lib.engine.build import build_runner, build_scheduler
from neuron_lib.engine.line import Request
from neuron_lib.engine.loop import EngineLoop
from neuron_lib.engine.prepare import Preparer
from neuron_lib.engine.protocol import (
    Began,
    Broken,
    Cancelled,
    ChatTask,
    Done,
    Limits,
    Load,
    SequenceEvent,
    StepEvents,
    Submit,
)
from neuron_lib.engine.sequence import Sequence
from neuron_lib.llama.bindings import init_backend, route_logs
from neuron_lib.llama.context import Context
from neuron_lib.llama.grammar import ConstraintFailed
from neuron_lib.llama.model import Model
from neuron_lib.sampling.filters import Scores
from neuron_lib.sampling.sampler import Draw, Sampler
from neuron_lib.types import ContextParams, Sampling
from tests.fakes.loads import changed_load
from tests.fakes.synthetic_gguf import KINDS, write_synthetic

LAYOUTS = ("per_sequence", "unified")
CASES = pytest.mark.parametrize(
    ("kind", "fields"),
    [
        pytest.param(kind, {"kv_layout": layout, "swa_full": swa_full}, id=f"{kind}-{layout}" + "-swa_full" * swa_full)
        for kind in KINDS
        for layout in LAYOUTS
        for swa_full in (False, True)
        if kind == "windowed" or not swa_full
    ],
)
LOAD = Load(
    path="",
    seats=3,
    context=ContextParams(n_ctx=1024, n_batch=64, n_ubatch=64, threads=1, gpu_layers=0),
    host_cache_bytes=64 << 20,
    speculation="off",
    target_step_s=0.1,
)
NOISE = 0.1
"""Scores of these models spread by 3 and differ by up to 0.06 with how their tokens are split into batches."""
SYSTEM = {"role": "system", "content": "you and the cat. " * 12}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Model]]:
    init_backend()
    route_logs(lambda _level, _text: None)
    folder = tmp_path_factory.mktemp("kinds")
    with ExitStack() as stack:
        loaded = {}
        for kind in KINDS:
            write_synthetic(folder / f"{kind}.gguf", kind)
            model = Model(folder / f"{kind}.gguf", gpu_layers=0, on_progress=lambda _fraction: True)
            loaded[kind] = stack.enter_context(model)
        yield loaded


class Recorder:
    """A sampler that remembers the scores it was shown."""

    def __init__(self, sampler: Sampler) -> None:
        self.rows: list[Scores] = []
        self._sampler = sampler

    def sample(self, row: Scores) -> Draw:
        self.rows.append(row.copy())
        return self._sampler.sample(row)

    @property
    def is_complete(self) -> bool:
        return self._sampler.is_complete


def assert_same_scores(left: Recorder, right: Recorder) -> None:
    """Two replies to one prompt, from where two tokens are as good as each other on they may go different ways."""
    assert left.rows
    for row, other in zip(left.rows, right.rows, strict=True):
        assert np.abs(row - other).max() < NOISE
        if row.argmax() != other.argmax():
            break


class Conversation:
    """An engine without a socket: requests go in as the daemon's commands do, events come out."""

    def __init__(self, model: Model, context: Context, load: Load) -> None:
        self.events: list[SequenceEvent] = []
        self.replies: dict[tuple[int, int], Recorder] = {}
        self.scheduler = build_scheduler(context, load)
        self.loop = EngineLoop(self.scheduler, build_runner(model, context), report=self._hear)
        self.preparer = Preparer(
            model.vocab,
            template=model.chat_template,
            n_ctx=context.n_ctx,
            needs_checkpoints=not context.memory.can_truncate,
        )

    def _hear(self, report: StepEvents | Began | Cancelled) -> None:
        if isinstance(report, StepEvents):
            self.events += report.events

    def ask(self, request: int, *messages: dict[str, Any], choices: int = 1, max_tokens: int = 16) -> None:
        """Submit a chat, greedy."""
        task = ChatTask(messages=messages, choices=choices)
        submit = Submit(
            request=request,
            task=task,
            sampling=Sampling(temperature=0, seed=0, ignore_eos=True),
            limits=Limits(prompt_tokens=1 << 20, reply_tokens=max_tokens),
        )
        entrant = self.preparer.request(submit, [self.preparer.prepare(task)])
        for sequence in entrant.sequences:
            assert sequence.sampler is not None
            recorder = self.replies[request, sequence.choice] = Recorder(sequence.sampler)
            sequence.sampler = recorder
        self.scheduler.submit(entrant)

    def finish(self) -> None:
        """Step until nobody is left."""
        while self.scheduler.in_flight:
            self.loop.step()

    def done(self, request: int, *, choice: int = 0) -> Done:
        """The last event of a reply."""
        (done,) = [e for e in self.events if isinstance(e, Done) and (e.request, e.choice) == (request, choice)]
        return done


@contextmanager
def conversation(model: Model, **fields: Any) -> Iterator[Conversation]:
    load = changed_load(LOAD, **fields)
    with Context(model, load.context, seats=load.seats) as context:
        yield Conversation(model, context, load)


@CASES
def test_a_second_turn_reads_only_what_is_new(models: Mapping[str, Model], kind: str, fields: dict[str, Any]) -> None:
    with conversation(models[kind], **fields) as chat:
        chat.ask(1, SYSTEM, {"role": "user", "content": "the first question"})
        chat.finish()
        first = chat.done(1)
        # A client that tells the reply in other words, so that only the prompt is common.
        turn = ({"role": "assistant", "content": "so it is"}, {"role": "user", "content": "and the next"})
        chat.ask(2, SYSTEM, {"role": "user", "content": "the first question"}, *turn)
        chat.finish()
        second = chat.done(2)
        # What the place of the first turn in memory gave is what reading all of it would have given.
        with conversation(models[kind], prompt_cache=False, **fields) as fresh:
            fresh.ask(2, SYSTEM, {"role": "user", "content": "the first question"}, *turn)
            fresh.finish()
            assert_same_scores(chat.replies[2, 0], fresh.replies[2, 0])
    header = len("assistant\n") + 1  # which follows the last message's end, in tokens of this vocabulary
    assert first.cached_tokens == 0
    assert first.prompt_tokens - header - 3 <= second.cached_tokens <= first.prompt_tokens


@CASES
def test_requests_with_one_system_prompt_read_it_once(
    models: Mapping[str, Model], kind: str, fields: dict[str, Any]
) -> None:
    with conversation(models[kind], **fields) as chat:
        for request in range(3):
            chat.ask(request, SYSTEM, {"role": "user", "content": f"question {request}"})
        chat.finish()
        done = [chat.done(request) for request in range(3)]
    system_tokens = len(SYSTEM["content"]) / 2
    assert done[0].cached_tokens == 0
    assert all(each.cached_tokens > system_tokens for each in done[1:])


@CASES
def test_choices_read_their_prompt_once_and_say_the_same(
    models: Mapping[str, Model], kind: str, fields: dict[str, Any]
) -> None:
    with conversation(models[kind], **fields) as chat:
        chat.ask(1, SYSTEM, {"role": "user", "content": "the question"}, choices=3)
        chat.finish()
        prompt_tokens = chat.done(1).prompt_tokens
        assert [chat.done(1, choice=choice).cached_tokens for choice in range(3)] == [0] + [prompt_tokens - 1] * 2
        for choice in (1, 2):
            assert_same_scores(chat.replies[1, 0], chat.replies[1, choice])


@CASES
def test_a_prompt_that_lost_its_place_comes_back(
    models: Mapping[str, Model], kind: str, fields: dict[str, Any]
) -> None:
    with conversation(models[kind], seats=1, **fields) as chat:
        question = {"role": "user", "content": "the question"}
        chat.ask(1, SYSTEM, question)
        chat.finish()
        chat.ask(2, {"role": "user", "content": "something else. " * 12})
        chat.finish()
        chat.ask(3, SYSTEM, question, {"role": "assistant", "content": "yes"}, {"role": "user", "content": "go on"})
        chat.finish()
        assert chat.done(2).cached_tokens < 20
        assert chat.done(3).cached_tokens > len(SYSTEM["content"]) / 2


@pytest.mark.parametrize("kind", KINDS)
def test_in_a_pool_too_small_for_all_everybody_has_the_scores_of_a_large_one(
    models: Mapping[str, Model], kind: str
) -> None:
    with ExitStack() as stack:
        small, large = (
            stack.enter_context(conversation(models[kind], kv_layout="unified", kv_cells=cells))
            for cells in (512, 3072)
        )
        for chat in (small, large):
            for request in range(5):
                chat.ask(request, {"role": "user", "content": f"{request} question " * 12}, max_tokens=120)
            chat.finish()
        for request in range(5):
            assert small.done(request).completion_tokens == 120
            assert_same_scores(small.replies[request, 0], large.replies[request, 0])


@CASES
def test_a_reply_that_changes_its_place_while_it_is_written_goes_on(
    models: Mapping[str, Model], kind: str, fields: dict[str, Any]
) -> None:
    questions = [{"role": "user", "content": f"{request} is the question"} for request in range(3)]
    with conversation(models[kind], **fields) as chat, conversation(models[kind], seats=1, **fields) as alone:
        for request, max_tokens in enumerate((40, 2, 40)):
            chat.ask(request, questions[request], max_tokens=max_tokens)
        chat.finish()
        for request in (0, 2):
            alone.ask(request, questions[request], max_tokens=40)
            alone.finish()
            assert_same_scores(chat.replies[request, 0], alone.replies[request, 0])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_neighbours_change_nothing_for_a_model_of_which_libllama_mixes_up_sequences(
    tmp_path: Path, layout: str
) -> None:
    init_backend()
    route_logs(lambda _level, _text: None)
    write_synthetic(tmp_path / "m.gguf", "plamo2")
    with (
        Model(tmp_path / "m.gguf", gpu_layers=0, on_progress=lambda _fraction: True) as model,
        conversation(model, kv_layout=layout) as chat,
        conversation(model, kv_layout=layout, seats=1) as alone,
    ):
        assert model.needs_batches_apart
        for request in range(3):
            chat.ask(request, {"role": "user", "content": f"{request} is the question"})
        chat.finish()
        for request in range(3):
            alone.ask(request, {"role": "user", "content": f"{request} is the question"})
            alone.finish()
            assert_same_scores(chat.replies[request, 0], alone.replies[request, 0])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_guesses_that_are_verified_in_one_batch_have_the_scores_of_single_steps(
    models: Mapping[str, Model], layout: str
) -> None:
    with ExitStack() as stack:
        plain, guessing = (
            stack.enter_context(conversation(models["full"], kv_layout=layout, speculation=speculation))
            for speculation in ("off", "on")
        )
        for chat in (plain, guessing):
            for request in range(2):
                chat.ask(request, {"role": "user", "content": f"{request} question"}, max_tokens=200)
            chat.finish()
        for request in range(2):
            assert_same_scores(plain.replies[request, 0], guessing.replies[request, 0])
        assert guessing.loop.steps < plain.loop.steps


class Stuck:
    """A sampler whose grammar allows nothing any more."""

    is_complete = False

    def sample(self, row: Scores) -> Draw:
        raise ConstraintFailed(f"none of {row.size} tokens", param="regex")


def test_a_grammar_that_cannot_go_on_breaks_its_request_and_no_other(models: Mapping[str, Model]) -> None:
    with conversation(models["full"]) as chat:
        stuck = Sequence(request=1, prompt=[5, 6, 7], max_tokens=9, sampler=Stuck())
        chat.scheduler.submit(Request(1, (stuck,)))
        chat.ask(2, SYSTEM)
        chat.finish()
        (broken,) = [event for event in chat.events if event.request == 1]
        assert isinstance(broken, Broken)
        assert "none of" in broken.message
        assert chat.done(2).completion_tokens == 16
