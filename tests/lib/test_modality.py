"""What a file is follows from its metadata: no name of a file or a model is asked."""

import pytest

from neuron_lib.errors import UnsupportedCapability, WrongModality
from neuron_lib.modality import capabilities_of, require_able, why_not_servable
from neuron_lib.types import Chat, Complete, Detokenize, Embed, Rerank, Task, Tokenize

DIFFUSION = ("dream", "llada", "llada-moe", "rnd1")
ENCODERS = (
    "bert",
    "modern-bert",
    "nomic-bert",
    "jina-bert-v2",
    "gemma-embedding",
    "llama-embed",
    "eurobert",
    "t5encoder",
)
MEAN, LAST, RANK = 1, 3, 4


@pytest.mark.parametrize("architecture", ENCODERS)
def test_an_encoder_makes_embeddings_whatever_else_its_file_says(architecture: str) -> None:
    assert why_not_servable(architecture=architecture) is None
    assert capabilities_of(architecture=architecture) == ("embeddings",)
    assert capabilities_of(architecture=architecture, pooling_type=0, is_causal=True) == ("embeddings",)


@pytest.mark.parametrize(
    ("pooling_type", "is_causal", "capabilities"),
    [
        (None, None, ("text",)),
        (0, True, ("text",)),
        (MEAN, None, ("embeddings",)),
        (LAST, True, ("embeddings",)),
        (None, False, ("embeddings",)),
        (0, False, ("embeddings",)),
        (RANK, None, ("rerank",)),
        (RANK, False, ("rerank",)),
    ],
)
def test_a_decoder_chats_unless_it_was_made_for_vectors_or_scores(
    *, pooling_type: int | None, is_causal: bool | None, capabilities: tuple[str, ...]
) -> None:
    assert capabilities_of(architecture="qwen3", pooling_type=pooling_type, is_causal=is_causal) == capabilities


@pytest.mark.parametrize(
    ("architecture", "word"),
    [
        *((architecture, "diffusion model") for architecture in DIFFUSION),
        ("wavtokenizer-dec", "vocoder"),
        ("qwen3tts", "speech model"),
        ("t5", "encoder-decoder model"),
        ("clip", "mmproj"),
        ("controlvector", "control vector"),
        ("eagle3", "draft model"),
        ("flux", "makes images"),
        ("sdxl", "makes images"),
        ("wan", "makes images or videos"),
        ("cogvlm", "computed wrongly by libllama"),
    ],
)
def test_what_cannot_be_served_is_called_by_its_kind(architecture: str, word: str) -> None:
    reason = why_not_servable(architecture=architecture)
    assert reason is not None
    assert word in reason


@pytest.mark.parametrize(
    ("general_type", "architecture", "adapter_type", "words"),
    [
        ("adapter", "llama", "lora", "it is a LoRA adapter for a model of the architecture llama"),
        ("adapter", None, None, "it is a LoRA adapter for another model"),
        ("adapter", "llama", "control", "it is an adapter of the type control"),
        (None, "llama", "lora", "it is a LoRA adapter for a model of the architecture llama"),
        ("imatrix", None, None, "it is an importance matrix"),
        ("mmproj", "clip", None, "mmproj"),
        ("recipe", "llama", None, "it is a file of the type 'recipe'"),
    ],
)
def test_a_file_that_says_it_is_no_model_is_none_whatever_its_architecture(
    general_type: str | None, architecture: str | None, adapter_type: str | None, words: str
) -> None:
    reason = why_not_servable(architecture=architecture, general_type=general_type, adapter_type=adapter_type)
    assert reason is not None
    assert words in reason


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "mamba", "plamo2", "an architecture from the future", None])
def test_what_is_not_known_to_be_something_else_is_left_to_libllama(architecture: str | None) -> None:
    assert why_not_servable(architecture=architecture) is None


WRITING = (Chat(model_id="o/a", messages=()), Complete(model_id="o/a", prompt="once"))
EMBED = Embed(model_id="o/a", inputs=("one",))
RANKING = Rerank(model_id="o/a", query="which?", documents=("one",))
READING = (Tokenize(model_id="o/a", prompt="once"), Detokenize(model_id="o/a", tokens=(1,)))


@pytest.mark.parametrize("task", WRITING, ids=lambda task: type(task).__name__)
def test_a_text_from_a_model_that_does_something_else_is_refused_by_what_that_is(task: Task) -> None:
    with pytest.raises(WrongModality, match="'o/a' cannot chat: its only use is rerank") as raised:
        require_able(task, "o/a", ("rerank",))
    assert raised.value.fields.keys() == {"model_id", "suggestion"}


@pytest.mark.parametrize("capabilities", [("text",), ("text", "vision"), ("text", "embeddings"), ()])
def test_a_model_that_can_chat_or_does_not_say_may_be_asked(capabilities: tuple[str, ...]) -> None:
    for task in WRITING:
        require_able(task, "o/a", capabilities)


@pytest.mark.parametrize("capabilities", [("text",), ("rerank",)])
def test_vectors_are_refused_by_name_by_a_model_that_makes_none(capabilities: tuple[str, ...]) -> None:
    with pytest.raises(UnsupportedCapability, match="'o/a' makes no embeddings") as raised:
        require_able(EMBED, "o/a", capabilities)
    assert raised.value.code == "embeddings_unsupported"


@pytest.mark.parametrize("capabilities", [("embeddings",), ("text", "embeddings"), ()])
def test_a_model_that_makes_vectors_or_does_not_say_may_be_asked_for_them(capabilities: tuple[str, ...]) -> None:
    require_able(EMBED, "o/a", capabilities)


@pytest.mark.parametrize("capabilities", [("text",), ("embeddings",)])
def test_scores_are_refused_by_name_by_a_model_that_gives_none(capabilities: tuple[str, ...]) -> None:
    with pytest.raises(UnsupportedCapability, match="'o/a' ranks no documents") as raised:
        require_able(RANKING, "o/a", capabilities)
    assert raised.value.code == "rerank_unsupported"
    assert raised.value.fields["suggestion"] == "choose a model whose capabilities include rerank"


@pytest.mark.parametrize("capabilities", [("rerank",), ("text", "rerank"), ()])
def test_a_reranker_or_a_model_that_does_not_say_may_be_asked_for_scores(capabilities: tuple[str, ...]) -> None:
    require_able(RANKING, "o/a", capabilities)


@pytest.mark.parametrize("capabilities", [("text",), ("embeddings",), ("rerank",), ("text", "vision"), ()])
def test_a_model_that_reads_text_may_be_asked_for_its_tokens(capabilities: tuple[str, ...]) -> None:
    for task in READING:
        require_able(task, "o/a", capabilities)


@pytest.mark.parametrize("task", READING, ids=lambda task: type(task).__name__)
def test_the_tokens_of_a_model_that_nothing_reads_with_are_refused_by_name(task: Task) -> None:
    with pytest.raises(UnsupportedCapability, match="'o/a' does not tell its tokens") as raised:
        require_able(task, "o/a", ("images",))
    assert raised.value.code == "tokenize_unsupported"


def test_the_tokens_of_a_chat_are_asked_of_a_model_that_chats() -> None:
    chat = Chat(model_id="o/a", messages=())
    require_able(Tokenize(model_id="o/a", prompt=chat), "o/a", ("text",))
    with pytest.raises(WrongModality, match="'o/a' cannot chat"):
        require_able(Tokenize(model_id="o/a", prompt=chat), "o/a", ("embeddings",))
