import json

import pytest

from neuron_lib.wire.line_breaks import escape_line_breaks


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85"])
def test_what_a_reader_may_take_for_the_end_of_a_line_is_escaped(character: str) -> None:
    text = f"a{character}b"
    escaped = escape_line_breaks(json.dumps(text, ensure_ascii=False).encode())
    assert character not in escaped.decode()
    assert json.loads(escaped) == text


@pytest.mark.parametrize("text", ["", "plain", "入✅é…–\u2027\u202a\x84", r"\u0085 spelled"])
def test_every_other_character_stays_as_it_is(text: str) -> None:
    encoded = json.dumps(text, ensure_ascii=False).encode()
    assert escape_line_breaks(encoded) == encoded
