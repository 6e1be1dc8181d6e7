import json

import pytest

from neuron_lib.errors import InvalidRequest, ModelNotLoaded, NeuronError
from neuron_lib.wire.http_errors import UnknownMethod, UnknownPath
from neuron_lib.wire.openai_errors import openai_error
from neuron_lib.wire.openai_responses_errors import ChainedConversation, responses_error


def test_an_earlier_response_is_refused_with_its_code_in_both_places() -> None:
    answer = responses_error(ChainedConversation())
    body = json.loads(answer.body)
    assert (answer.status, answer.code) == (400, "chained_conversation_not_supported")
    assert body["code"] == body["error"]["code"] == "chained_conversation_not_supported"
    assert body["error"]["param"] == "previous_response_id"


def test_a_path_of_a_response_says_that_none_is_kept() -> None:
    answer = responses_error(UnknownPath())
    assert (answer.status, answer.code) == (404, "not_found")
    assert "no response is kept here" in json.loads(answer.body)["error"]["message"]


@pytest.mark.parametrize(
    "error",
    [ModelNotLoaded("a/b"), InvalidRequest("x", param="y"), UnknownMethod("GET", allow="POST"), NeuronError("z")],
)
def test_every_other_error_has_openai_s_shape(error: NeuronError) -> None:
    assert responses_error(error) == openai_error(error)
