import json

from msgspec.structs import replace

from neuron_lib.types import ModelInfo, ModelLimit, ModelStatus
from neuron_lib.wire.openai_models import encode_absent_model, encode_model, encode_model_list


def info(model_id: str, limit: ModelLimit | None = None) -> ModelInfo:
    return ModelInfo(id=model_id, harness="llamacpp", status=ModelStatus.LOADED, devices=(0,), limit=limit)


def test_models_are_listed_as_openai_does_with_the_context_where_it_is_known() -> None:
    models = [info("a/b", ModelLimit(context=4096, output=512)), info("c/d")]
    common = {"created": 7, "object": "model", "owned_by": "neuron"}
    assert json.loads(encode_model_list(models, created=7)) == {
        "object": "list",
        "data": [
            {"id": "a/b", "max_model_len": 4096, "limit": {"context": 4096, "output": 512}, **common},
            {"id": "c/d", **common},
        ],
    }


def test_a_host_without_models_has_an_empty_list() -> None:
    assert json.loads(encode_model_list([], created=7)) == {"object": "list", "data": []}


def test_a_model_was_created_when_it_was_loaded_where_that_is_known() -> None:
    listed = json.loads(encode_model_list([info("a/b"), info("c/d")], created=7, loaded={"c/d": 5}))
    assert [(model["id"], model["created"]) for model in listed["data"]] == [("a/b", 7), ("c/d", 5)]


def test_models_that_a_request_would_load_come_after_the_resident_ones() -> None:
    listed = json.loads(encode_model_list([info("a/b")], created=7, on_demand=("c/d",)))["data"]
    assert [model["id"] for model in listed] == ["a/b", "c/d"]
    assert listed[1] == json.loads(encode_absent_model("c/d", created=7))


def test_one_model_is_told_as_in_the_list() -> None:
    model = replace(info("a/b", ModelLimit(context=4096, output=512)), capabilities=("text", "vision"))
    one = json.loads(encode_model(model, created=7))
    assert one == json.loads(encode_model_list([model], created=7))["data"][0]
    assert one["capabilities"] == ["text", "vision"]
