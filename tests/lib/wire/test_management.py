import pytest

from neuron_lib.errors import InvalidRequest
from neuron_lib.types import ModelSpec
from neuron_lib.wire.bodies import MalformedJson, UnsupportedMediaType
from neuron_lib.wire.management import MissingModelId, decode_load_request, decode_unload_request

JSON = "application/json"


@pytest.mark.parametrize(
    ("body", "spec"),
    [
        (b'{"model_id":"a/b"}', ModelSpec(model_id="a/b")),
        (b'{"model_id":"a/b","harness":"llamacpp"}', ModelSpec(model_id="a/b", harness="llamacpp")),
        (
            b'{"model_id":"a/b","harness":"h","quant":null,"tensor_parallel":null,"devices":null,"min_vram":1}',
            ModelSpec(model_id="a/b", harness="h"),
        ),
        (
            b'{"model_id":"x:a/b","harness":"h","quant":"Q4_K_M","tensor_parallel":2,"devices":[0,1]}',
            ModelSpec(model_id="x:a/b", harness="h", quant="Q4_K_M", tensor_parallel=2, devices=(0, 1)),
        ),
        (b'{"model_id":"a/b","harness":"h","devices":[]}', ModelSpec(model_id="a/b", harness="h", devices=())),
    ],
)
def test_a_load_request_is_a_spec(body: bytes, spec: ModelSpec) -> None:
    assert decode_load_request(body, content_type=JSON) == spec


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"harness":"h"}', "model_id"),
        (b'{"model_id":null,"harness":"h"}', "model_id"),
        (b'{"model_id":"a/b","harness":"h","devices":[-1]}', "devices[0]"),
        (b'{"model_id":"a/b","harness":"h","devices":[0.0]}', "devices[0]"),
        (b'{"model_id":"a/b","harness":"h","tensor_parallel":0}', "tensor_parallel"),
        (b'{"model_id":"a/b","harness":"h","quant":4}', "quant"),
    ],
)
def test_a_load_request_of_another_shape_names_its_field(body: bytes, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode_load_request(body, content_type=JSON)
    assert caught.value.param == param


def test_an_unload_request_is_a_model_id() -> None:
    assert decode_unload_request(b'{"model_id":"a/b","force":true}', content_type=JSON) == "a/b"


@pytest.mark.parametrize("body", [b"{}", b'{"model_id":null}', b'{"model_id":7}', b"[]", b"null"])
def test_an_unload_request_without_an_id_is_told_so(body: bytes) -> None:
    with pytest.raises(MissingModelId) as caught:
        decode_unload_request(body, content_type=JSON)
    assert caught.value.param == "model_id"


def test_an_unload_request_that_is_not_json_is_malformed_like_any_other() -> None:
    with pytest.raises(MalformedJson):
        decode_unload_request(b"model_id=a/b", content_type=JSON)
    with pytest.raises(UnsupportedMediaType):
        decode_unload_request(b"{}", content_type="text/plain")
