"""What is wrong in a request for images is refused by the codes of the gateway's contract."""

import json
from typing import Any

import pytest

from neuron_lib.errors import InvalidRequest
from neuron_lib.wire.openai_images import ImageRequest, decode_image_request

JSON = {"content-type": "application/json"}
BODY = {"model": "o/a", "prompt": "a fox"}


def decode(**more: Any) -> ImageRequest:
    return decode_image_request(json.dumps(BODY | more).encode(), headers=JSON)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"n": 1, "size": "1024x768", "response_format": "b64_json", "output_format": "png", "seed": 2**64 - 1},
        {"n": None, "size": "auto", "num_steps": 1, "guidance_scale": 0, "quality": "high"},
    ],
)
def test_a_request_that_an_image_model_could_answer_is_read(more: dict[str, Any]) -> None:
    assert (decode(**more).model, decode(**more).prompt) == ("o/a", "a fox")


@pytest.mark.parametrize(
    ("more", "code", "param"),
    [
        ({"n": 2}, "unsupported_parameter", "n"),
        ({"n": 0}, "unsupported_parameter", "n"),
        ({"response_format": "url"}, "unsupported_parameter", "response_format"),
        ({"output_format": "webp"}, "unsupported_parameter", "output_format"),
        ({"stream": True}, "unsupported_parameter", "stream"),
        ({"size": "huge"}, "invalid_size", "size"),
        ({"size": ""}, "invalid_size", "size"),
        ({"size": "1024x"}, "invalid_size", "size"),
        ({"size": "1000x1024"}, "invalid_size", "size"),
        ({"size": "0x0"}, "invalid_size", "size"),
        ({"size": "99984x99984"}, "invalid_size", "size"),
        ({"prompt": " "}, "invalid_image_params", "prompt"),
        ({"num_steps": 0}, "invalid_image_params", "num_steps"),
        ({"guidance_scale": -1}, "invalid_image_params", "guidance_scale"),
        ({"prompt": 1}, "invalid_request_body", "prompt"),
        ({"seed": 2**64}, "invalid_request_body", "seed"),
        ({"model": ""}, "invalid_request_body", "model"),
    ],
)
def test_what_is_wrong_is_refused_by_its_code_and_its_name(more: dict[str, Any], code: str, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode(**more)
    assert (caught.value.code, caught.value.param) == (code, param)
