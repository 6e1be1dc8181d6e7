"""What a person means by a model."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.config import ModelEntry
from neuron_lib.errors import InvalidModelId
from neuron_lib.sources.named_model import NamedModel, find_named_model
from neuron_lib.sources.reference import parse_reference

FOLDER = Path("/home/me")


def named(text: str, *entries: ModelEntry, **aliases: str) -> NamedModel:
    return find_named_model(text, entries=entries, aliases=aliases, folder=FOLDER)


@pytest.mark.parametrize(
    ("text", "path", "model_id"),
    [
        ("m.gguf", "/home/me/m.gguf", "local/m"),
        ("./m.gguf", "/home/me/m.gguf", "local/m"),
        ("../m.gguf", "/home/m.gguf", "local/m"),
        ("models/Qwen3-8B-Q4_K_M.gguf", "/home/me/models/Qwen3-8B-Q4_K_M.gguf", "local/Qwen3-8B-Q4_K_M"),
        ("/srv/M.GGUF", "/srv/M.GGUF", "local/M"),
        ("/srv/m-00001-of-00003.gguf", "/srv/m-00001-of-00003.gguf", "local/m"),
        ("/srv/blob", "/srv/blob", "local/blob"),
        ("./org/name", "/home/me/org/name", "local/name"),
        ("./a:b c.gguf", "/home/me/a:b c.gguf", "local/a-b-c"),
        ("./.hidden.gguf", "/home/me/.hidden.gguf", "local/hidden"),
        ("./模型.gguf", "/home/me/模型.gguf", "local/model"),
        (f"/{'n' * 240}.gguf", f"/{'n' * 240}.gguf", f"local/{'n' * 200}"),
    ],
)
def test_a_file_has_an_id_made_of_its_name(text: str, path: str, model_id: str) -> None:
    assert named(text) == NamedModel(model_id=model_id, entry=ModelEntry(id=model_id, path=path))


@pytest.mark.parametrize(
    "text",
    [
        "Qwen/Qwen3-8B-GGUF",
        "Qwen/Qwen3-8B-GGUF:Q4_K_M",
        "mirror:Qwen/Qwen3-8B-GGUF",
        "org/name:model-q4_k_m.gguf",
        "hf.co/org/name",
        "https://huggingface.co/org/name/blob/main/model-q4_k_m.gguf",
    ],
)
def test_an_id_or_an_address_of_a_hub_stays_as_it_is(text: str) -> None:
    assert named(text) == NamedModel(model_id=text)


def test_an_id_of_the_configuration_counts_before_everything_that_it_looks_like() -> None:
    assert named("acme/m.gguf", ModelEntry(id="acme/m.gguf", repo="acme/m")) == NamedModel(model_id="acme/m.gguf")


def test_a_file_that_the_configuration_names_has_the_id_from_there() -> None:
    entry = ModelEntry(id="acme/mine", path="/home/me/m.gguf", n_ctx=512)
    assert named("m.gguf", entry) == NamedModel(model_id="acme/mine")


def test_a_further_name_of_the_configuration_is_the_model_that_it_stands_for() -> None:
    assert named("gpt", gpt="acme/mine") == NamedModel(model_id="acme/mine")


def test_a_single_word_is_refused_with_what_can_be_given_instead() -> None:
    with pytest.raises(InvalidModelId, match=r"'llama3' is no model: give a GGUF file \(./llama3.gguf\), org/name"):
        named("llama3")


@pytest.mark.parametrize("text", ["", "a/b:c:d", "a//b", "https://example.org/m.gguf", "://", "a b/c"])
def test_what_can_be_no_model_is_refused(text: str) -> None:
    with pytest.raises(InvalidModelId):
        named(text)


@given(st.text(max_size=300))
def test_any_text_is_a_model_or_is_refused(text: str) -> None:
    try:
        found = named(text)
    except InvalidModelId:
        return
    parse_reference(found.model_id)
    assert (found.entry is None) or found.entry.id == found.model_id
