"""The sampling parameters of a request body, in every spelling that clients of OpenAI, vLLM and llama.cpp use."""

import re
from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta

from neuron_lib.errors import InvalidRequest
from neuron_lib.types import SamplingParams
from neuron_lib.types.sampling import RepetitionPenalty
from neuron_lib.wire.bodies import NOTHING, decode_part, is_given
from neuron_lib.wire.json_bounds import check_u64, check_values, refusal

__all__ = ("SamplingFields", "read_sampling")

_MAX_BIASES: Final = 1024
_MAX_TOKEN: Final = 2**31 - 1
_TOKEN: Final = re.compile(r"0|[1-9][0-9]{0,9}")

_SeedOrRandom: TypeAlias = Annotated[int, Meta(ge=-1)]
_ShareOrLikeliest: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
_TopKOrOff: TypeAlias = Annotated[int, Meta(ge=-1, le=2**31 - 1)]

_biases_decoder: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_bias_decoder: Final = msgspec.json.Decoder(Annotated[float, Meta(ge=-100, le=100)])


class SamplingFields(SamplingParams, frozen=True, kw_only=True):
    """The fields of a body that say how tokens are chosen: all of `SamplingParams`, and what clients spell otherwise.

    A `top_p` of 0 asks for the likeliest token alone; -1 turns `top_k` off, and as a `seed` asks for a random one.
    """

    top_p: _ShareOrLikeliest | None = None
    top_k: _TopKOrOff | None = None
    seed: _SeedOrRandom | None = None
    repeat_penalty: RepetitionPenalty | None = None
    # Its values are decoded one by one, because msgspec's errors do not name the key.
    logit_bias: msgspec.Raw = NOTHING  # type: ignore[assignment]


def read_sampling(fields: SamplingFields) -> SamplingParams:
    """What the body asks for. Raises `InvalidRequest` for values that contradict each other or are out of bounds."""
    check_u64(fields.seed, "seed")
    asked = {name: getattr(fields, name) for name in SamplingParams.__struct_fields__}
    asked["repetition_penalty"] = _repetition_penalty(fields)
    asked["logit_bias"] = _biases(fields.logit_bias) if is_given(fields.logit_bias) else {}
    if fields.seed == -1:
        asked["seed"] = None
    if fields.top_k == -1:
        asked["top_k"] = 0
    if fields.top_p == 0:
        asked |= {"top_p": None, "top_k": 1}
    return SamplingParams(**asked)


def _repetition_penalty(fields: SamplingFields) -> float | None:
    """The penalty under vLLM's name or llama.cpp's."""
    if fields.repetition_penalty is None or fields.repeat_penalty in {None, fields.repetition_penalty}:
        return fields.repeat_penalty if fields.repetition_penalty is None else fields.repetition_penalty
    raise refusal("repeat_penalty", "it contradicts `repetition_penalty`")


def _biases(text: msgspec.Raw) -> dict[int, float]:
    check_values(bytes(text), most=2 * _MAX_BIASES, place="logit_bias")
    biases = decode_part(_biases_decoder, text, param="logit_bias")
    if len(biases) > _MAX_BIASES:
        raise refusal("logit_bias", f"Expected `object` of length <= {_MAX_BIASES}")
    return dict(_bias(token, raw) for token, raw in biases.items())


def _bias(token: str, raw: msgspec.Raw) -> tuple[int, float]:
    place = f"logit_bias.{token[:32]}"
    if _TOKEN.fullmatch(token) is None or int(token) > _MAX_TOKEN:
        problem = "the key is not the id of a token"
        raise InvalidRequest(
            f"{place}: {problem}", param=place, summary=f"logit_bias: {problem.replace('the', 'a', 1)}"
        )
    try:
        return int(token), _bias_decoder.decode(raw)
    except msgspec.DecodeError as exc:
        raise InvalidRequest(f"{place}: {exc}", param=place, summary=f"logit_bias: {exc}") from None
