"""The official client reads our answers, with several choices and log-probabilities."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from neuron_lib import ChatRequest, Generation
from neuron_lib.testing import ScriptedModel
from neuron_lib.wire.openai_chat import ChatCompletionRequest
from neuron_service.answers import StreamedAnswer, WholeAnswer
from tests.fakes.asgi_client import AsgiClient, Reply
from tests.fakes.scripted_host import scripted_host

pytestmark = [pytest.mark.anyio, pytest.mark.process]

A = "org/a"
CHAT = "/v1/chat/completions"
HI: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hi"}]
REQUEST = ChatRequest(model_id=A, messages=({"role": "user", "content": "hi"},), choices=2, top_logprobs=1)


@contextmanager
def client_of(reply: Reply) -> Iterator[openai.OpenAI]:
    """The client of a server that answers one request, with `reply`."""

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the standard library
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = Thread(target=server.handle_request)
        thread.start()
        with openai.OpenAI(api_key="none", base_url=f"http://127.0.0.1:{server.server_port}/v1") as client:
            yield client
        thread.join()


async def reply_to_request(*, stream: bool) -> Reply:
    def answer(reply: Generation) -> StreamedAnswer | WholeAnswer:
        request = ChatCompletionRequest(task=REQUEST, stream=stream)
        if stream:
            return StreamedAnswer(reply, request.encoder(unique="1", created=7))
        return WholeAnswer(reply, request.collector(unique="1", created=7))

    async with scripted_host({A: ScriptedModel(reply=("Hi", " é"))}, resident=[A]) as host:
        return await AsgiClient(answer(host.registry.chat(REQUEST))).post(CHAT, {})


async def test_the_client_reads_a_whole_reply_of_several_choices() -> None:
    with client_of(await reply_to_request(stream=False)) as client:
        reply = client.chat.completions.create(model=A, messages=HI, n=2, logprobs=True, top_logprobs=1)
    assert [choice.index for choice in reply.choices] == [0, 1]
    for choice in reply.choices:
        assert (choice.message.content, choice.finish_reason) == ("Hi é", "stop")
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        assert [(token.token, token.logprob, token.bytes) for token in choice.logprobs.content] == [
            ("Hi", 0.0, [72, 105]),
            (" é", 0.0, [32, 195, 169]),
        ]
        assert [top.token for token in choice.logprobs.content for top in token.top_logprobs] == ["Hi", " é"]
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (7, 4)


async def test_the_client_reads_a_stream_of_several_choices() -> None:
    told = defaultdict[int, list[str | None]](list)
    tokens = defaultdict[int, list[str]](list)
    with client_of(await reply_to_request(stream=True)) as client:
        chunks = list(client.chat.completions.create(model=A, messages=HI, n=2, logprobs=True, stream=True))
    *others, last = chunks
    assert [chunk.usage for chunk in others] == [None] * len(others)
    for chunk in chunks:
        (choice,) = chunk.choices
        told[choice.index].append(choice.delta.role or choice.delta.content or choice.finish_reason)
        tokens[choice.index] += [token.token for token in (choice.logprobs and choice.logprobs.content) or ()]
    assert told == {index: ["assistant", "Hi", " é", "stop"] for index in (0, 1)}
    assert tokens == {index: ["Hi", " é"] for index in (0, 1)}
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (7, 4)
