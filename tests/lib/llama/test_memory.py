from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import pytest

from neuron_lib.llama.batch import Batch
from neuron_lib.llama.context import Context, DecodeStatus
from neuron_lib.llama.memory import MemoryKind, memory_kind
from neuron_lib.llama.model import Model
from neuron_lib.types import ContextParams
from tests.fakes.synthetic_gguf import KINDS, WINDOW

SEATS = 4
N_BATCH = 64
SAVED_CELL_BYTES = {
    # Of keys and values 128 bytes in each layer that keeps all cells, and 12 for the position of a saved cell.
    "full": 4 * 128 + 12,
    "windowed": 128 + 12,
    "recurrent": 0,
    "hybrid": 2 * 128 + 12,
}
LAYOUTS = pytest.mark.parametrize("unified", [False, True], ids=["streams", "pool"])


@contextmanager
def opened(model: Model, *, unified: bool = False, kv_cells: int = 0, swa_full: bool = False) -> Iterator[Context]:
    with Context(
        model,
        ContextParams(
            n_ctx=1024,
            n_batch=N_BATCH,
            n_ubatch=N_BATCH,
            threads=1,
            kv_layout="unified" if unified else "per_sequence",
            kv_cells=kv_cells,
            swa_full=swa_full,
        ),
        seats=SEATS,
    ) as context:
        yield context


def read(context: Context, seq_id: int, count: int) -> DecodeStatus:
    """Append `count` tokens to a sequence."""
    batch = Batch(N_BATCH)
    status = DecodeStatus.OK
    for start in range(0, count, N_BATCH):
        batch.clear()
        tokens = [n % 251 for n in range(start, min(start + N_BATCH, count))]
        batch.add(seq_id, tokens, position=context.memory.length(seq_id), wants_logits=1)
        status = context.decode(batch)
        if status is not DecodeStatus.OK:
            break
    return status


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_is_what_libllama_reports(synthetic_models: Mapping[str, Model], kind: str) -> None:
    model = synthetic_models[kind]
    assert memory_kind(model) is MemoryKind(kind)
    tokens = model.vocab.tokenize("the cat<|im_end|>", add_special=True)
    assert tokens[-1] in model.vocab.eog
    assert "<|im_start|>" in (model.chat_template or "")
    with opened(model) as context:
        context.warm_up(model.vocab)
        assert context.memory.can_truncate == (kind == "full")
        assert context.memory.length(0) == 0


@LAYOUTS
@pytest.mark.parametrize(
    ("kind", "cuts"),
    [
        ("full", {0: True, 1: True, 50: True, 99: True, 100: True, 101: False, -1: False}),
        ("windowed", {0: True, 1: True, 50: True, 99: True, 100: True, 101: False, -1: False}),
        ("recurrent", {0: True, 1: False, 50: False, 99: False, 100: True, 101: False, -1: False}),
        ("hybrid", {0: True, 1: False, 50: False, 99: False, 100: True, 101: False, -1: False}),
    ],
)
def test_a_cut_is_made_whole_or_not_at_all(
    synthetic_models: Mapping[str, Model], kind: str, cuts: dict[int, bool], *, unified: bool
) -> None:
    with opened(synthetic_models[kind], unified=unified) as context:
        memory = context.memory
        for length, is_possible in cuts.items():
            memory.clear(1)
            read(context, 1, 100)
            assert memory.truncate(1, length) == is_possible, length
            assert memory.length(1) == (length if is_possible else 100)
            assert read(context, 1, 1) is DecodeStatus.OK


def test_a_window_can_be_cut_as_far_back_as_it_is_still_there(synthetic_models: Mapping[str, Model]) -> None:
    with opened(synthetic_models["windowed"]) as context:
        memory = context.memory
        read(context, 0, 600)
        restored = memory.save(0)  # which holds the last window and no more
        assert [memory.truncate(0, length) for length in (100, 300)] == [False, False]
        assert memory.truncate(0, 500)
        assert memory.length(0) == 500
        assert memory.restore(restored, 0)
        assert [memory.truncate(0, length) for length in (598, 599)] == [False, True]
        memory.clear(0)
        read(context, 0, WINDOW)
        assert memory.restore(memory.save(0), 1)
        assert memory.truncate(1, 3)


def test_full_size_windows_can_be_cut_anywhere_until_they_are_saved_or_crowded_out(
    synthetic_models: Mapping[str, Model],
) -> None:
    with opened(synthetic_models["windowed"], swa_full=True) as context:
        read(context, 0, 900)
        assert not context.memory.copy(0, 1, 400)
        assert context.memory.length(1) == 0
        assert context.memory.truncate(0, 400)
    with opened(synthetic_models["windowed"], unified=True, kv_cells=2048, swa_full=True) as context:
        read(context, 0, 900)
        read(context, 1, 900)
        context.memory.clear(0)
        read(context, 2, 1000)
        assert not context.memory.truncate(1, 100)


@LAYOUTS
@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_takes_the_place_of_what_was_there_or_leaves_nothing(
    synthetic_models: Mapping[str, Model], kind: str, *, unified: bool
) -> None:
    with opened(synthetic_models[kind], unified=unified) as context:
        memory = context.memory
        read(context, 0, 100)
        read(context, 1, 30)
        assert memory.copy(0, 1, 100)
        assert (memory.length(0), memory.length(1)) == (100, 100)
        assert memory.copy(0, 1, 60) == memory.can_truncate
        assert memory.length(1) == (60 if memory.can_truncate else 0)
        assert not memory.copy(0, 1, 101)
        assert memory.copy(0, 1, 0)
        assert memory.length(1) == 0
        assert memory.length(0) == 100


@pytest.mark.parametrize("kind", KINDS)
def test_forks_go_on_in_a_pool_for_as_long_as_it_has_cells(synthetic_models: Mapping[str, Model], kind: str) -> None:
    # Copied by reference, windows filled up with cells of several owners, which libllama never reuses.
    with opened(synthetic_models[kind], unified=True) as context:
        read(context, 0, 200)
        assert [context.memory.copy(0, seq_id, 200) for seq_id in (1, 2, 3)] == [True] * 3
        for _ in range(5):
            assert [read(context, seq_id, 50) for seq_id in range(SEATS)] == [DecodeStatus.OK] * SEATS


@pytest.mark.parametrize("kind", ["full", "hybrid"])
def test_a_copy_in_a_pool_shares_the_cells_of_the_original(synthetic_models: Mapping[str, Model], kind: str) -> None:
    with opened(synthetic_models[kind], unified=True, kv_cells=512) as context:
        assert context.memory.shares_cells
        read(context, 0, 400)
        assert [context.memory.copy(0, seq_id, 400) for seq_id in (1, 2, 3)] == [True] * 3
        assert read(context, 3, 100) is DecodeStatus.OK
        context.memory.clear(0)
        context.memory.clear(1)
        assert read(context, 2, 20) is DecodeStatus.NO_CELLS
        context.memory.clear(3)
        assert read(context, 2, 100) is DecodeStatus.OK


@LAYOUTS
@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_sequence_costs_what_it_holds(
    synthetic_models: Mapping[str, Model], kind: str, *, unified: bool
) -> None:
    with opened(synthetic_models[kind], unified=unified) as context:
        memory = context.memory
        sizes = []
        for _ in range(3):
            read(context, 0, 100)
            sizes.append(memory.save(0).nbytes)
        assert memory.length(0) == 300  # which saving has left where it was
        assert np.diff(sizes).tolist() == [100 * SAVED_CELL_BYTES[kind]] * 2


def test_a_restored_sequence_replaces_what_was_there(synthetic_models: Mapping[str, Model]) -> None:
    for model in synthetic_models.values():
        with opened(model) as context:
            memory = context.memory
            nothing = memory.save(0)
            read(context, 0, 100)
            state = memory.save(0)
            read(context, 2, 7)
            assert memory.restore(state, 2)
            assert memory.length(2) == 100
            memory.restore(nothing, 2)
            assert memory.length(2) == 0


def test_what_does_not_fit_is_not_restored_in_part(synthetic_models: Mapping[str, Model]) -> None:
    for kind in ("full", "windowed", "hybrid"):
        with opened(synthetic_models[kind], unified=True, kv_cells=512) as context:
            memory = context.memory
            read(context, 0, 300)
            state = memory.save(0)
            read(context, 1, 5)
            assert not memory.restore(state, 1)
            assert memory.length(1) == 0
            assert read(context, 1, 200) is DecodeStatus.OK


@pytest.mark.parametrize("end", [0, 10, 100, -100])
def test_a_damaged_state_is_refused_and_leaves_nothing_behind(synthetic_models: Mapping[str, Model], end: int) -> None:
    for model in synthetic_models.values():
        with opened(model) as context:
            memory = context.memory
            nothing = memory.save(0)
            read(context, 0, 100)
            assert not memory.restore(memory.save(0)[:end], 0)
            assert memory.length(0) == 0
            assert memory.save(0).nbytes == nothing.nbytes


@LAYOUTS
@pytest.mark.parametrize("kind", KINDS)
def test_a_sequence_rewinds_to_a_checkpoint_as_often_as_one_likes(
    synthetic_models: Mapping[str, Model], kind: str, *, unified: bool
) -> None:
    with opened(synthetic_models[kind], unified=unified) as context:
        memory = context.memory
        read(context, 0, 500)
        checkpoint = memory.checkpoint(0)
        for count in (0, 1, 300):
            read(context, 0, count)
            assert memory.rewind(0, checkpoint, 500)
            assert memory.length(0) == 500
        assert checkpoint.nbytes < memory.save(0).nbytes or kind == "recurrent"


@pytest.mark.parametrize("kind", KINDS)
def test_a_sequence_does_not_rewind_to_where_it_never_was(synthetic_models: Mapping[str, Model], kind: str) -> None:
    with opened(synthetic_models[kind]) as context:
        memory = context.memory
        read(context, 0, 100)
        checkpoint = memory.checkpoint(0)
        read(context, 1, 40)
        assert not memory.rewind(1, checkpoint, 100)
        assert memory.length(1) == 40
        read(context, 0, 20)
        if kind != "full":  # which needs no checkpoint
            assert not memory.rewind(0, checkpoint, 90)
            assert memory.length(0) == 0


def test_a_memory_that_can_be_cut_needs_no_bytes_for_a_checkpoint(synthetic_models: Mapping[str, Model]) -> None:
    with opened(synthetic_models["full"]) as context:
        read(context, 0, 100)
        assert context.memory.checkpoint(0).nbytes == 0


@pytest.mark.parametrize("seq_id", [-1, SEATS, 1 << 20])
def test_a_sequence_that_is_not_there_is_an_error_and_not_the_end_of_the_process(
    synthetic_models: Mapping[str, Model], seq_id: int
) -> None:
    with opened(synthetic_models["full"]) as context:
        memory = context.memory
        state = memory.save(0)
        for call in (
            lambda: memory.length(seq_id),
            lambda: memory.clear(seq_id),
            lambda: memory.truncate(seq_id, 0),
            lambda: memory.copy(seq_id, 0, 0),
            lambda: memory.copy(0, seq_id, 0),
            lambda: memory.save(seq_id),
            lambda: memory.restore(state, seq_id),
            lambda: memory.checkpoint(seq_id),
            lambda: memory.rewind(seq_id, state, 1),
        ):
            with pytest.raises(ValueError, match=f"no sequence {seq_id} among 4"):
                call()
        with pytest.raises(ValueError, match="cannot be copied to itself"):
            memory.copy(1, 1, 0)


@pytest.mark.parametrize(
    ("unified", "kv_cells", "cells", "n_ctx"),
    [(False, 0, 4096, 1024), (False, 512, 4096, 1024), (True, 0, 4096, 1024), (True, 512, 512, 512)],
)
def test_a_context_says_what_one_sequence_can_have(
    synthetic_models: Mapping[str, Model], *, unified: bool, kv_cells: int, cells: int, n_ctx: int
) -> None:
    with opened(synthetic_models["full"], unified=unified, kv_cells=kv_cells) as context:
        assert (context.kv_cells, context.n_ctx) == (cells, n_ctx)


@LAYOUTS
def test_rows_are_given_for_the_last_tokens_that_want_them(
    synthetic_models: Mapping[str, Model], *, unified: bool
) -> None:
    with opened(synthetic_models["full"], unified=unified) as context:
        tokens = [5, 6, 7, 8, 9]
        batch = Batch(N_BATCH)
        one_by_one = []
        for position, token in enumerate(tokens):
            batch.clear()
            row = batch.add(0, [token], position=position, wants_logits=1)
            context.decode(batch)
            one_by_one.append(context.logits(row).copy())
        batch.clear()
        batch.add(1, tokens[:2], position=0, wants_logits=0)
        first = batch.add(2, tokens, position=0, wants_logits=3)
        assert first == 4
        assert context.decode(batch) is DecodeStatus.OK
        for offset in range(3):
            assert np.abs(context.logits(first + offset) - one_by_one[2 + offset]).max() < 0.01
