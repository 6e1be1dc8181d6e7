import json

import pytest

from neuron_lib.errors import (
    EngineDead,
    EngineFailed,
    InvalidGrammar,
    InvalidRequest,
    KvWaitExpired,
    ModelLoading,
    ModelNotLoaded,
    NeuronError,
    Overloaded,
    OverloadReason,
    PromptTooLong,
    ShuttingDown,
    SuspectRequest,
    TemplateFailed,
    TooLargeForKv,
    UnsupportedCapability,
    WrongModality,
)
from neuron_lib.wire.anthropic_errors import ThreadUnsupported, anthropic_error, error_body
from neuron_lib.wire.bodies import MalformedJson, UnsupportedMediaType
from neuron_lib.wire.http_errors import (
    BodyTooLarge,
    HostNotAllowed,
    OriginNotAllowed,
    RequestTimeout,
    Unauthenticated,
    UnknownMethod,
    UnknownPath,
)

INVALID = "invalid_request_error"


def overloaded(reason: OverloadReason) -> Overloaded:
    return Overloaded("no room", reason=reason, retry_after_s=18)


@pytest.mark.parametrize(
    ("error", "status", "error_type", "code", "retry_after"),
    [
        (Unauthenticated("x"), 401, "authentication_error", "invalid_api_key", None),
        (HostNotAllowed("x"), 403, "permission_error", "host_not_allowed", None),
        (OriginNotAllowed("x"), 403, "permission_error", "origin_not_allowed", None),
        (UnknownPath(), 404, "not_found_error", "not_found", None),
        (ModelNotLoaded("a/b"), 404, "not_found_error", "model_not_found", None),
        (UnknownMethod("PUT", allow="POST"), 405, INVALID, "method_not_allowed", None),
        (RequestTimeout("x"), 408, INVALID, "request_timeout", None),
        (BodyTooLarge("x"), 413, "request_too_large", "invalid_request_body", None),
        (UnsupportedMediaType("x"), 415, INVALID, "unsupported_media_type", None),
        (MalformedJson("x"), 400, INVALID, "malformed_json", None),
        (InvalidRequest("x", param="top_p"), 400, INVALID, "invalid_request_body", None),
        (ThreadUnsupported("x", param="thread"), 400, INVALID, "thread_unsupported_request", None),
        (InvalidGrammar("x", param="output_format"), 400, INVALID, "invalid_grammar", None),
        (PromptTooLong(prompt_tokens=9, limit=8), 400, INVALID, "context_length_exceeded", None),
        (SuspectRequest("a/b", "SIGSEGV", "SIGABRT"), 400, INVALID, "suspect_request", None),
        (UnsupportedCapability("x"), 400, INVALID, "vision_unsupported", None),
        (TemplateFailed("x"), 400, INVALID, "template_render_failed", None),
        (WrongModality("a/b", ("embeddings",)), 400, INVALID, "wrong_modality", None),
        (overloaded(OverloadReason.QUEUE_FULL), 529, "overloaded_error", "rate_limit_exceeded", "18"),
        (overloaded(OverloadReason.WAIT_EXPIRED), 529, "overloaded_error", "rate_limit_exceeded", "18"),
        (overloaded(OverloadReason.ANONYMOUS_YIELD), 529, "overloaded_error", "rate_limit_exceeded", "18"),
        (overloaded(OverloadReason.PRINCIPAL_CAP), 429, "rate_limit_error", "rate_limit_exceeded", "18"),
        (
            KvWaitExpired("x", reason=OverloadReason.KV_WAIT_EXPIRED, retry_after_s=5),
            503,
            "api_error",
            "insufficient_vram",
            "5",
        ),
        (TooLargeForKv("x"), 413, "request_too_large", "prompt_too_long_for_vram", None),
        (overloaded(OverloadReason.ENGINE_LOST), 503, "api_error", "service_unavailable", "18"),
        (ModelLoading("a/b", "x", stage="loading", retry_after_s=5), 503, "api_error", "model_loading", "5"),
        (ShuttingDown(), 503, "api_error", "shutting_down", "15"),
        (EngineDead("a/b", "SIGSEGV"), 500, "api_error", None, None),
        (EngineFailed("x"), 500, "api_error", None, None),
        (NeuronError("bug"), 500, "api_error", None, None),
    ],
)
def test_each_error_has_anthropic_s_status_and_type(
    error: NeuronError, status: int, error_type: str, code: str | None, retry_after: str | None
) -> None:
    answer = anthropic_error(error)
    body = json.loads(answer.body)
    assert (answer.status, answer.type, answer.code) == (status, error_type, code)
    assert list(body) == ["type", "error", "request_id"]
    assert (body["type"], body["request_id"]) == ("error", None)
    assert (body["error"]["type"], body["error"].get("details", {}).get("error_code")) == (error_type, code)
    assert dict(answer.headers).get("retry-after") == retry_after


def test_the_message_has_all_causes_and_the_name_of_the_wrong_field() -> None:
    error = InvalidRequest("top_p: too large", param="top_p")
    error.__cause__ = ValueError("2")
    assert json.loads(error_body(error))["error"] == {
        "type": INVALID,
        "message": "top_p: too large: ValueError: 2",
        "details": {"error_code": "invalid_request_body"},
        "param": "top_p",
    }


def test_a_prompt_that_is_too_long_is_told_in_the_words_that_clients_search_for() -> None:
    body = json.loads(error_body(PromptTooLong(prompt_tokens=2001, limit=2000)))
    assert body["error"]["message"] == "prompt is too long: 2001 tokens > 2000 maximum"
