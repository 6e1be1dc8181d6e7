"""Reads the bodies of OpenAI's `POST /v1/images/generations`, which no model here can answer.

What is wrong in a body is refused by the codes of the gateway's contract, so that a client corrects its request before
it looks for another host.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from neuron_lib.errors import InvalidRequest
from neuron_lib.shown import clip
from neuron_lib.wire.bodies import decode_body
from neuron_lib.wire.field_types import ModelId
from neuron_lib.wire.json_bounds import check_u64

__all__ = ("ImageRequest", "InvalidImageParams", "InvalidSize", "UnsupportedParameter", "decode_image_request")

_SIZE: Final = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", re.ASCII)
_SIDES: Final = range(64, 4097)
"""Pixels of each side of an image."""
_MULTIPLE: Final = 16
"""Image models work on blocks of this many pixels."""
_MAX_STEPS: Final = 1000


class UnsupportedParameter(InvalidRequest):
    """A parameter asks for something other than one PNG image in base64."""

    code = "unsupported_parameter"


class InvalidSize(InvalidRequest):
    """`size` is not WIDTHxHEIGHT, or no image model makes images of this size."""

    code = "invalid_size"


class InvalidImageParams(InvalidRequest):
    """A value makes no sense for an image."""

    code = "invalid_image_params"


class ImageRequest(Struct, frozen=True, kw_only=True):
    """The body of a request. `num_steps`, `guidance_scale` and `negative_prompt` are those of diffusion models."""

    model: ModelId
    prompt: str
    n: int | None = None
    size: str | None = None
    response_format: str | None = None
    output_format: str | None = None
    seed: Annotated[int, Meta(ge=0)] | None = None
    negative_prompt: str | None = None
    guidance_scale: float | None = None
    num_steps: int | None = None
    stream: bool | None = None


_decoder: Final = msgspec.json.Decoder(ImageRequest)


def decode_image_request(body: bytes, *, headers: Mapping[str, str]) -> ImageRequest:
    """The request in `body`. Names in `headers` are in lower case.

    Raises what `neuron_lib.wire.bodies.decode_body` raises, `UnsupportedParameter`, `InvalidSize` and
    `InvalidImageParams`.
    """
    request = decode_body(_decoder, body, content_type=headers.get("content-type"))
    check_u64(request.seed, "seed")
    if request.n not in {None, 1}:
        raise _refusal(UnsupportedParameter, "n", "only one image at a time")
    if request.response_format not in {None, "b64_json"}:
        raise _refusal(UnsupportedParameter, "response_format", 'only "b64_json"', request.response_format)
    if request.output_format not in {None, "png"}:
        raise _refusal(UnsupportedParameter, "output_format", 'only "png"', request.output_format)
    if request.stream:
        raise _refusal(UnsupportedParameter, "stream", "only whole images")
    _check_size(request.size)
    if not request.prompt.strip():
        raise _refusal(InvalidImageParams, "prompt", "there is nothing to paint")
    if request.num_steps is not None and not 1 <= request.num_steps <= _MAX_STEPS:
        raise _refusal(InvalidImageParams, "num_steps", f"expected 1 to {_MAX_STEPS}")
    if request.guidance_scale is not None and request.guidance_scale < 0:
        raise _refusal(InvalidImageParams, "guidance_scale", "expected 0 or more")
    return request


def _check_size(size: str | None) -> None:
    if size in {None, "auto"}:
        return
    sides = _SIZE.fullmatch(size or "")
    if sides is None:
        raise _refusal(InvalidSize, "size", "expected WIDTHxHEIGHT in pixels", size)
    if any(int(side) not in _SIDES or int(side) % _MULTIPLE for side in sides.groups()):
        least, most = _SIDES[0], _SIDES[-1]
        raise _refusal(InvalidSize, "size", f"each side must be a multiple of {_MULTIPLE} from {least} to {most}", size)


def _refusal(kind: type[InvalidRequest], param: str, problem: str, value: str | None = None) -> InvalidRequest:
    summary = f"{param}: {problem}"
    quoted = "" if value is None else f"; it is {clip(value)!r}"
    return kind(summary + quoted, param=param, summary=summary)
