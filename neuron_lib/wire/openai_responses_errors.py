"""The errors of OpenAI's `POST /v1/responses`, and of the paths below it, which would need responses that are kept."""

import json

from msgspec.structs import replace

from neuron_lib.errors import InvalidRequest, NeuronError
from neuron_lib.wire.http_errors import ErrorAnswer, UnknownPath, encode_error
from neuron_lib.wire.openai_errors import openai_error

__all__ = ("ChainedConversation", "responses_error")


class ChainedConversation(InvalidRequest):
    """The request goes on with an earlier response. No response is kept here."""

    code = "chained_conversation_not_supported"

    def __init__(self) -> None:
        text = "previous_response_id: no response is kept here; send the whole conversation as `input`"
        super().__init__(text, param="previous_response_id", summary=text)


class _NothingKept(UnknownPath):
    """A path below that of the API. In OpenAI's API such a path names a response that was kept."""

    def __init__(self) -> None:
        text = "there is nothing at this path: no response is kept here, so none can be read, deleted or cancelled"
        InvalidRequest.__init__(self, text)


def responses_error(error: NeuronError) -> ErrorAnswer:
    """The answer to a request that is refused or fails, in OpenAI's nested shape."""
    answer = openai_error(_NothingKept() if isinstance(error, UnknownPath) else error)
    if isinstance(error, ChainedConversation):
        # The gateway's contract has the code at the top level (`docs/reference/wire-contract.md#responses`).
        return replace(answer, body=encode_error(json.loads(answer.body) | {"code": error.code}))
    return answer
