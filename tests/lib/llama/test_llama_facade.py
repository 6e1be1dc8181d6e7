import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.errors import InvalidRequest, LoadFailed
from neuron_lib.llama.abort_flag import AbortFlag
from neuron_lib.llama.batch import Batch
from neuron_lib.llama.bindings import init_backend, lib, route_logs
from neuron_lib.llama.context import Context, DecodeStatus
from neuron_lib.llama.model import Model
from neuron_lib.llama.text_cuts import LONGEST_STRETCH
from neuron_lib.llama.vocab import Vocab
from neuron_lib.sampling.sampler import SamplerChain
from neuron_lib.types import ContextParams, Sampling, SamplingParams
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.model

PROMPT = "<|im_start|>user\nTell me about the sea.<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def model(smollm2_path: Path) -> Iterator[Model]:
    init_backend()
    route_logs(lambda _level, _text: None)
    with Model(smollm2_path, gpu_layers=0, on_progress=lambda _fraction: True) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def vocab(model: Model) -> Vocab:
    return model.vocab


@pytest.fixture
def context(model: Model) -> Iterator[Context]:
    with Context(model, ContextParams(n_ctx=256, n_batch=64, n_ubatch=64, threads=2), seats=2) as opened:
        yield opened


def scores_after(
    context: Context, tokens: list[int], *, seq_id: int = 0, beside: list[int] | None = None
) -> npt.NDArray[np.float32]:
    """The scores after `tokens`, optionally computed in one batch with another sequence's tokens."""
    batch = Batch(64)
    if beside is not None:
        batch.add(1 - seq_id, beside, position=0, wants_logits=True)
    row = batch.add(seq_id, tokens, position=0, wants_logits=True)
    assert context.decode(batch) is DecodeStatus.OK
    return context.logits(row).copy()


def test_a_batch_refuses_what_would_make_libllama_abort() -> None:
    batch = Batch(3)
    assert batch.add(0, [1, 2], position=0, wants_logits=True) == 1
    with pytest.raises(ValueError, match="batch of 4 tokens exceeds its capacity of 3"):
        batch.add(1, [1, 2], position=0, wants_logits=True)
    assert batch.size == 2
    batch.clear()
    assert batch.add(0, [1, 2, 3], position=7, wants_logits=False) == 2


def test_a_batch_gives_rows_to_the_last_tokens_of_a_sequence_and_never_to_a_stranger_s() -> None:
    batch = Batch(8)
    assert batch.add(0, [1, 2], position=0, wants_logits=0) == 1
    assert batch.add(1, [1, 2, 3], position=0, wants_logits=3) == 2
    assert batch.add(2, [1, 2, 3], position=0, wants_logits=2) == 6
    assert batch.native().logits[:8] == [0, 0, 1, 1, 1, 0, 1, 1]
    batch.clear()
    for tokens in ([], [1, 2]):
        with pytest.raises(ValueError, match="have no 3 rows"):
            batch.add(1, tokens, position=0, wants_logits=3)


def test_the_model_says_what_it_is(model: Model) -> None:
    assert model.native_context == 8192
    assert model.can_chat
    assert model.metadata("general.architecture") == "llama"
    assert model.metadata("no.such.key") is None
    assert "<|im_start|>" in (model.chat_template or "")
    assert model.size_bytes > 90_000_000
    assert model.recommended_sampling() == SamplingParams()


def test_a_load_stops_when_its_progress_says_so(smollm2_path: Path) -> None:
    with pytest.raises(LoadFailed, match="could not load"):
        Model(smollm2_path, gpu_layers=0, on_progress=lambda fraction: fraction < 0.5)


class PublishersAdvice(Model):
    """A model file with these `general.sampling.*` entries, which our own has not."""

    def __init__(self, entries: dict[str, str]) -> None:
        self._entries = entries

    def metadata(self, key: str) -> str | None:
        return self._entries.get(key.removeprefix("general.sampling."))


def test_the_publisher_s_sampling_is_read_as_far_as_it_means_something_here() -> None:
    entries = {
        "temp": "0.600000",
        "top_k": "20",
        "top_p": "0.95",
        "min_p": "0",
        "xtc_probability": "0.5",
        "xtc_threshold": "0.1",
        "penalty_repeat": "1",
        "penalty_last_n": "-1",
        "mirostat": "2",
        "sequence": "kp",
    }
    assert PublishersAdvice(entries).recommended_sampling() == SamplingParams(
        temperature=0.6,
        top_k=20,
        top_p=0.95,
        min_p=0.0,
        xtc_probability=0.5,
        xtc_threshold=0.1,
        repetition_penalty=1.0,
        repeat_last_n=-1,
    )


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("temp", "nan"),
        ("temp", "-1"),
        ("temp", "inf"),
        ("temp", "1e999"),
        ("top_k", "20.5"),
        ("top_k", "1e300"),
        ("top_k", "-1"),
        ("top_p", "0"),
        ("top_p", "1.5"),
        ("min_p", "none"),
        ("min_p", ""),
        ("penalty_repeat", "0"),
        ("penalty_last_n", "inf"),
        ("penalty_last_n", "[1, 2]"),
    ],
)
def test_a_recommendation_that_cannot_be_is_ignored_with_a_warning(
    key: str, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    advice = PublishersAdvice({key: text, "xtc_threshold": "7", "xtc_probability": "0.5"}).recommended_sampling()
    assert advice == SamplingParams(xtc_probability=0.5)
    (warning,) = caplog.messages
    assert f"{key} = {text}" in warning
    assert "xtc_threshold = 7" in warning


@given(text=st.text(st.sampled_from("aeiou \n\t09.,'é߀中文🦊<|>")))
def test_tokens_spell_the_text_they_were_made_of(vocab: Vocab, text: str) -> None:
    tokens = vocab.tokenize(text, add_special=False, parse_special=False)
    assert b"".join(map(vocab.piece, tokens)).decode("utf-8", "replace") == text


@pytest.mark.parametrize("parse_special", [True, False])
@pytest.mark.parametrize(
    "text",
    [
        "The sea, at 9.30: it's calm.\n" * 2_000,
        "<|im_start|>user\nAn answer, please.<|im_end|>\n" * 2_000,
        "<|im_end|>" * 5_000,
        "-" * 10_240,
    ],
)
def test_a_long_text_has_the_tokens_that_one_call_gives_it(vocab: Vocab, text: str, parse_special: bool) -> None:  # noqa: FBT001
    whole = vocab._tokens(text, add_special=True, parse_special=parse_special)
    assert vocab.tokenize(text, add_special=True, parse_special=parse_special) == whole


@pytest.mark.parametrize("length", [3072, 3073, 3074, 100_000])
@pytest.mark.parametrize("letter", ["x", "é", "入", "\U0001f600", b"\x80"])
def test_the_tokenizer_of_a_grammar_reads_the_beginning_of_a_long_text(
    vocab: Vocab, letter: str | bytes, length: int
) -> None:
    unit = letter if isinstance(letter, bytes) else letter.encode()
    text = (b"x" + unit * length)[:length]
    tokens = (ctypes.c_int32 * length)()
    count = vocab.tokenize_function(vocab.pointer, text, length, tokens, length, False, True)
    assert 0 < count <= LONGEST_STRETCH
    if isinstance(letter, str):
        spelled = b"".join(vocab.spell(token, special=True) for token in tokens[:count])
        whole = 1 + (min(length, LONGEST_STRETCH) - 1) // len(unit) * len(unit)
        assert spelled[:whole] == text[:whole]
        assert length <= LONGEST_STRETCH or len(spelled) == whole


def test_the_tokenizer_of_a_grammar_is_the_same_and_takes_any_bytes(vocab: Vocab) -> None:
    for text in (b"<|im_end|> word", "é".encode()[:1], b"x" * 3000 + "é".encode()[:1]):
        tokens = (ctypes.c_int32 * len(text))()
        count = vocab.tokenize_function(vocab.pointer, text, len(text), tokens, len(text), False, True)
        spelled = b"".join(vocab.spell(token, special=True) for token in tokens[:count])
        assert spelled == text if text.isascii() else spelled.startswith(text[:-1])
        assert vocab.tokenize_function(vocab.pointer, text, len(text), tokens, 0, False, True) <= -1


def test_special_tokens_are_read_but_not_spelled_until_they_are_shown(model: Model, vocab: Vocab) -> None:
    token = vocab.single_token("<|im_end|>")
    assert token is not None
    assert token in vocab.eog
    assert (vocab.piece(token), vocab.spell(token, special=True)) == (b"", b"<|im_end|>")
    own = Vocab(lib.llama_model_get_vocab(model.pointer))
    own.show(token)
    assert own.piece(token) == b"<|im_end|>"


def test_ordinary_text_is_no_single_token(vocab: Vocab) -> None:
    assert vocab.single_token("<think>") is None
    assert vocab.spell(-1, special=True) == vocab.spell(1 << 30, special=True) == b""


@pytest.mark.parametrize("text", ["\n", ":", "the", "<|im_end|>", "é", "no token at all", "\ud800"])
def test_tokens_are_found_by_a_part_of_their_text(vocab: Vocab, text: str) -> None:
    needle = text.encode(errors="surrogatepass")
    expected = {token for token in range(vocab.n_tokens) if needle in vocab.text(token)}
    assert vocab.tokens_containing(text) == vocab.tokens_containing(text) == expected


def test_only_so_many_searches_of_the_vocabulary_are_remembered(vocab: Vocab) -> None:
    assert {vocab.tokens_containing(f"no token has {number}") for number in range(100)} == {frozenset()}
    assert len(vocab._searches) < 100


def test_half_a_surrogate_pair_is_an_invalid_request(vocab: Vocab) -> None:
    with pytest.raises(InvalidRequest, match="Unicode"):
        vocab.tokenize("\ud800", add_special=True)


def test_a_context_computes_with_what_it_really_has(model: Model) -> None:
    with Context(model, ContextParams(n_ctx=100, n_batch=512, n_ubatch=512, threads=1), seats=1) as small:
        assert (small.n_ctx, small.n_batch) == (256, 100)


def test_a_context_warms_up_and_is_empty_afterwards(context: Context, vocab: Vocab) -> None:
    context.warm_up(vocab)
    tokens = vocab.tokenize(PROMPT, add_special=True)
    assert np.isfinite(scores_after(context, tokens)).all()


def test_a_context_that_cannot_be_made_is_a_failed_load(model: Model) -> None:
    with pytest.raises(LoadFailed, match="2 sequences of 256 tokens"):
        Context(
            model,
            ContextParams(n_ctx=256, n_batch=64, n_ubatch=64, threads=1, flash_attn="off", kv_type_v="q4_0"),
            seats=2,
        )


def test_cells_that_are_not_there_are_a_status_and_not_a_crash(context: Context, vocab: Vocab) -> None:
    batch = Batch(64)
    statuses = []
    for position in range(0, 320, 64):
        batch.clear()
        batch.add(0, [vocab.any_token] * 64, position=position, wants_logits=False)
        statuses.append(context.decode(batch))
    assert statuses == [DecodeStatus.OK] * 4 + [DecodeStatus.NO_CELLS]
    context.memory.clear(0)
    assert scores_after(context, [vocab.any_token]).size == vocab.n_tokens


def test_an_aborted_context_computes_nothing_any_more(model: Model, vocab: Vocab) -> None:
    with Context(model, ContextParams(n_ctx=256, n_batch=64, n_ubatch=64, threads=1), seats=1) as context:
        batch = Batch(1)
        batch.add(0, [vocab.any_token], position=0, wants_logits=True)
        context.abort()
        assert context.decode(batch) is DecodeStatus.ABORTED


@pytest.mark.parametrize("callback", ["strlen", "python"])
def test_an_abort_flag_is_false_until_it_is_set(callback: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if callback == "python":  # as on a machine where a length does not arrive as a truth value
        monkeypatch.setattr(AbortFlag, "_strlen", lambda _self: None)
    flag = AbortFlag()
    heard = [flag.callback(flag.data)]
    flag.set()
    assert [*heard, flag.callback(flag.data)] == [False, True]


def test_sequences_in_one_batch_do_not_read_each_other(context: Context, vocab: Vocab) -> None:
    tokens = vocab.tokenize(PROMPT, add_special=True)
    other = vocab.tokenize("Something else entirely, with other words.", add_special=True)
    alone = scores_after(context, tokens)
    for seq_id in (0, 1):
        context.memory.clear(seq_id)
    together = scores_after(context, tokens, beside=other)
    # Rounding differs with the shape of the batch; a leak between sequences changes scores by whole units.
    assert np.abs(alone - together).max() < 0.5
    assert alone.argmax() == together.argmax()


def test_a_cleared_sequence_starts_anew(context: Context, vocab: Vocab) -> None:
    tokens = vocab.tokenize(PROMPT, add_special=True)
    first = scores_after(context, tokens)
    context.memory.clear(0)
    assert (scores_after(context, tokens) == first).all()


@pytest.mark.parametrize("repetition_penalty", [1.0, 1.3])
@pytest.mark.parametrize("frequency_penalty", [0.0, 0.8])
def test_penalties_are_those_of_llama_cpp(
    context: Context, vocab: Vocab, repetition_penalty: float, frequency_penalty: float
) -> None:
    tokens = vocab.tokenize(PROMPT + "The sea the sea the sea", add_special=True)
    batch = Batch(64)
    row = batch.add(0, tokens, position=0, wants_logits=True)
    context.decode(batch)
    sampling = Sampling(
        temperature=0,
        seed=1,
        repetition_penalty=repetition_penalty,
        frequency_penalty=frequency_penalty,
        presence_penalty=2.5,
        repeat_last_n=8,
    )
    ours = SamplerChain(sampling, history=tokens, vocab=vocab)
    theirs = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
    lib.llama_sampler_chain_add(
        theirs,
        lib.llama_sampler_init_penalties(vocab.n_tokens, 8, repetition_penalty, frequency_penalty, 2.5),
    )
    lib.llama_sampler_chain_add(theirs, lib.llama_sampler_init_greedy())
    for token in tokens[-8:]:
        lib.llama_sampler_accept(theirs, token)
    # The same row again and again: every choice is a new token to be penalised.
    chosen = [
        (ours.sample(context.logits(row)).token, lib.llama_sampler_sample(theirs, context._pointer, row))
        for _ in range(40)
    ]
    lib.llama_sampler_free(theirs)
    assert [mine for mine, _ in chosen] == [other for _, other in chosen]
    assert len({mine for mine, _ in chosen}) > 1


def test_a_library_that_cannot_be_loaded_is_told_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import neuron_lib.llama.bindings"],
        env={**os.environ, "LLAMA_CPP_LIB_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("llama.cpp cannot be loaded: FileNotFoundError: ")
