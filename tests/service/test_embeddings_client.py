"""The official client asks a scripted model for vectors, over real sockets."""

from collections.abc import Iterator

import openai
import pytest
from msgspec.structs import replace

from neuron_lib.testing import ScriptedModel
from neuron_lib.types import Embed, Task
from tests.fakes.listening_host import ListeningHost, listening_host

pytestmark = pytest.mark.process

A, B = "org/a", "org/b"
VECTOR = (0.5, -0.5, 0.5, -0.5)


@pytest.fixture(scope="module")
def host() -> Iterator[ListeningHost]:
    scripts = {A: ScriptedModel(capabilities=("embeddings",), vector=VECTOR), B: ScriptedModel()}
    with listening_host(scripts, resident=[A, B]) as host:
        yield host


@pytest.fixture
def client(host: ListeningHost) -> Iterator[openai.OpenAI]:
    host.scripted.harness.requests.clear()
    with openai.OpenAI(api_key="none", base_url=f"http://127.0.0.1:{host.port}/v1", max_retries=0) as client:
        yield client


def test_the_client_asks_for_base64_and_hands_out_numbers(client: openai.OpenAI, host: ListeningHost) -> None:
    reply = client.embeddings.create(model=A, input=["one", "two"], user="somebody")
    assert [(item.index, tuple(item.embedding), item.object) for item in reply.data] == [
        (0, VECTOR, "embedding"),
        (1, VECTOR, "embedding"),
    ]
    assert (reply.model, reply.object) == (A, "list")
    assert (reply.usage.prompt_tokens, reply.usage.total_tokens) == (7, 7)
    assert asked(host) == [Embed(model_id=A, inputs=("one", "two"))]


def asked(host: ListeningHost) -> list[Task]:
    """The tasks that were entered, without their ids, which the service chooses."""
    return [replace(task, request_id="") for task in host.scripted.harness.requests]


def test_every_kind_of_input_and_dimensions_arrive(client: openai.OpenAI, host: ListeningHost) -> None:
    client.embeddings.create(model=A, input="one")
    client.embeddings.create(model=A, input=[1, 2])
    client.embeddings.create(model=A, input=[[1, 2], [3]])
    reply = client.embeddings.create(model=A, input="one", dimensions=1, encoding_format="float")
    assert reply.data[0].embedding == [1.0]
    assert asked(host) == [
        Embed(model_id=A, inputs=("one",)),
        Embed(model_id=A, inputs=((1, 2),)),
        Embed(model_id=A, inputs=((1, 2), (3,))),
        Embed(model_id=A, inputs=("one",), dimensions=1),
    ]


def test_refusals_are_the_client_s_own_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="dimensions: 5 are wanted"):
        client.embeddings.create(model=A, input="one", dimensions=5)
    with pytest.raises(openai.BadRequestError, match="makes no embeddings"):
        client.embeddings.create(model=B, input="one")
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="org/c", input="one")
    with pytest.raises(openai.UnprocessableEntityError, match="its only use is embeddings"):
        client.chat.completions.create(model=A, messages=[{"role": "user", "content": "hi"}])


@pytest.mark.anyio
async def test_the_client_asks_without_waiting_too(client: openai.OpenAI) -> None:
    async with openai.AsyncOpenAI(api_key="none", base_url=str(client.base_url), max_retries=0) as waiting:
        reply = await waiting.embeddings.create(model=A, input="one")
    assert tuple(reply.data[0].embedding) == VECTOR
