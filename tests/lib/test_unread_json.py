import json
from typing import Any

import pytest

from neuron_lib.types import Medium, UnreadArray, UnreadObject, first_medium

MESSAGES = ({"role": "user", "content": "secret"}, {"role": "tool", "content": None, "x": [1.5]})


def unread(*messages: dict[str, Any]) -> UnreadArray:
    return UnreadArray(json.dumps(messages).encode())


def test_json_that_nobody_has_read_is_the_sequence_that_it_stands_for() -> None:
    array = unread(*MESSAGES)
    assert array == MESSAGES
    assert list(MESSAGES) == array
    assert array != MESSAGES[:1]
    assert array != "text"
    assert (len(array), array[0], array[1:], list(array)) == (2, MESSAGES[0], MESSAGES[1:], list(MESSAGES))


def test_an_object_that_nobody_has_read_is_the_mapping_that_it_stands_for() -> None:
    unread_object = UnreadObject(b'{"a":1,"b":{"c":null},"a":2}')
    assert unread_object == {"a": 2, "b": {"c": None}}
    assert (len(unread_object), unread_object["a"], list(unread_object)) == (2, 2, ["a", "b"])


@pytest.mark.parametrize(("text", "is_empty"), [(b"[]", True), (b" [ \n]", True), (b"[{}]", False), (b"[ {", False)])
def test_whether_an_array_is_empty_can_be_seen_without_reading_it(text: bytes, *, is_empty: bool) -> None:
    assert bool(UnreadArray(text)) is not is_empty


def test_a_log_line_shows_nothing_of_what_is_inside() -> None:
    assert "secret" not in repr(unread(*MESSAGES)) + repr(UnreadObject(b'{"x":"secret"}'))


@pytest.mark.parametrize("text", [b"[1]", b"{}", b"[{}", b'[{"a":"\xff"}]'])
def test_text_that_is_no_array_of_objects_is_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        len(UnreadArray(text))


def parts(*types: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": type_, "text": "x", "input_audio": {"data": [1]}} for type_ in types]}


@pytest.mark.parametrize(
    ("messages", "medium"),
    [
        ([], None),
        ([{"role": "user", "content": "image_url"}, {"role": "assistant", "content": None}, {"role": "tool"}], None),
        ([parts("text", "thinking", "redacted_thinking", "document", "refusal", "of the future")], None),
        ([parts("text"), parts("text", "image_url")], "image"),
        ([parts("input_image")], "image"),
        ([parts("image")], "image"),
        ([parts("input_audio", "image_url")], "audio"),
        ([parts("video_url")], "video"),
        ([parts("file")], "file"),
    ],
)
def test_what_messages_show_that_is_no_text_is_found_read_or_unread(
    messages: list[dict[str, Any]], medium: Medium | None
) -> None:
    assert first_medium(messages) == first_medium(unread(*messages)) == medium
