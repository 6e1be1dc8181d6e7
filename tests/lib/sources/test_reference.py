"""Model ids: what they mean, and what is wrong with those that mean nothing."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.errors import InvalidModelId
from neuron_lib.sources import ModelReference, parse_reference
from neuron_lib.sources.reference import wanted_quant
from neuron_lib.types import names_model, public_id


@pytest.mark.parametrize(
    ("text", "scheme", "org", "name"),
    [
        ("org/name", None, "org", "name"),
        ("hub:org/name", "hub", "org", "name"),
        ("Qwen/Qwen3-8B_v1.5-GGUF", None, "Qwen", "Qwen3-8B_v1.5-GGUF"),
        ("hub:org/name/with/more", "hub", "org", "name/with/more"),
        ("hf.co/org/name", "huggingface", "org", "name"),
        ("huggingface.co/org/name/", "huggingface", "org", "name"),
        ("https://hf.co/org/name", "huggingface", "org", "name"),
        ("https://huggingface.co/org/name", "huggingface", "org", "name"),
        ("HTTP://www.HuggingFace.co/org/name?library=x#top", "huggingface", "org", "name"),
        ("https://huggingface.co/org/name/tree/main", "huggingface", "org", "name"),
        ("https://huggingface.co/org/name/tree", "huggingface", "org", "name"),
        ("org/name:latest", None, "org", "name"),
    ],
)
def test_an_id_is_taken_apart(text: str, scheme: str | None, org: str, name: str) -> None:
    reference = parse_reference(text)
    assert reference == ModelReference(scheme, org, name)
    assert reference.public_id == f"{org}/{name}"


@pytest.mark.parametrize(
    ("text", "scheme", "quant"),
    [
        ("org/name:Q4_K_M", None, "Q4_K_M"),
        ("org/name:q4km", None, "q4km"),
        ("org/name:UD-Q4_K_XL", None, "UD-Q4_K_XL"),
        ("hub:org/name:Q4_K_M", "hub", "Q4_K_M"),
        ("hub.1:org/name:Q4_K_M", "hub.1", "Q4_K_M"),
        ("hf.co/org/name:Q4_K_M", "huggingface", "Q4_K_M"),
        ("https://huggingface.co/org/name:Q4_K_M", "huggingface", "Q4_K_M"),
        ("https://huggingface.co/org/name/blob/main/m-Q4_K_M.gguf", "huggingface", "m-Q4_K_M.gguf"),
        ("https://huggingface.co/org/name/resolve/main/m-Q8_0.gguf?download=true", "huggingface", "m-Q8_0.gguf"),
        ("hf.co/org/name/tree/main/UD-Q4_K_XL", "huggingface", "UD-Q4_K_XL"),
        ("hf.co/org/name/blob/main/Q8_0/m-00001-of-00002.gguf", "huggingface", "Q8_0-m-00001-of-00002.gguf"),
    ],
)
def test_a_quant_is_told_from_a_source_by_its_place(text: str, scheme: str | None, quant: str) -> None:
    reference = parse_reference(text)
    assert reference == ModelReference(scheme, "org", "name", quant)
    assert reference.public_id == f"org/name:{quant}"
    assert reference.repo_id == "org/name"


@pytest.mark.parametrize(
    ("of_id", "asked", "quant"),
    [(None, None, None), (None, " ", None), (None, "q8_0", "q8_0"), ("Q8_0", None, "Q8_0"), ("Q8_0", "q8-0 ", "Q8_0")],
)
def test_the_quant_of_an_id_and_that_beside_it_are_one(of_id: str | None, asked: str | None, quant: str | None) -> None:
    assert wanted_quant(ModelReference(None, "org", "name", of_id), asked) == quant


def test_two_quants_are_refused_with_both() -> None:
    with pytest.raises(InvalidModelId, match="'org/name:Q8_0' names a quant, and the request another: 'q4_0'"):
        wanted_quant(ModelReference(None, "org", "name", "Q8_0"), "q4_0")


@pytest.mark.parametrize(
    ("asked", "model_id", "quant", "is_meant"),
    [
        ("org/name", "org/name:Q8_0", None, True),
        ("hub:org/name:q8-0", "org/name:Q8_0", None, True),
        ("org/name:q80", "org/name", "Q8_0", True),
        ("org/name:latest", "org/name", None, True),
        ("org/name:Q4_0", "org/name:Q8_0", None, False),
        ("org/name:Q4_0", "org/name", None, False),
        ("org/name", "org/other", None, False),
    ],
)
def test_an_id_means_a_model_of_the_same_repository_and_quant(
    asked: str, model_id: str, quant: str | None, *, is_meant: bool
) -> None:
    assert names_model(asked, model_id, quant=quant) is is_meant


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("https://example.org/org/name", "is an address, but none of a model on huggingface.co"),
        ("https://huggingface.co.example.org/org/name", "is an address, but none"),
        ("https://huggingface.co/datasets/org/name", "is an address, but none"),
        ("https://huggingface.co/org/name/tree/v2", "another revision than main"),
        ("https://huggingface.co/org/name/blob/refs%2Fpr%2F1/m.gguf", "another revision than main"),
        ("https://huggingface.co/org", "has no slash"),
        ("https://huggingface.co/", "has no slash"),
        ("https://huggingface.co/org/name/blob/main/../../x.gguf", "has a quant that is not letters"),
        ("https://huggingface.co/org/name/blob/main/%1b%5b2J.gguf", "has a quant that is not letters"),
        ("mirror:hf.co/org/name", "names a source and an address"),
        ("org/name:", "has nothing behind its last colon"),
        ("org/name:Q4:Q8", "has a second colon"),
        ("org/name:../x", "has a second colon"),
        ("org/name:.hidden", "has a quant that is not letters"),
        ("org/name:Q4\n", "has a quant that is not letters"),
        ("llama3:8b", "has no slash"),
        ("", "is empty"),
        ("name", "has no slash"),
        ("hub:name", "has no slash"),
        (":org/name", "has nothing before its colon"),
        ("/name", "has nothing before its slash"),
        ("hub:/name", "has nothing before its slash"),
        ("org/", "has nothing after its slash"),
        ("hub:org:x/name", "has a second colon"),
        ("org/../etc", "has a part"),
        ("org/name/..", "has a part"),
        ("../name", "has a part"),
        ("org//name", "has a part"),
        ("org/na\nme", "has a part"),
        ("org/näme", "has a part"),
        ("org/name ", "has a part"),
        ("org/.hidden", "has a part"),
        ("hüb:org/name", "has a source name"),
        ("o/" + "n" * 255, "is longer than 256"),
    ],
)
def test_a_bad_id_is_refused_quoting_it(text: str, problem: str) -> None:
    with pytest.raises(InvalidModelId, match=re.escape(problem)) as raised:
        parse_reference(text)
    assert repr(text)[1:200].rstrip("'") in raised.value.message
    assert raised.value.message.isprintable()


def test_a_text_of_any_length_is_refused_at_once_and_keeps_its_name() -> None:
    text = "hf.co/o/" + "%41" * 1_000_000
    with pytest.raises(InvalidModelId, match="is longer than 256") as raised:
        parse_reference(text)
    assert len(raised.value.message) < 300
    assert public_id(text) == text


@given(st.text(max_size=300) | st.from_regex(r"[a-z.:/]{0,12}", fullmatch=True))
def test_any_text_is_a_reference_without_traversal_or_a_refusal(text: str) -> None:
    try:
        reference = parse_reference(text)
    except InvalidModelId:
        return
    if not text.endswith(":latest"):
        assert text == (f"{reference.scheme}:" if reference.scheme else "") + reference.public_id
    assert not {"", ".", ".."} & set(re.split("[/:]", reference.public_id))
    assert public_id(text) == reference.public_id
    assert parse_reference(reference.public_id).public_id == reference.public_id
