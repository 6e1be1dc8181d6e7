"""The messages of a conversation, and the file that they are saved in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_service.cli.talk.conversation import (
    Conversation,
    MalformedConversation,
    decode_conversation,
    encode_conversation,
)
from neuron_service.cli.talk.pieces import Message

texts = st.text(st.characters(codec="utf-8"))


def test_a_reply_is_asked_for_with_everything_that_was_said_before() -> None:
    conversation = Conversation(system="Be brief.")
    conversation.add("Hi", "Hello.")
    assert [(each.role, each.content) for each in conversation.with_user("Bye")] == [
        ("system", "Be brief."),
        ("user", "Hi"),
        ("assistant", "Hello."),
        ("user", "Bye"),
    ]
    assert len(conversation.turns) == 2


def test_the_last_turn_can_be_taken_back() -> None:
    conversation = Conversation()
    conversation.add("Hi", "Hello.")
    assert conversation.take_back() == "Hi"
    assert (conversation.turns, conversation.take_back()) == ([], None)


@given(st.none() | texts, st.lists(st.tuples(texts, texts), max_size=3))
def test_a_saved_conversation_comes_back_as_it_was(system: str | None, turns: list[tuple[str, str]]) -> None:
    conversation = Conversation(system=system)
    for user, assistant in turns:
        conversation.add(user, assistant)
    assert decode_conversation(encode_conversation(conversation, model_id="a/b")) == conversation


def test_a_saved_conversation_has_its_messages_as_the_apis_take_them() -> None:
    conversation = Conversation(turns=[Message(role="user", content="Hi"), Message(role="assistant", content="Ho")])
    text = encode_conversation(conversation, model_id="a/b").decode()
    assert '"model": "a/b"' in text
    assert '"role": "user"' in text


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"not JSON",
        b"\xff",
        b"[]",
        b'{"messages":[]}',
        b'{"model":"a","messages":[{"role":"tool","content":"x"}]}',
        b'{"model":"a","messages":[{"role":"user","content":"x"}]}',
        b'{"model":"a","messages":[{"role":"assistant","content":"x"},{"role":"user","content":"x"}]}',
        b'{"model":"a","messages":[{"role":"user","content":1}]}',
        b'{"model":"a","messages":' + b"[" * 100_000,
    ],
)
def test_any_other_file_is_refused(text: bytes) -> None:
    with pytest.raises(MalformedConversation, match="it is no saved conversation"):
        decode_conversation(text)
