import json
from typing import Any

import pytest

from neuron_lib.errors import (
    EngineDead,
    EngineFailed,
    InvalidGrammar,
    InvalidRequest,
    KvWaitExpired,
    LoadFailed,
    ModelLoading,
    ModelNotLoaded,
    NeuronError,
    Overloaded,
    OverloadReason,
    PromptTooLong,
    RequestLoop,
    ShuttingDown,
    SuspectRequest,
    TemplateFailed,
    TooLargeForKv,
    UnsupportedCapability,
    UpstreamRefused,
    WrongModality,
)
from neuron_lib.wire.bodies import MalformedJson, UnsupportedMediaType
from neuron_lib.wire.http_errors import (
    BodyTooLarge,
    ErrorAnswer,
    HostNotAllowed,
    MalformedHost,
    MalformedHttp,
    OriginNotAllowed,
    RequestTimeout,
    Unauthenticated,
    UnknownMethod,
    UnknownPath,
    error_answer,
    judge,
)
from neuron_lib.wire.management import MissingModelId
from neuron_lib.wire.openai_errors import envelope, openai_error

INVALID, RATE, API = "invalid_request_error", "rate_limit_error", "api_error"


def overloaded(reason: OverloadReason) -> Overloaded:
    return Overloaded("no room", reason=reason, retry_after_s=18)


def caused(error: NeuronError, cause: Exception) -> NeuronError:
    error.__cause__ = cause
    return error


def body(error: ErrorAnswer) -> Any:
    return json.loads(error.body)


@pytest.mark.parametrize(
    ("error", "status", "error_type", "code", "retry_after"),
    [
        (Unauthenticated("x"), 401, INVALID, "invalid_api_key", None),
        (HostNotAllowed("x"), 403, INVALID, "host_not_allowed", None),
        (OriginNotAllowed("x"), 403, INVALID, "origin_not_allowed", None),
        (UnknownPath(), 404, INVALID, "not_found", None),
        (UnknownMethod("PUT", allow="GET"), 405, INVALID, "method_not_allowed", None),
        (RequestTimeout("x"), 408, INVALID, "request_timeout", None),
        (MalformedHost("x"), 400, INVALID, "malformed_host", None),
        (MalformedHttp("x"), 400, INVALID, "malformed_http", None),
        (BodyTooLarge("x"), 400, INVALID, "invalid_request_body", None),
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
        (overloaded(OverloadReason.UPSTREAM), 503, RATE, "rate_limit_exceeded", "18"),
        (UpstreamRefused("x", status=401), 502, API, "upstream_refused", None),
        (RequestLoop(5), 508, API, "request_loop", None),
        (overloaded(OverloadReason.WAIT_EXPIRED), 503, RATE, "rate_limit_exceeded", "18"),
        (overloaded(OverloadReason.ANONYMOUS_YIELD), 503, RATE, "rate_limit_exceeded", "18"),
        (overloaded(OverloadReason.PRINCIPAL_CAP), 429, RATE, "rate_limit_exceeded", "18"),
        (overloaded(OverloadReason.ENGINE_LOST), 503, API, "service_unavailable", "18"),
        (
            KvWaitExpired("x", reason=OverloadReason.KV_WAIT_EXPIRED, retry_after_s=5),
            503,
            API,
            "insufficient_vram",
            "5",
        ),
        (TooLargeForKv("x"), 413, INVALID, "prompt_too_long_for_vram", None),
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
    answer = openai_error(error)
    assert (answer.status, answer.type, answer.code) == (status, error_type, code)
    assert dict(answer.headers).get("retry-after") == retry_after
    assert answer.body == envelope(error)
    inner = body(answer)["error"]
    assert (inner["type"], inner["code"]) == (error_type, code)
    assert {"message", "type", "code", "param"} <= inner.keys()


def test_a_body_that_is_too_large_is_a_413_unless_a_dialect_has_another_status() -> None:
    error = BodyTooLarge("2 MiB")
    assert judge(error).status == 413
    assert error_answer(error, b"{}").status == 413
    assert openai_error(error).status == 400, "the gateway's contract has this status"


def test_an_unknown_method_is_answered_with_the_known_ones() -> None:
    assert openai_error(UnknownMethod("PUT", allow="GET, HEAD")).headers == (("allow", "GET, HEAD"),)


def test_the_numbers_behind_an_error_are_extra_keys_inside_it() -> None:
    assert body(openai_error(PromptTooLong(prompt_tokens=9000, limit=4096))) == {
        "error": {
            "message": "This model's maximum context length is 4096 tokens, but the prompt has 9000 tokens. "
            "The prompt is too long: shorten the messages.",
            "type": INVALID,
            "code": "context_length_exceeded",
            "param": None,
            "prompt_len": 9000,
            "max": 4096,
        }
    }


def test_an_extra_key_never_replaces_one_of_the_envelope() -> None:
    inner = body(openai_error(NeuronError("real", type="fake", code="fake", param="fake")))["error"]
    assert inner == {"message": "real", "type": API, "code": None, "param": None}


def test_an_invalid_request_names_its_parameter() -> None:
    inner = body(openai_error(InvalidRequest("top_p: too large", param="top_p")))["error"]
    assert (inner["param"], inner["message"]) == ("top_p", "top_p: too large")


def test_other_errors_tell_the_whole_chain_of_causes() -> None:
    error = caused(EngineFailed("decode failed"), OSError("disk gone"))
    assert body(openai_error(error))["error"]["message"] == "decode failed: OSError: disk gone"


def test_an_error_is_one_line_also_for_readers_that_take_other_characters_for_its_end() -> None:
    assert len(openai_error(ModelNotLoaded("a\u2028b\u2029c\x85")).body.decode().splitlines()) == 1


def test_what_is_not_text_in_an_error_does_not_break_the_answer() -> None:
    error = EngineFailed("cannot read /m/\udcff.gguf", path="\udcff", kind={1}, lines=("a\r\nb",))
    inner = body(openai_error(error))["error"]
    assert (inner["message"], inner["path"], inner["kind"]) == ("cannot read /m/\\udcff.gguf", "\\udcff", "{1}")
    assert inner["lines"] == ["a\r\nb"]
