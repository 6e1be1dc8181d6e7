"""The answers to loads, unloads and questions about models that failed. They are our own API, not OpenAI's.

Three shapes: flat, tagged with a kind, and OpenAI's nested one for bodies that cannot be read
(`docs/reference/wire-contract.md#error-bodies`). The gateway's parser expects each of them in its place.
"""

import re
from typing import Final

from msgspec import UNSET, Struct, UnsetType

from neuron_lib.errors import (
    AlreadyLoaded,
    InvalidRequest,
    ModelNotLoaded,
    NeuronError,
    NoHarness,
    Overloaded,
    PreflightFailed,
    PreflightKind,
    ShuttingDown,
    SourceUnavailable,
    cause_chain,
)
from neuron_lib.shown import LONGEST_MESSAGE, clip
from neuron_lib.wire.bodies import MalformedJson, UnsupportedMediaType
from neuron_lib.wire.http_errors import API, INVALID, ErrorAnswer, Verdict, encode_error, error_answer, judge
from neuron_lib.wire.management import MissingModelId
from neuron_lib.wire.openai_errors import envelope, openai_error

__all__ = (
    "FlatError",
    "KindError",
    "capabilities_unknown",
    "cuda_unavailable",
    "load_error",
    "not_resident",
    "unload_error",
)


class FlatError(Struct):
    """The shape of a flat body, for the description of the service."""

    error: str
    code: str | UnsetType = UNSET


class _Kind(Struct):
    kind: str
    message: str
    cause: str | UnsetType = UNSET


class KindError(Struct):
    """The shape of a body with a kind, for the description of the service. `error` may have further keys."""

    error: _Kind


_ALREADY_LOADED: Final = re.compile(rb"already loaded", re.IGNORECASE)


def load_error(error: NeuronError) -> ErrorAnswer:
    """The answer to a failed `POST /models/load`.

    The gateway takes every answer with the words "already loaded" for a success, whatever its status is. So these words
    are replaced unless the model is loaded.
    """
    match error:
        case AlreadyLoaded():
            return error_answer(error, _flat(cause_chain(error)), Verdict(400, INVALID, error.code))
        case PreflightFailed():
            verdict = Verdict(422, INVALID, error.code)
            body = _with_kind(error.kind, error)
        case SourceUnavailable():
            verdict = Verdict(422, API, error.code)
            body = _with_kind(PreflightKind.REPO_FETCH_FAILED, error)
        case ShuttingDown() | NoHarness() | Overloaded():
            verdict = judge(error)
            body = _flat(cause_chain(error), code=verdict.code)
        case UnsupportedMediaType() | MalformedJson():
            verdict = judge(error)
            body = envelope(error)
        case InvalidRequest():
            # A chat of a wrong shape is a 400, as OpenAI has it. OpenAI has no loads, and the contract has 422 here.
            verdict = Verdict(422, INVALID, error.code)
            body = envelope(error)
        case _:
            verdict = Verdict(400, INVALID, error.code)
            body = _flat(cause_chain(error))
    return error_answer(error, _ALREADY_LOADED.sub(b"already resident", body), verdict)


def unload_error(error: NeuronError) -> ErrorAnswer:
    """The answer to a failed `POST /models/unload`: 404, unless the body was to blame."""
    match error:
        case MissingModelId():
            return error_answer(error, _flat(cause_chain(error)), Verdict(400, INVALID, error.code))
        case InvalidRequest():
            return openai_error(error)
        case _:
            return error_answer(error, _flat(cause_chain(error)), Verdict(404, INVALID, error.code))


def not_resident(model_id: str) -> ErrorAnswer:
    """The answer to `/models/{id}/endpoint` for a model that is not here."""
    error = ModelNotLoaded(model_id)
    return error_answer(error, _flat(error.message))


def capabilities_unknown(model_id: str) -> ErrorAnswer:
    """The answer of a host that cannot say what a model could do. The gateway does not take it for "nothing"."""
    return error_answer(
        ModelNotLoaded(model_id), _flat(f"this host does not know what model {clip(model_id)!r} can do")
    )


def cuda_unavailable(reason: str) -> ErrorAnswer:
    """The answer to every load on a host whose GPUs cannot be used."""
    code = "cuda_unavailable"
    body = _ALREADY_LOADED.sub(b"already resident", _flat(clip(reason, LONGEST_MESSAGE), code=code))
    return ErrorAnswer(status=503, headers=(), body=body, type=API, code=code)


def _flat(text: str, *, code: str | None = None) -> bytes:
    return encode_error({"error": text} if code is None else {"error": text, "code": code})


def _with_kind(kind: PreflightKind, error: NeuronError) -> bytes:
    chain = cause_chain(error)
    cause = {"cause": chain} if kind is PreflightKind.REPO_FETCH_FAILED else {}
    return encode_error({"error": {"kind": kind, "message": chain} | cause | error.fields})
