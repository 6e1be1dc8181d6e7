from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.errors import LoadFailed, cause_chain
from neuron_lib.registry.progress import advance
from neuron_lib.shown import LONGEST_QUOTE, bounded, brief, clip, fields_line, printable
from neuron_lib.types import LoadProgress, LoadStage

# What JSON can hold, and more of it than anybody sends.
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=300),
    lambda inner: st.lists(inner, max_size=30) | st.dictionaries(st.text(max_size=300), inner, max_size=30),
)


def test_a_short_text_is_shown_as_it_is() -> None:
    assert clip("a" * LONGEST_QUOTE) == "a" * LONGEST_QUOTE


def test_of_a_long_text_the_first_200_characters_are_shown_and_its_length() -> None:
    assert clip("a" * 2_000_000) == "a" * 200 + "… (2000000 characters)"


@pytest.mark.parametrize("value", ["org/a", None, True, 1.5, 7, -(2**63), [1, "a"], (0, 5), {"a": [1]}, [], {}])
def test_a_small_field_keeps_its_value_and_its_type(value: object) -> None:
    assert bounded(value) == value
    assert type(bounded(value)) is type(value)


@pytest.mark.parametrize(
    "value",
    [
        "u" * 2_000_000,
        ["u" * 2_000_000] * 100,
        {"u" * 2_000_000: "u" * 2_000_000},
        {f"{number}": "u" * 1000 for number in range(10_000)},
        list(range(500_000)),
        tuple(range(500_000)),
        10**6000,
        [10**6000],
        {"a": {"b": {"c": {"d": ["u" * 1000] * 1000}}}},
        b"u" * 2_000_000,
        {*range(500_000)},
    ],
    ids=["text", "texts", "key", "keys", "list", "tuple", "integer", "integers", "nest", "bytes", "set"],
)
def test_a_field_of_any_size_becomes_a_few_thousand_characters(value: object) -> None:
    assert len(str(bounded(value))) < 10_000
    assert len(brief(value)) < 300
    assert len(fields_line({"field": value})) < 500


@given(VALUES)
def test_every_value_can_be_bounded(value: Any) -> None:
    assert len(str(bounded(value))) < 100_000
    assert fields_line({"field": value}).isprintable()


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("a\nb\r", "a\\nb\\r"),
        ("\x1b[31m\x00\x7f", "\\x1b[31m\\x00\\x7f"),
        ("\x85\x9b", "\\x85\\x9b"),
        ("\u2028\u2029", "\\u2028\\u2029"),
        ("user\u202etxt.exe\u2066", "user\\u202etxt.exe\\u2066"),
        ("\ufeff\u200b", "\\ufeff\\u200b"),
        ("\udc80", "\\udc80"),
        ("é 入 ✅", "é 入 ✅"),
    ],
)
def test_what_would_break_a_line_or_turn_its_direction_is_spelled_out(hostile: str, shown: str) -> None:
    assert printable(hostile) == shown


def test_a_reason_is_a_chain_of_causes_and_longer_than_other_fields() -> None:
    assert fields_line({"reason": "r" * 1500, "file": "f" * 1500}) == f'reason={"r" * 1500} file="{clip("f" * 1500)}"'


@given(st.text())
def test_any_text_becomes_printable(text: str) -> None:
    assert printable(text).isprintable()


def test_a_file_name_that_is_not_utf_8_becomes_text_that_json_and_html_can_have() -> None:
    name = "m\udcff.gguf"
    shown = "m\\udcff.gguf"
    assert (clip(name), bounded([name]), cause_chain(LoadFailed(name))) == (shown, [shown], shown)
    assert cause_chain(FileNotFoundError(2, "no file", name)).isprintable()
    progress = LoadProgress(stage=LoadStage.VERIFYING, file=name)
    assert advance(progress, progress).file == shown
