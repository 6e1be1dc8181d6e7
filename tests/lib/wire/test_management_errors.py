import json
from typing import Any

import pytest

from neuron_lib.errors import (
    AlreadyLoaded,
    EngineDead,
    EngineFailed,
    InvalidModelId,
    InvalidRequest,
    LoadCancelled,
    LoadFailed,
    ModelNotLoaded,
    NeuronError,
    PreflightFailed,
    PreflightKind,
    ShuttingDown,
    SourceUnavailable,
    UnknownHarness,
)
from neuron_lib.wire.bodies import MalformedJson, UnsupportedMediaType
from neuron_lib.wire.http_errors import ErrorAnswer
from neuron_lib.wire.management import MissingModelId
from neuron_lib.wire.management_errors import cuda_unavailable, load_error, not_resident, unload_error

INVALID = "invalid_request_error"
QUANT_MISSING = PreflightFailed(
    PreflightKind.QUANT_NOT_FOUND,
    "no file matches q9",
    model_id="hf:a/b",
    requested="q9",
    available=("q4_0", "q8_0"),
    nearest="q8_0",
)


def caused(error: NeuronError, cause: Exception) -> NeuronError:
    error.__cause__ = cause
    return error


def body(answer: ErrorAnswer) -> Any:
    return json.loads(answer.body)


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
    assert (answer.status, body(answer)) == (status, expected)
    assert dict(answer.headers).get("retry-after") == retry_after


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
def test_only_a_loaded_model_is_called_already_loaded(answer: ErrorAnswer) -> None:
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
    assert (answer.status, answer.code, answer.headers) == (404, "model_not_found", ())
    assert body(answer) == {"error": "model 'a/b' is not loaded on this host"}


def test_a_host_without_usable_gpus_says_so_flat_with_a_code() -> None:
    answer = cuda_unavailable("driver too old")
    assert (answer.status, answer.code, answer.headers) == (503, "cuda_unavailable", ())
    assert body(answer) == {"error": "driver too old", "code": "cuda_unavailable"}


def test_an_error_is_one_line_also_for_readers_that_take_other_characters_for_its_end() -> None:
    assert len(unload_error(NeuronError("d\u2028e")).body.decode().splitlines()) == 1
