"""Our arithmetic against that of libllama's own samplers, on the same scores."""

import ctypes
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from neuron_lib.llama.bindings import init_backend, lib, route_logs
from neuron_lib.llama.model import Model
from neuron_lib.llama.vocab import Vocab
from neuron_lib.sampling.filters import Unsure, filters
from neuron_lib.sampling.lottery import Lottery
from neuron_lib.sampling.penalties import penalties
from neuron_lib.sampling.sampler import SamplerChain
from neuron_lib.types import Sampling

pytestmark = pytest.mark.model

Scores = npt.NDArray[np.float32]

STORY = 'The sea: "the sea, the sea" * the sea was calm. The sea was calm.\nThe sea: "the sea, the sea" * the sea'


@pytest.fixture(scope="module")
def vocab(smollm2_path: Path) -> Iterator[Vocab]:
    init_backend()
    route_logs(lambda _level, _text: None)
    with Model(smollm2_path, gpu_layers=0, on_progress=lambda _fraction: True) as model:
        yield model.vocab


def scores_of(seed: int, *, spread: float = 3.0, size: int = 2000, peak: float = 0.0) -> Scores:
    scores = np.random.default_rng(seed).normal(0, spread, size).astype(np.float32)
    scores[7] += peak
    return scores


def theirs(sampler: Any, scores: Scores, history: Sequence[int] = ()) -> dict[int, float]:
    """The tokens that a native sampler leaves, with their scores."""
    entries = (lib.llama_token_data * scores.size)()
    table = np.ctypeslib.as_array(entries)
    table["id"], table["logit"] = np.arange(scores.size), scores
    array = lib.llama_token_data_array(data=entries, size=scores.size, selected=-1, sorted=False)
    for token in history:
        lib.llama_sampler_accept(sampler, token)
    lib.llama_sampler_apply(sampler, ctypes.byref(array))
    left = np.ctypeslib.as_array(array.data, (array.size,))
    left = left[left["logit"] > -np.inf]
    lib.llama_sampler_free(sampler)
    return dict(zip(left["id"].tolist(), left["logit"].tolist(), strict=True))


def kept(sampling: Sampling, scores: Scores) -> set[int]:
    """The tokens that the only filter of `sampling` leaves; XTC always strikes. Raises `Unsure`."""
    lottery = Lottery(sampling)
    few = lottery._few(scores, float(scores.max()))
    assert few is not None
    ids = lottery._filtered(few, strikes=sampling.xtc_probability > 0).ids
    return set(range(scores.size)) if ids is None else set(ids.tolist())


def kept_of_all(sampling: Sampling, scores: Scores) -> set[int]:
    """The same for a filter that adds up the row, one token after the other."""
    lottery = Lottery(sampling)
    best = float(scores.max())
    weights = lottery._weights(scores, best, 1.0, -math.inf, buffer=0)[: scores.size]
    wanted = float(weights.sum()) * min(sampling.top_p, sampling.typical_p)
    share = lottery._share(scores, weights, wanted)
    return {token for token in range(scores.size) if share.holds(token)}


def adjusted(sampling: Sampling, scores: Scores, vocab: Vocab, history: Sequence[int]) -> Scores:
    """The scores that the only penalty of `sampling` makes."""
    changed = scores.copy()
    for penalty in penalties(sampling, history=history, vocab=vocab):
        penalty.apply(changed)
    return changed


@pytest.mark.parametrize(("spread", "peak"), [(0.5, 0.0), (0.5, 9.0), (3.0, 0.0), (8.0, 0.0)])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("name", "value", "native"),
    [
        ("top_n_sigma", 0.5, lib.llama_sampler_init_top_n_sigma),
        ("top_n_sigma", 2.0, lib.llama_sampler_init_top_n_sigma),
        ("top_k", 1, lib.llama_sampler_init_top_k),
        ("top_k", 40, lib.llama_sampler_init_top_k),
        ("top_k", 1500, lib.llama_sampler_init_top_k),
        ("top_k", 5000, lib.llama_sampler_init_top_k),
        ("typical_p", 0.05, lambda value: lib.llama_sampler_init_typical(value, 1)),
        ("typical_p", 0.5, lambda value: lib.llama_sampler_init_typical(value, 1)),
        ("typical_p", 0.95, lambda value: lib.llama_sampler_init_typical(value, 1)),
        ("top_p", 0.05, lambda value: lib.llama_sampler_init_top_p(value, 1)),
        ("top_p", 0.5, lambda value: lib.llama_sampler_init_top_p(value, 1)),
        ("top_p", 0.95, lambda value: lib.llama_sampler_init_top_p(value, 1)),
        ("min_p", 0.01, lambda value: lib.llama_sampler_init_min_p(value, 1)),
        ("min_p", 0.5, lambda value: lib.llama_sampler_init_min_p(value, 1)),
    ],
)
def test_a_filter_keeps_what_llama_cpp_keeps(
    *, name: str, value: float, native: Callable[[float], Any], seed: int, spread: float, peak: float
) -> None:
    scores = scores_of(seed, spread=spread, peak=peak)
    sampling = Sampling(temperature=1, seed=1, **{name: value})  # type: ignore[arg-type]
    expected = set(theirs(native(value), scores))
    assert kept(sampling, scores) == expected
    if name in {"top_p", "typical_p"}:
        assert kept_of_all(sampling, scores) == expected


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("spread", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_a_large_flat_row_is_cut_where_llama_cpp_cuts_it(seed: int, spread: float, share: float) -> None:
    scores = scores_of(seed, spread=spread, size=20_000)
    expected = theirs(lib.llama_sampler_init_top_p(share, 1), scores)
    lowest = min(expected.values())
    indices = filters(Sampling(temperature=1, seed=1, top_p=share))[0](scores - scores.max(), 0.0)
    assert scores[indices].min() == pytest.approx(lowest, abs=spread / 100)  # their sums have 32 bits
    assert len(indices) == pytest.approx(len(expected), rel=1e-3)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    ("name", "value", "native"),
    [
        ("top_p", 0.5, lib.llama_sampler_init_top_p),
        ("top_p", 0.9, lib.llama_sampler_init_top_p),
        ("min_p", 0.05, lib.llama_sampler_init_min_p),
        ("xtc_threshold", 0.05, lambda value, _keep: lib.llama_sampler_init_xtc(1.0, value, 1, 1)),
    ],
)
def test_of_a_large_peaked_row_the_likeliest_tokens_say_what_is_kept_or_that_they_do_not_know(
    name: str, value: float, native: Callable[[float, int], Any], seed: int
) -> None:
    scores = scores_of(seed, size=20_000)
    scores[np.random.default_rng(seed).integers(0, 20_000, 40)] += 20
    options: dict[str, Any] = {name: value, "xtc_probability": float(name == "xtc_threshold")}
    sampling = Sampling(temperature=1, seed=1, **options)
    expected = set(theirs(native(value, 1), scores))
    try:
        ours = kept(sampling, scores)
    except Unsure:
        return
    likeliest = set(np.flatnonzero(scores > scores.max() - 15).tolist())
    assert ours & likeliest == expected & likeliest


@pytest.mark.parametrize("threshold", [0.001, 0.02, 0.1, 0.4, 0.6])
@pytest.mark.parametrize("seed", range(5))
def test_xtc_removes_what_llama_cpp_removes(seed: int, threshold: float) -> None:
    scores = scores_of(seed, size=200)
    ours = kept(Sampling(temperature=1, seed=1, xtc_probability=1.0, xtc_threshold=threshold), scores)
    assert ours == set(theirs(lib.llama_sampler_init_xtc(1.0, threshold, 1, 1), scores))


@pytest.mark.parametrize("seed", range(5))
def test_all_filters_together_keep_what_llama_cpp_keeps_in_its_order(vocab: Vocab, seed: int) -> None:
    scores = scores_of(seed, size=300)
    sampling = Sampling(
        temperature=1e9,  # whatever is kept is drawn as often as anything else
        seed=seed,
        top_n_sigma=2.5,
        top_k=30,
        typical_p=0.9,
        top_p=0.95,
        min_p=0.02,
        xtc_probability=1.0,
        xtc_threshold=0.15,
    )
    chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
    for native in (
        lib.llama_sampler_init_top_n_sigma(sampling.top_n_sigma),
        lib.llama_sampler_init_top_k(sampling.top_k),
        lib.llama_sampler_init_typical(sampling.typical_p, 1),
        lib.llama_sampler_init_top_p(sampling.top_p, 1),
        lib.llama_sampler_init_min_p(sampling.min_p, 1),
        lib.llama_sampler_init_xtc(1.0, sampling.xtc_threshold, 1, 1),
    ):
        lib.llama_sampler_chain_add(chain, native)
    expected = set(theirs(chain, scores))
    ours = SamplerChain(sampling, history=(), vocab=vocab)
    assert {ours.sample(scores).token for _ in range(50 * len(expected))} == expected


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("penalties", [(1.3, 0.0, 0.0), (0.8, 0.5, -0.5), (1.0, -1.0, 2.0)])
@pytest.mark.parametrize("last_n", [1, 16, 64])
def test_penalties_are_those_of_llama_cpp(
    vocab: Vocab, seed: int, penalties: tuple[float, float, float], last_n: int
) -> None:
    scores = scores_of(seed, size=50)
    history = np.random.default_rng(seed).integers(0, 50, 100).tolist()
    repetition, frequency, presence = penalties
    sampling = Sampling(
        temperature=1,
        seed=1,
        repeat_last_n=last_n,
        repetition_penalty=repetition,
        frequency_penalty=frequency,
        presence_penalty=presence,
    )
    native = lib.llama_sampler_init_penalties(50, last_n, repetition, frequency, presence)
    expected = theirs(native, scores, history)
    ours = adjusted(sampling, scores, vocab, history)
    assert ours.tolist() == pytest.approx([expected[id_] for id_ in range(50)], abs=1e-5)


def test_a_logit_bias_is_that_of_llama_cpp(vocab: Vocab) -> None:
    scores = scores_of(1, size=50)
    biases = {0: 1.5, 7: -100.0, 49: 100.0, 60: 5.0}
    native = lib.llama_sampler_init_logit_bias(50, len(biases), (lib.llama_logit_bias * len(biases))(*biases.items()))
    expected = theirs(native, scores)
    ours = adjusted(Sampling(temperature=1, seed=1, logit_bias=biases), scores, vocab, ())
    assert ours.tolist() == pytest.approx([expected[id_] for id_ in range(50)])


@pytest.mark.parametrize("breakers", [(), (":",), ("\n", ":", '"', "*"), (" ",), ("e",)])
@pytest.mark.parametrize(("allowed", "last_n"), [(2, 1000), (0, 1000), (1, 20), (4, 30), (1, 3)])
@pytest.mark.parametrize("tail", ["", ": the", ", the sea was", "\nThe sea:", " the sea the sea the sea the"])
def test_dry_is_that_of_llama_cpp(
    vocab: Vocab, breakers: tuple[str, ...], allowed: int, last_n: int, tail: str
) -> None:
    scores = scores_of(1, size=vocab.n_tokens)
    history = vocab.tokenize(STORY + tail, add_special=True)
    sampling = Sampling(
        temperature=1,
        seed=1,
        dry_multiplier=0.8,
        dry_base=1.75,
        dry_allowed_length=allowed,
        dry_penalty_last_n=last_n,
        dry_sequence_breakers=breakers,
    )
    native = lib.llama_sampler_init_dry(
        vocab._pointer,
        0.8,
        1.75,
        allowed,
        last_n,
        (ctypes.c_char_p * len(breakers))(*(breaker.encode() for breaker in breakers)),
        len(breakers),
    )
    expected = theirs(native, scores, history)
    ours = adjusted(sampling, scores, vocab, history)
    assert np.allclose(ours, [expected[id_] for id_ in range(scores.size)], rtol=1e-5)
