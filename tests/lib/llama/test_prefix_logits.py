"""Reusing a prefix does not change the reply: the scores are those of the same two reads, computed alone.

Bit for bit, on the real model and on a synthetic one of each memory kind, in both layouts. Not covered: devices other
than the CPU, and the memories that libllama keeps for single architectures (DeepSeek's), for which there is no small
model.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest

from neuron_lib.llama.batch import Batch
from neuron_lib.llama.context import Context, DecodeStatus
from neuron_lib.llama.model import Model
from neuron_lib.types import ContextParams
from tests.fakes.synthetic_gguf import KINDS

pytestmark = pytest.mark.model

SEATS = 4
N_BATCH = 64
PREFIX = "You are a helpful agent. " + " ".join(f"Rule {n}: be kind and precise about topic {n}." for n in range(12))
SUFFIX = " Question: what is the capital of France? Answer:"
OTHER = " Write three lines about the sea at night."
PREFIX_TOKENS = 100
"""More than one batch and more than one window, less than the cells that windows get."""
MOST_DIVERGENCE = 0.06

Scores = npt.NDArray[np.float32]


class Bench:
    """A context, and a prompt in two halves. A scenario begins with an empty memory."""

    def __init__(self, model: Model, context: Context) -> None:
        self.memory = context.memory
        self.prefix = model.vocab.tokenize(PREFIX, add_special=True)[:PREFIX_TOKENS]
        self.suffix = model.vocab.tokenize(SUFFIX, add_special=False)
        self.other = model.vocab.tokenize(OTHER, add_special=False)
        self.length = len(self.prefix)
        self._context = context
        self._batch = Batch(N_BATCH)
        self._alone: dict[int, Scores] = {}

    def read(self, seq_id: int, tokens: list[int]) -> Scores:
        """Append tokens to a sequence; the scores after the last."""
        row = 0
        for start in range(0, len(tokens), N_BATCH):
            self._batch.clear()
            chunk = tokens[start : start + N_BATCH]
            row = self._batch.add(seq_id, chunk, position=self.memory.length(seq_id), wants_logits=1)
            assert self._context.decode(self._batch) is DecodeStatus.OK
        return self._context.logits(row).copy()

    def empty(self) -> None:
        for seq_id in range(SEATS):
            self.memory.clear(seq_id)

    def alone(self, seq_id: int) -> Scores:
        """The same split with nobody else in the context."""
        if seq_id not in self._alone:
            self.empty()
            self.read(seq_id, self.prefix)
            self._alone[seq_id] = self.read(seq_id, self.suffix)
        return self._alone[seq_id]


@pytest.fixture(scope="module")
def models(synthetic_models: Mapping[str, Model], smollm2_path: Path) -> Iterator[Mapping[str, Model]]:
    with Model(smollm2_path, gpu_layers=0, on_progress=lambda _fraction: True) as smollm2:
        yield {**synthetic_models, "smollm2": smollm2}


@pytest.fixture(scope="module", params=[*KINDS, "smollm2"])
def model(request: pytest.FixtureRequest, models: Mapping[str, Model]) -> Model:
    return models[request.param]


@pytest.fixture(scope="module", params=["per_sequence", "unified"])
def bench(request: pytest.FixtureRequest, model: Model) -> Iterator[Bench]:
    params = ContextParams(n_ctx=1024, n_batch=N_BATCH, n_ubatch=N_BATCH, threads=1, kv_layout=request.param)
    with Context(model, params, seats=SEATS) as context:
        yield Bench(model, context)


def shared(bench: Bench) -> int:
    bench.read(0, bench.prefix)
    assert bench.memory.copy(0, 1, bench.length)
    return 1


def shared_in_place_of_another(bench: Bench) -> int:
    bench.read(0, bench.prefix)
    bench.read(1, bench.other)
    assert bench.memory.copy(0, 1, bench.length)
    return 1


def forked(bench: Bench) -> int:
    bench.read(0, bench.prefix)
    assert bench.memory.copy(0, 1, bench.length)
    assert bench.memory.copy(0, 2, bench.length)
    bench.read(1, bench.suffix)
    return 2


def copied_from_a_copy(bench: Bench) -> int:
    bench.read(0, bench.prefix)
    assert bench.memory.copy(0, 1, bench.length)
    assert bench.memory.copy(1, 2, bench.length)
    return 2


def copied_from_what_is_then_forgotten(bench: Bench) -> int:
    bench.read(0, bench.prefix)
    assert bench.memory.copy(0, 1, bench.length)
    bench.memory.clear(0)
    return 1


def copied_from_what_is_then_another(bench: Bench) -> int:
    bench.read(2, bench.other)
    state = bench.memory.save(2)
    bench.memory.clear(2)
    bench.read(0, bench.prefix)
    assert bench.memory.copy(0, 1, bench.length)
    assert bench.memory.restore(state, 0)
    return 1


def saved_and_restored(bench: Bench) -> int:
    bench.read(0, bench.prefix)
    state = bench.memory.save(0)
    bench.memory.clear(0)
    bench.read(0, bench.other)
    assert bench.memory.restore(state, 0)
    return 0


def saved_and_restored_elsewhere(bench: Bench) -> int:
    bench.read(0, bench.prefix)
    assert bench.memory.restore(bench.memory.save(0), 3)
    return 3


def rewound(bench: Bench) -> int:
    bench.read(0, bench.prefix)
    checkpoint = bench.memory.checkpoint(0)
    bench.read(0, bench.other)
    assert bench.memory.rewind(0, checkpoint, bench.length)
    return 0


def rewound_again(bench: Bench) -> int:
    bench.read(0, bench.prefix)
    checkpoint = bench.memory.checkpoint(0)
    for _ in range(2):
        bench.read(0, bench.other)
        assert bench.memory.rewind(0, checkpoint, bench.length)
    return 0


def forked_at_a_checkpoint(bench: Bench) -> int:
    bench.read(0, bench.prefix)
    checkpoint = bench.memory.checkpoint(0)
    bench.read(0, bench.other)
    assert bench.memory.copy(0, 1, bench.memory.length(0))
    assert bench.memory.rewind(1, checkpoint, bench.length)
    return 1


def truncated_or_read_again(bench: Bench) -> int:
    bench.read(0, bench.prefix)
    bench.read(0, bench.other)
    if not bench.memory.truncate(0, bench.length):
        bench.memory.clear(0)
        bench.read(0, bench.prefix)
    return 0


SCENARIOS: tuple[Callable[[Bench], int], ...] = (
    shared,
    shared_in_place_of_another,
    forked,
    copied_from_a_copy,
    saved_and_restored,
    saved_and_restored_elsewhere,
    rewound,
    rewound_again,
    forked_at_a_checkpoint,
    truncated_or_read_again,
)
"""Each brings the prefix into a sequence in its own way and returns which."""

ROUNDING = MOST_DIVERGENCE / 100
"""What the order of cells alone may change; a wrong cell changes a thousand times as much."""


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_a_reused_prefix_gives_the_scores_of_the_same_split_alone(
    bench: Bench, scenario: Callable[[Bench], int]
) -> None:
    bench.empty()
    seq_id = scenario(bench)
    assert bench.memory.length(seq_id) == bench.length
    scores = bench.read(seq_id, bench.suffix)
    assert np.array_equal(scores, bench.alone(seq_id))


@pytest.mark.parametrize(
    "scenario",
    [copied_from_what_is_then_forgotten, copied_from_what_is_then_another],
    ids=lambda scenario: scenario.__name__,
)
def test_a_copy_is_whole_whatever_becomes_of_the_original_before_the_next_step(
    bench: Bench, scenario: Callable[[Bench], int]
) -> None:
    bench.empty()
    seq_id = scenario(bench)
    scores = bench.read(seq_id, bench.suffix)
    assert divergence(bench.alone(seq_id), scores) < ROUNDING


def test_reading_a_prompt_in_two_halves_is_nearly_reading_it_at_once(bench: Bench) -> None:
    bench.empty()
    at_once = bench.read(0, bench.prefix + bench.suffix)
    assert np.ptp(at_once) > 5  # scores that are all alike would prove nothing
    assert divergence(at_once, bench.alone(0)) <= MOST_DIVERGENCE


def test_a_prefix_shared_among_strangers_is_no_worse_than_the_split(bench: Bench) -> None:
    # A pool gives it other cells than alone, and sums are rounded in the order of the cells.
    bench.empty()
    at_once = bench.read(0, bench.prefix + bench.suffix)
    bench.empty()
    bench.read(3, bench.other)
    bench.read(0, bench.prefix)
    assert bench.memory.copy(0, 1, bench.length)
    bench.read(3, bench.other)
    assert divergence(at_once, bench.read(1, bench.suffix)) <= MOST_DIVERGENCE


@pytest.mark.parametrize("layout", ["per_sequence", "unified"])
def test_windows_that_have_gone_round_in_their_cells_are_rewound_to_nearly_the_same_scores(
    synthetic_models: Mapping[str, Model], layout: Literal["per_sequence", "unified"]
) -> None:
    model = synthetic_models["windowed"]
    with Context(
        model, ContextParams(n_ctx=2048, n_batch=N_BATCH, n_ubatch=N_BATCH, threads=1, kv_layout=layout), seats=SEATS
    ) as context:
        bench = Bench(model, context)
        bench.prefix *= 5
        bench.length = len(bench.prefix)
        for scenario in (shared, saved_and_restored, rewound, forked_at_a_checkpoint):
            bench.empty()
            scores = bench.read(scenario(bench), bench.suffix)
            assert divergence(bench.alone(0), scores) < ROUNDING


def divergence(reference: Scores, scores: Scores) -> float:
    """Kullback-Leibler divergence of the distributions that two rows of scores stand for."""
    expected, got = log_softmax(reference), log_softmax(scores)
    return float((np.exp(expected) * (expected - got)).sum())


def log_softmax(scores: Scores) -> npt.NDArray[np.float64]:
    shifted = scores.astype(np.float64) - scores.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))
