"""Real engines over small models: what each is found to be able to do, and what is refused."""

import math
import os
import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import msgspec
import numpy as np
import pytest

from neuron_lib.config import AdmissionConfig, LlamaCppConfig, ModelEntry
from neuron_lib.engine.pair_writer import PairWriter
from neuron_lib.engine.prepare import Preparer, control_texts
from neuron_lib.engine.protocol import Load, RerankTask
from neuron_lib.errors import (
    InvalidRequest,
    LoadFailed,
    PreflightFailed,
    PromptTooLong,
    UnsupportedCapability,
    WrongModality,
)
from neuron_lib.llama.bindings import init_backend, route_logs
from neuron_lib.llama.context import Context
from neuron_lib.llama.control_tokens import control_tokens
from neuron_lib.llama.model import Model
from neuron_lib.llamacpp import LlamaCppHarness
from neuron_lib.llamacpp.engine_environment import engine_environment
from neuron_lib.llamacpp.engine_process import open_engine
from neuron_lib.llamacpp.harness import load_command
from neuron_lib.sources.store import LocalModel
from neuron_lib.types import (
    ChatRequest,
    Complete,
    ContextParams,
    Detokenize,
    Detokenized,
    Embed,
    Embedding,
    Finished,
    ModelSpec,
    ModelStatus,
    Relevance,
    Rerank,
    Started,
    Tokenize,
    Tokenized,
)
from tests.fakes.synthetic_gguf import write_synthetic

pytestmark = [pytest.mark.anyio, pytest.mark.model]

MODEL_ID = "org/other"
SPEC = ModelSpec(model_id=MODEL_ID, harness="llamacpp")
CONFIG = LlamaCppConfig(
    n_ctx=256, n_batch=64, n_ubatch=64, threads=1, gpu_layers=0, admission=AdmissionConfig(max_in_flight=2)
)


def nothing_more(_writer: gguf.GGUFWriter) -> None:
    pass


def pooling(kind: gguf.PoolingType) -> Callable[[gguf.GGUFWriter], None]:
    return lambda writer: writer.add_pooling_type(kind)


def harness_of(path: Path) -> LlamaCppHarness:
    config = msgspec.structs.replace(CONFIG, local_roots=(path.parent,))
    return LlamaCppHarness(config, models=(ModelEntry(id=MODEL_ID, path=path),), environ=os.environ)


def load_of(path: Path) -> Load:
    return load_command(CONFIG, LocalModel(path=path), environ={})


@pytest.mark.parametrize(
    ("kind", "describe", "capability"),
    [
        ("bert", nothing_more, "embeddings"),
        ("modern-bert", nothing_more, "embeddings"),
        ("gemma-embedding", nothing_more, "embeddings"),
        ("full", pooling(gguf.PoolingType.LAST), "embeddings"),
        ("full", pooling(gguf.PoolingType.RANK), "rerank"),
    ],
    ids=["bert", "modern-bert", "gemma-embedding", "decoder with pooling", "reranker"],
)
async def test_a_model_for_embeddings_says_so_cold_and_loaded_and_refuses_every_chat(
    tmp_path: Path, kind: str, describe: Callable[[gguf.GGUFWriter], None], capability: str
) -> None:
    path = tmp_path / "m.gguf"
    write_synthetic(path, kind, describe=describe)
    harness = harness_of(path)
    assert await harness.known_capabilities(MODEL_ID) == (capability,)
    async with harness.open(SPEC, model_id=MODEL_ID, report=lambda _: None) as model:
        for content in ("Hello", [{"type": "image_url"}]):
            chat = ChatRequest(model_id=MODEL_ID, messages=({"role": "user", "content": content},))
            with pytest.raises(WrongModality, match=f"'{MODEL_ID}' cannot chat: its only use is {capability}"):
                async with model.run(chat):
                    pytest.fail("it was admitted")
        info, load = model.info(), model.load()
    assert (info.status, info.capabilities) == (ModelStatus.LOADED, (capability,))
    assert not info.tool_call
    assert not info.reasoning
    assert info.limit is not None
    assert (info.limit.context, info.limit.input) == (256, 256)  # a vector needs no room for a reply
    assert (load.in_flight, load.queue_depth, load.engine_restarts, load.last_engine_death) == (0, 0, 0, "")


EMBEDDERS = [
    ("bert", nothing_more),
    ("modern-bert", nothing_more),
    ("gemma-embedding", nothing_more),
    ("full", pooling(gguf.PoolingType.LAST)),
    ("full", pooling(gguf.PoolingType.MEAN)),
]


@pytest.mark.parametrize(
    ("kind", "describe"), EMBEDDERS, ids=["bert", "modern-bert", "gemma-embedding", "last token", "mean"]
)
async def test_vectors_have_length_one_and_are_those_of_each_text_alone(
    tmp_path: Path, kind: str, describe: Callable[[gguf.GGUFWriter], None]
) -> None:
    path = tmp_path / "m.gguf"
    write_synthetic(path, kind, describe=describe)
    texts = ("Hello world", "Hello", "another text that is longer than the others", "Hello world")
    async with harness_of(path).open(SPEC, model_id=MODEL_ID, report=lambda _: None) as model:

        async def vectors_of(*inputs: str | tuple[int, ...]) -> list[tuple[float, ...]]:
            async with model.run(Embed(model_id=MODEL_ID, inputs=inputs)) as reply:
                events = [event async for event in reply]
            assert [type(event) for event in (events[0], events[-1])] == [Started, Finished]
            found = {event.index: event.vector for event in events if isinstance(event, Embedding)}
            return [found[index] for index in range(len(inputs))]

        together = await vectors_of(*texts)
        alone = [(await vectors_of(text))[0] for text in texts]
        with pytest.raises(PromptTooLong):
            await vectors_of("fits", "a " * 300)
        with pytest.raises(InvalidRequest, match="there is no token 99999"):
            await vectors_of((1, 99999))
        assert model.load().engine_restarts == 0
    for vector, other in zip(together, alone, strict=True):
        assert math.sqrt(math.fsum(value * value for value in vector)) == pytest.approx(1, abs=1e-5)
        assert vector == pytest.approx(other, abs=1e-3)  # larger batches are rounded otherwise
    assert together[0] == pytest.approx(together[3], abs=1e-3)
    assert together[0] != pytest.approx(together[1], abs=1e-2)


@pytest.mark.parametrize("kind", ["full", "bert"])
async def test_every_model_that_reads_text_tells_its_tokens_and_what_they_spell(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "m.gguf"
    write_synthetic(path, kind)
    async with harness_of(path).open(SPEC, model_id=MODEL_ID, report=lambda _: None) as model:
        task = Tokenize(model_id=MODEL_ID, prompt="Hello world", add_special=False, wants_pieces=True)
        async with model.run(task) as reply:
            _, told, _ = [event async for event in reply]
        assert isinstance(told, Tokenized)
        async with model.run(Detokenize(model_id=MODEL_ID, tokens=told.tokens)) as reply:
            _, spelled, _ = [event async for event in reply]
        with pytest.raises(InvalidRequest, match="there is no token 99999"):
            async with model.run(Detokenize(model_id=MODEL_ID, tokens=(99999,))):
                pytest.fail("it was admitted")
        load = model.load()
    assert spelled == Detokenized(b"".join(told.pieces).decode())
    assert len(told.pieces) == len(told.tokens)
    assert (load.in_flight, load.queue_depth, load.engine_restarts) == (0, 0, 0)


FILL_IN = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")


@pytest.mark.parametrize("markers", [FILL_IN, FILL_IN[:2]])
async def test_a_model_fills_in_the_middle_of_a_text_if_it_has_all_three_tokens_for_that(
    tmp_path: Path, markers: tuple[str, ...]
) -> None:
    path = tmp_path / "m.gguf"
    write_synthetic(path, "full", markers=markers)
    task = Complete(model_id=MODEL_ID, prompt="Hello", suffix="<|fim_middle|>world", max_tokens=1)
    async with harness_of(path).open(SPEC, model_id=MODEL_ID, report=lambda _: None) as model:

        async def tokens_of(text: str) -> int:
            task = Tokenize(model_id=MODEL_ID, prompt=text, add_special=False, parse_special=False)
            async with model.run(task) as reply:
                told = [event async for event in reply][1]
            assert isinstance(told, Tokenized)
            return len(told.tokens)

        if markers != FILL_IN:
            with pytest.raises(InvalidRequest, match="suffix: this model has no tokens"):
                async with model.run(task):
                    pytest.fail("it was admitted")
            return
        async with model.run(task) as reply:
            started, *_ = [event async for event in reply]
        around = await tokens_of("Hello"), await tokens_of("<|fim_middle|>world")
        async with model.run(Tokenize(model_id=MODEL_ID, prompt="Hello")) as reply:
            told = [event async for event in reply][1]
    assert isinstance(told, Tokenized)
    added = len(told.tokens) - around[0]
    assert started == Started(prompt_tokens=added + len(markers) + sum(around))


def classifier(writer: gguf.GGUFWriter) -> None:
    """The head of a reranker: its only output is a weighted sum of the vector of the first token."""
    writer.add_pooling_type(gguf.PoolingType.RANK)
    weights = np.random.default_rng(7).normal(0, 0.1, (1, 64)).astype(np.float32)
    writer.add_tensor("cls.output.weight", weights)
    writer.add_tensor("cls.output.bias", np.zeros(1, np.float32))
    writer.add_eos_token_id(2)
    writer.add_add_eos_token(True)


async def test_a_reranker_scores_each_document_with_the_query_as_if_it_were_alone(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write_synthetic(path, "bert", describe=classifier)
    documents = ("the first of them", "another", "you and the other one, which is longer", "another")
    async with harness_of(path).open(SPEC, model_id=MODEL_ID, report=lambda _: None) as model:

        async def scores_of(query: str, *documents: str) -> list[float]:
            async with model.run(Rerank(model_id=MODEL_ID, query=query, documents=documents)) as reply:
                events = [event async for event in reply]
            assert [type(event) for event in (events[0], events[-1])] == [Started, Finished]
            found = {event.index: event.score for event in events if isinstance(event, Relevance)}
            return [found[index] for index in range(len(documents))]

        together = await scores_of("which of them?", *documents)
        alone = [(await scores_of("which of them?", document))[0] for document in documents]
        other = await scores_of("and you?", *documents)
        swapped = await scores_of("another", "which of them?")
        spelled = await scores_of("which of them?", "<|im_end|>")
        with pytest.raises(PromptTooLong, match=r"documents\[1\] has"):
            await scores_of("which of them?", "fits", "a " * 300)
        with pytest.raises(UnsupportedCapability) as refused:
            async with model.run(Embed(model_id=MODEL_ID, inputs=("one",))):
                pytest.fail("it was admitted")
        assert refused.value.code == "embeddings_unsupported"
        assert model.load().engine_restarts == 0
    assert all(0 <= score <= 1 for score in (*together, *other, *swapped, *spelled))
    assert together == pytest.approx(alone, abs=1e-4)
    assert together[1] == pytest.approx(together[3], abs=1e-4)
    assert len({round(score, 4) for score in (*together[:3], *other[:3], *swapped)}) == 7


def template_for_pairs(writer: gguf.GGUFWriter) -> None:
    writer.add_pooling_type(gguf.PoolingType.RANK)
    writer.add_string("tokenizer.chat_template.rerank", "<|im_start|>Q: {query}<|im_end|> D: {document}!")


async def test_a_reranker_with_a_template_reads_the_pair_in_the_form_of_the_template(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write_synthetic(path, "full", describe=template_for_pairs)
    async with harness_of(path).open(SPEC, model_id=MODEL_ID, report=lambda _: None) as model:

        async def usage_of(task: Rerank | Tokenize) -> int:
            async with model.run(task) as reply:
                *_, last = [event async for event in reply]
            assert isinstance(last, Finished)
            return last.usage.prompt_tokens

        async def pair(query: str, document: str) -> int:
            return await usage_of(Rerank(model_id=MODEL_ID, query=query, documents=(document,)))

        written = "<|im_start|>Q: the<|im_end|> D: and you!"
        assert await pair("the", "and you") == await usage_of(Tokenize(model_id=MODEL_ID, prompt=written))
        # A control token that a document spells is text, one token for each letter.
        assert await pair("the", "<|im_end|>") - await pair("the", "") == len("<|im_end|>")


def test_the_texts_of_a_pair_are_parted_by_the_tokens_that_the_vocabulary_has_for_it(minilm_path: Path) -> None:
    init_backend()
    route_logs(lambda _level, _text: None)
    with Model(minilm_path, gpu_layers=0, on_progress=lambda _: True) as model:
        controls = control_tokens(model.vocab)
        pairs = PairWriter(template=None, separator=model.vocab.separator, controls=control_texts(controls))
        preparer = Preparer(model.vocab, template="", controls=controls, n_ctx=64, vector_tokens=64, pairs=pairs)
        asked = RerankTask(query="hello", documents=("world", "[SEP]"))
        plain, spelled = (preparer.read(prompt, limit=64).tokens for prompt in preparer.write(asked))
    begin, end, hello, world = 101, 102, 7592, 2088
    assert plain == [begin, hello, end, world, end]
    assert (spelled[:3], spelled.count(end)) == ([begin, hello, end], 2)


READ_FORM = """{% if tools %}{{ tools | tojson }}<tool_call>{"name": 1, "arguments": {}}</tool_call>{% endif %}"""
OTHER_FORM = "{% if tools %}{{ tools | tojson }}<tool_call>name<arg_key>a</arg_key></tool_call>{% endif %}"


@pytest.mark.parametrize(
    ("own", "operators", "configured", "tool_format"),
    [
        (READ_FORM, None, "", "hermes"),
        (OTHER_FORM, None, "", "generic"),
        (OTHER_FORM, READ_FORM, "", "hermes"),
        (READ_FORM, "Hi", "", "generic"),
        (READ_FORM, None, "mistral", "mistral"),
    ],
)
async def test_the_format_of_tools_is_that_of_the_template_in_use_unless_one_is_configured(
    tmp_path: Path, own: str, operators: str | None, configured: str, tool_format: str
) -> None:
    path = tmp_path / "m.gguf"
    write_synthetic(path, "full", markers=("<tool_call>", "</tool_call>"), template=own)
    load = msgspec.structs.replace(load_of(path), chat_template=operators, tool_format=configured)
    async with open_engine(
        load, model_id=MODEL_ID, environment=engine_environment(os.environ), on_progress=lambda _: None
    ) as engine:
        facts = await engine.wait_ready()
    assert facts.tool_format == tool_format


@pytest.mark.both_loops
async def test_a_model_that_cannot_be_served_is_refused_before_an_engine_is_started(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write_synthetic(path, "dream")
    harness = harness_of(path)
    assert await harness.known_capabilities(MODEL_ID) == ()
    stages: list[str] = []
    with pytest.raises(PreflightFailed, match="cannot be served: it is a diffusion model"):
        async with harness.open(SPEC, model_id=MODEL_ID, report=lambda progress: stages.append(progress.stage)):
            pytest.fail("it loaded")
    assert stages == ["resolving", "verifying"]


async def load_alone(path: Path) -> None:
    """Have an engine load a file that nobody has looked into."""
    async with open_engine(
        load_of(path),
        model_id=MODEL_ID,
        environment=engine_environment(os.environ),
        on_progress=lambda _: None,
    ) as engine:
        await engine.wait_ready()


async def test_an_engine_asks_libllama_itself_what_the_model_is(tmp_path: Path) -> None:
    write_synthetic(tmp_path / "m.gguf", "dream")
    with pytest.raises(LoadFailed, match="cannot be served: it is a diffusion model"):
        await load_alone(tmp_path / "m.gguf")


async def test_weights_that_make_no_numbers_are_found_in_the_load_and_called_by_their_name(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write_synthetic(path, "full")
    with path.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(struct.pack("<f", float("nan")))
    with pytest.raises(LoadFailed, match="scores of the first token are NaN, so its weights may be damaged") as raised:
        await load_alone(path)
    assert "OK" not in raised.value.message


def test_a_diffusion_model_that_our_table_does_not_know_is_known_by_libllama(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    init_backend()
    route_logs(lambda _level, _text: None)
    write_synthetic(tmp_path / "m.gguf", "dream")
    monkeypatch.setattr("neuron_lib.llama.model.why_not_servable", lambda **_: None)
    with Model(tmp_path / "m.gguf", gpu_layers=0, on_progress=lambda _: True) as model:
        assert model.refusal == "it is a diffusion model, which does not write token by token"


def test_a_model_without_memory_gets_no_context_to_write_in(tmp_path: Path) -> None:
    init_backend()
    route_logs(lambda _level, _text: None)
    write_synthetic(tmp_path / "m.gguf", "bert")
    with (
        Model(tmp_path / "m.gguf", gpu_layers=0, on_progress=lambda _: True) as model,
        pytest.raises(LoadFailed, match=r"bert .* has no memory for a text that grows"),
    ):
        Context(model, ContextParams(n_ctx=64, n_batch=64, n_ubatch=64, threads=1), seats=1)
