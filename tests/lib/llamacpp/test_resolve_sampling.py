import msgspec
import pytest

from neuron_lib.config import SamplingConfig
from neuron_lib.llamacpp.sampling import resolve_sampling
from neuron_lib.types import Sampling, SamplingParams

DEFAULTS = SamplingConfig(temperature=0.7, repetition_penalty=1.1, repeat_last_n=64)
NOTHING = SamplingParams()


def params(field: str, value: float) -> SamplingParams:
    return msgspec.structs.replace(NOTHING, **{field: value})


def resolve(asked: SamplingParams = NOTHING, recommended: SamplingParams = NOTHING) -> Sampling:
    return resolve_sampling(asked, recommended=recommended, defaults=DEFAULTS, fresh_seed=77)


def test_where_nobody_says_anything_the_defaults_hold() -> None:
    assert resolve() == Sampling(temperature=0.7, seed=77, repetition_penalty=1.1, repeat_last_n=64)


@pytest.mark.parametrize(
    ("field", "asked", "recommended"),
    [
        ("temperature", 0.3, 0.6),
        ("top_p", 0.5, 0.95),
        ("top_k", 10, 20),
        ("min_p", 0.1, 0.05),
        ("repetition_penalty", 1.3, 1.05),
        ("repeat_last_n", 16, 32),
    ],
)
def test_the_request_goes_before_the_model_and_the_model_before_the_defaults(
    field: str, asked: float, recommended: float
) -> None:
    advice = params(field, recommended)
    assert getattr(resolve(recommended=advice), field) == recommended
    assert getattr(resolve(params(field, asked), advice), field) == asked


@pytest.mark.parametrize("field", ["top_p", "top_k", "min_p", "repeat_last_n", "frequency_penalty", "seed"])
def test_a_zero_that_was_asked_for_is_not_taken_for_silence(field: str) -> None:
    advice = SamplingParams(top_p=0.9, top_k=20, min_p=0.1, repeat_last_n=32)
    assert getattr(resolve(params(field, 0), advice), field) == 0


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_greedy_keeps_the_default_penalty_unless_the_request_asks_for_none(temperature: float) -> None:
    greedy = SamplingParams(temperature=temperature)
    assert resolve(greedy).repetition_penalty == 1.1
    assert not resolve(msgspec.structs.replace(greedy, repetition_penalty=1.0)).has_penalties


def test_penalties_of_the_request_are_kept() -> None:
    sampling = resolve(SamplingParams(frequency_penalty=0.5, presence_penalty=-0.5))
    assert (sampling.frequency_penalty, sampling.presence_penalty) == (0.5, -0.5)
