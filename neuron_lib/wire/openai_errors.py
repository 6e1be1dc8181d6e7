"""Errors in the shape of OpenAI's APIs. Also the shape for every path that has no dialect of its own."""

from msgspec import Struct
from msgspec.structs import replace

from neuron_lib.errors import InvalidRequest, NeuronError, PromptTooLong, cause_chain
from neuron_lib.wire.http_errors import BodyTooLarge, ErrorAnswer, Verdict, encode_error, error_answer, judge

__all__ = ("ErrorEnvelope", "envelope", "openai_error")


class _Error(Struct):
    message: str
    type: str
    code: str | None
    param: str | None


class ErrorEnvelope(Struct):
    """The shape of a body that `envelope` writes, for the description of the service. `error` may have further keys."""

    error: _Error


def openai_error(error: NeuronError) -> ErrorAnswer:
    """The answer to a request that is refused or fails, in OpenAI's nested shape."""
    return error_answer(error, envelope(error), _verdict(error))


def envelope(error: NeuronError) -> bytes:
    """OpenAI's nested error body as JSON. A stream that breaks off sends the same as an event.

    `message` is the whole chain of causes, because some people see only this one line. `code` and `param` may be null.
    `error.fields` are further keys beside these four, and never replace one of them.
    """
    verdict = _verdict(error)
    param = error.param if isinstance(error, InvalidRequest | PromptTooLong) else None
    own = {"message": cause_chain(error), "type": verdict.type, "code": verdict.code, "param": param}
    return encode_error({"error": own | {key: value for key, value in error.fields.items() if key not in own}})


def _verdict(error: NeuronError) -> Verdict:
    verdict = judge(error)
    if isinstance(error, BodyTooLarge):
        # The gateway's contract has 400 for this (`docs/reference/wire-contract.md#bodies-that-cannot-be-read`).
        return replace(verdict, status=400)
    return verdict
