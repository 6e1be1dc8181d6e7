"""Model ids: what they mean, and what is wrong with those that mean nothing."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.errors import InvalidModelId
from neuron_lib.sources import ModelReference, parse_reference


@pytest.mark.parametrize(
    ("text", "scheme", "org", "name"),
    [
        ("org/name", None, "org", "name"),
        ("hub:org/name", "hub", "org", "name"),
        ("Qwen/Qwen3-8B_v1.5-GGUF", None, "Qwen", "Qwen3-8B_v1.5-GGUF"),
        ("hub:org/name/with/more", "hub", "org", "name/with/more"),
    ],
)
def test_an_id_is_taken_apart(text: str, scheme: str | None, org: str, name: str) -> None:
    reference = parse_reference(text)
    assert reference == ModelReference(scheme, org, name)
    assert reference.public_id == f"{org}/{name}"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty"),
        ("name", "has no slash"),
        ("hub:name", "has no slash"),
        (":org/name", "has nothing before its colon"),
        ("org/na:me", "has a slash before its colon"),
        ("/name", "has nothing before its slash"),
        ("hub:/name", "has nothing before its slash"),
        ("org/", "has nothing after its slash"),
        ("hub:org/na:me", "has a second colon"),
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


@given(st.text(max_size=300) | st.from_regex(r"[a-z.:/]{0,12}", fullmatch=True))
def test_any_text_is_a_reference_without_traversal_or_a_refusal(text: str) -> None:
    try:
        reference = parse_reference(text)
    except InvalidModelId:
        return
    assert text == (f"{reference.scheme}:" if reference.scheme else "") + reference.public_id
    assert not {"", ".", ".."} & set(reference.public_id.split("/"))
