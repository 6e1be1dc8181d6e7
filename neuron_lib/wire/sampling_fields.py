"""The sampling parameters of a request body, in every spelling that clients of OpenAI, vLLM and llama.cpp use."""

import re
from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta

from neuron_lib.errors import InvalidRequest
from neuron_lib.types import SamplingParams
from neuron_lib.types.sampling import RepetitionPenalty, StopTokens
from neuron_lib.wire.bodies import NOTHING, decode_part, is_given, read_as
from neuron_lib.wire.json_bounds import check_u64, check_values, refusal

__all__ = ("SamplingFields", "read_sampling")

_MAX_BIASES: Final = 1024
_MAX_TOKEN: Final = 2**31 - 1
_TOKEN: Final = re.compile(r"0|[1-9][0-9]{0,9}")

_SeedOrRandom: TypeAlias = Annotated[int, Meta(ge=-1)]
_ShareOrLikeliest: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
_TopKOrOff: TypeAlias = Annotated[int, Meta(ge=-1, le=2**31 - 1)]

_Bias: TypeAlias = Annotated[float, Meta(ge=-100, le=100)]
_Pair: TypeAlias = tuple[int, _Bias | bool]

_biases_decoder: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_pairs_decoder: Final = msgspec.json.Decoder(list[tuple[int | str, msgspec.Raw]])
_bias_decoder: Final = msgspec.json.Decoder(_Bias)
_NEVER: Final = -100.0
"""The bias that llama.cpp writes as false. It is larger than the difference between any two scores of a model."""


class SamplingFields(SamplingParams, frozen=True, kw_only=True):
    """The fields of a body that say how tokens are chosen: all of `SamplingParams`, and what clients spell otherwise.

    A `top_p` of 0 asks for the likeliest token alone; -1 turns `top_k` off, and as a `seed` asks for a random one.
    """

    top_p: _ShareOrLikeliest | None = None
    top_k: _TopKOrOff | None = None
    seed: _SeedOrRandom | None = None
    repeat_penalty: RepetitionPenalty | None = None
    stop_token_ids: StopTokens | None = None  # type: ignore[assignment]  # wider than its base: it may be left out
    # Its values are decoded one by one, because msgspec's errors do not name the key.
    logit_bias: Annotated[msgspec.Raw, read_as(dict[str, _Bias] | list[_Pair])] = NOTHING  # type: ignore[assignment]  # undecoded here, unlike in its base


def read_sampling(fields: SamplingFields) -> SamplingParams:
    """What the body asks for. Raises `InvalidRequest` for values that contradict each other or are out of bounds."""
    check_u64(fields.seed, "seed")
    asked = {name: getattr(fields, name) for name in SamplingParams.__struct_fields__}
    asked["repetition_penalty"] = _repetition_penalty(fields)
    asked["logit_bias"] = _biases(fields.logit_bias) if is_given(fields.logit_bias) else {}
    asked["stop_token_ids"] = fields.stop_token_ids or ()
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
    """The biases by token. OpenAI's shape is an object, llama.cpp's a list of pairs, where false means never."""
    check_values(bytes(text), most=4 * _MAX_BIASES, place="logit_bias")
    is_list = bytes(text)[:1] == b"["
    pairs = (
        [(str(token), raw) for token, raw in decode_part(_pairs_decoder, text, param="logit_bias")]
        if is_list
        else [*decode_part(_biases_decoder, text, param="logit_bias").items()]
    )
    if len(pairs) > _MAX_BIASES:
        raise refusal("logit_bias", f"Expected `{'array' if is_list else 'object'}` of length <= {_MAX_BIASES}")
    return dict(_bias(token, raw) for token, raw in pairs)


def _bias(token: str, raw: msgspec.Raw) -> tuple[int, float]:
    place = f"logit_bias.{token[:32]}"
    if _TOKEN.fullmatch(token) is None or int(token) > _MAX_TOKEN:
        problem = "the key is not the id of a token"
        raise InvalidRequest(
            f"{place}: {problem}", param=place, summary=f"logit_bias: {problem.replace('the', 'a', 1)}"
        )
    if bytes(raw) == b"false":
        return int(token), _NEVER
    try:
        return int(token), _bias_decoder.decode(raw)
    except msgspec.DecodeError as exc:
        raise InvalidRequest(f"{place}: {exc}", param=place, summary=f"logit_bias: {exc}") from None
