import json
from typing import Any

import pytest

from neuron_lib.errors import (
    AlreadyLoaded,
    EngineDead,
    EngineFailed,
    InvalidGrammar,
    InvalidModelId,
    InvalidRequest,
    LoadCancelled,
    LoadFailed,
    ModelLoading,
    ModelNotLoaded,
    NeuronError,
    Overloaded,
    OverloadReason,
    PreflightFailed,
    PreflightKind,
    PromptTooLong,
    ShuttingDown,
    SourceUnavailable,
    SuspectRequest,
    TemplateFailed,
    UnknownHarness,
    UnsupportedCapability,
    WrongModality,
)
from neuron_lib.wire.bodies import MalformedJson, UnsupportedMediaType
from neuron_lib.wire.management import MissingModelId
from neuron_lib.wire.openai_errors import (
    HttpError,
    cuda_unavailable,
    envelope,
    load_error,
    not_resident,
    to_http_error,
    unload_error,
)

INVALID, RATE, API = "invalid_request_error", "rate_limit_error", "api_error"
QUANT_MISSING = PreflightFailed(
    PreflightKind.QUANT_NOT_FOUND,
    "no file matches q9",
    model_id="hf:a/b",
    requested="q9",
    available=("q4_0", "q8_0"),
    nearest="q8_0",
)


def overloaded(reason: OverloadReason) -> Overloaded:
    return Overloaded("no room", reason=reason, retry_after_s=18)


def caused(error: NeuronError, cause: Exception) -> NeuronError:
    error.__cause__ = cause
    return error


def body(error: HttpError) -> Any:
    return json.loads(error.body)


@pytest.mark.parametrize(
    ("error", "status", "error_type", "code", "retry_after"),
    [
        (UnsupportedMediaType("x"), 415, INVALID, "unsupported_media_type", None),
        (MalformedJson("x"), 400, INVALID, "malformed_json", None),
        (InvalidRequest("x", param="top_p"), 400, INVALID, "invalid_request_body", None),
        (InvalidGrammar("x", param="regex"), 400, INVALID, "invalid_grammar", None),
        (MissingModelId("x"), 400, INVALID, "invalid_request_body", None),
        (PromptTooLong(prompt_tokens=9, limit=8), 400, INVALID, "context_length_exceeded", None),
        (TemplateFailed("x"), 422, INVALID, "template_render_failed", None),
        (SuspectRequest("a/b", "SIGSEGV", "SIGABRT"), 400, INVALID, "suspect_request", None),
        (UnsupportedCapability("x"), 400, INVALID, "vision_unsupported", None),
        (WrongModality("a/b", ("embeddings",)), 422, INVALID, "wrong_modality", None),
        (ModelNotLoaded("a/b"), 404, INVALID, "model_not_found", None),
        (ModelLoading("a/b", "x", stage="loading", retry_after_s=42), 503, API, "model_loading", "42"),
        (overloaded(OverloadReason.QUEUE_FULL), 503, RATE, "rate_limit_exceeded", "18"),
        (overloaded(OverloadReason.WAIT_EXPIRED), 503, RATE, "rate_limit_exceeded", "18"),
        (overloaded(OverloadReason.ENGINE_LOST), 503, API, "service_unavailable", "18"),
        (ShuttingDown(), 503, API, "shutting_down", "15"),
        (EngineDead("a/b", "SIGSEGV"), 500, API, None, None),
        (EngineFailed("x"), 500, API, None, None),
        (LoadFailed("x"), 500, API, None, None),
        (NeuronError("x"), 500, API, None, None),
    ],
)
def test_each_inference_error_has_its_row(
    error: NeuronError, status: int, error_type: str, code: str | None, retry_after: str | None
) -> None:
    answer = to_http_error(error)
    assert (answer.status, answer.type, answer.code, answer.retry_after) == (status, error_type, code, retry_after)
    assert answer.body == envelope(error)
    inner = body(answer)["error"]
    assert (inner["type"], inner["code"]) == (error_type, code)
    assert {"message", "type", "code", "param"} <= inner.keys()


def test_the_numbers_behind_an_error_are_extra_keys_inside_it() -> None:
    assert body(to_http_error(PromptTooLong(prompt_tokens=9000, limit=4096))) == {
        "error": {
            "message": "This model's maximum context length is 4096 tokens, but the prompt has 9000 tokens. "
            "Shorten the messages.",
            "type": INVALID,
            "code": "context_length_exceeded",
            "param": None,
            "prompt_len": 9000,
            "max": 4096,
        }
    }


def test_an_extra_key_never_replaces_one_of_the_envelope() -> None:
    inner = body(to_http_error(NeuronError("real", type="fake", code="fake", param="fake")))["error"]
    assert inner == {"message": "real", "type": API, "code": None, "param": None}


def test_an_invalid_request_names_its_parameter() -> None:
    inner = body(to_http_error(InvalidRequest("top_p: too large", param="top_p")))["error"]
    assert (inner["param"], inner["message"]) == ("top_p", "top_p: too large")


def test_other_errors_tell_the_whole_chain_of_causes() -> None:
    error = caused(EngineFailed("decode failed"), OSError("disk gone"))
    assert body(to_http_error(error))["error"]["message"] == "decode failed: OSError: disk gone"


def test_an_error_is_one_line_also_for_readers_that_take_other_characters_for_its_end() -> None:
    for answer in (to_http_error(ModelNotLoaded("a\u2028b\u2029c\x85")), unload_error(NeuronError("d\u2028e"))):
        assert len(answer.body.decode().splitlines()) == 1


def test_what_is_not_text_in_an_error_does_not_break_the_answer() -> None:
    error = EngineFailed("cannot read /m/\udcff.gguf", path="\udcff", kind={1}, lines=("a\r\nb",))
    inner = body(to_http_error(error))["error"]
    assert (inner["message"], inner["path"], inner["kind"]) == ("cannot read /m/?.gguf", "?", "{1}")
    assert inner["lines"] == ["a\r\nb"]


@pytest.mark.parametrize(
    ("error", "status", "expected", "retry_after"),
    [
        (AlreadyLoaded("a/b"), 400, {"error": "model 'a/b' is already loaded"}, None),
        (UnknownHarness("no harness 'x'"), 400, {"error": "no harness 'x'"}, None),
        (InvalidModelId("bad id"), 400, {"error": "bad id"}, None),
        (LoadCancelled("stopped"), 400, {"error": "stopped"}, None),
        (
            caused(LoadFailed("cannot open the model"), OSError("no space")),
            400,
            {"error": "cannot open the model: OSError: no space"},
            None,
        ),
        (EngineDead("a/b", "SIGABRT"), 400, {"error": "the engine of model 'a/b' is gone: SIGABRT"}, None),
        (ShuttingDown(), 503, {"error": "this host is shutting down", "code": "shutting_down"}, "15"),
        (
            QUANT_MISSING,
            422,
            {
                "error": {
                    "kind": "quant_not_found",
                    "message": "no file matches q9",
                    "model_id": "hf:a/b",
                    "requested": "q9",
                    "available": ["q4_0", "q8_0"],
                    "nearest": "q8_0",
                }
            },
            None,
        ),
        (
            caused(SourceUnavailable("the hub did not answer", model_id="hf:a/b"), TimeoutError("30 s")),
            422,
            {
                "error": {
                    "kind": "repo_fetch_failed",
                    "message": "the hub did not answer: TimeoutError: 30 s",
                    "cause": "the hub did not answer: TimeoutError: 30 s",
                    "model_id": "hf:a/b",
                }
            },
            None,
        ),
        (
            PreflightFailed(PreflightKind.REPO_FETCH_FAILED, "no such repo", model_id="hf:a/b", cause="404"),
            422,
            {
                "error": {
                    "kind": "repo_fetch_failed",
                    "message": "no such repo",
                    "cause": "404",
                    "model_id": "hf:a/b",
                }
            },
            None,
        ),
        (
            MalformedJson("not JSON"),
            400,
            {"error": {"message": "not JSON", "type": INVALID, "code": "malformed_json", "param": None}},
            None,
        ),
    ],
)
def test_each_load_error_has_its_status_and_shape(
    error: NeuronError, status: int, expected: object, retry_after: str | None
) -> None:
    answer = load_error(error)
    assert (answer.status, body(answer), answer.retry_after) == (status, expected, retry_after)


@pytest.mark.parametrize(
    "answer",
    [
        load_error(LoadFailed("another model is already loaded on GPU 0")),
        load_error(caused(LoadFailed("x"), RuntimeError("Already Loaded"))),
        load_error(SourceUnavailable("already loaded", model_id="a/b")),
        load_error(PreflightFailed(PreflightKind.INVALID_GGUF, "already loaded", model_id="a/b", why="already loaded")),
        load_error(InvalidRequest("already loaded")),
        cuda_unavailable("a driver is already loaded"),
    ],
)
def test_only_a_loaded_model_is_called_already_loaded(answer: HttpError) -> None:
    assert b"already loaded" not in answer.body.lower()
    assert b"already resident" in answer.body
    assert b"already loaded" in load_error(AlreadyLoaded("a/b")).body


@pytest.mark.parametrize(
    ("error", "status", "expected"),
    [
        (ModelNotLoaded("a/b"), 404, {"error": "model 'a/b' is not loaded on this host"}),
        (ShuttingDown(), 404, {"error": "this host is shutting down"}),
        (EngineFailed("stuck"), 404, {"error": "stuck"}),
        (MissingModelId("model_id is missing"), 400, {"error": "model_id is missing"}),
        (
            UnsupportedMediaType("no JSON"),
            415,
            {"error": {"message": "no JSON", "type": INVALID, "code": "unsupported_media_type", "param": None}},
        ),
    ],
)
def test_each_unload_error_is_404_unless_the_body_was_to_blame(
    error: NeuronError, status: int, expected: object
) -> None:
    answer = unload_error(error)
    assert (answer.status, body(answer)) == (status, expected)


def test_a_model_that_is_not_here_is_a_flat_404() -> None:
    answer = not_resident("a/b")
    assert (answer.status, answer.code, answer.retry_after) == (404, "model_not_found", None)
    assert body(answer) == {"error": "model 'a/b' is not loaded on this host"}


def test_a_host_without_usable_gpus_says_so_flat_with_a_code() -> None:
    answer = cuda_unavailable("driver too old")
    assert (answer.status, answer.code, answer.retry_after) == (503, "cuda_unavailable", None)
    assert body(answer) == {"error": "driver too old", "code": "cuda_unavailable"}
