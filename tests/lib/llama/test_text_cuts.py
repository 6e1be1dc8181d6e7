from itertools import accumulate
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuron_lib.llama.text_cuts import LONGEST_STRETCH, Cutter
from tests.examples import examples

SPECIALS: Final = ("<|im_start|>", "<|im_end|>", "<think>", "\n\n", "\n\n\n", "<|im_end|><think>")
UNITS: Final = ("a", "word", "é", " ", "\n", "/", "-", "7", "中", "😀", "\u0301", "'", '{"a":1}')
TEXTS: Final = st.lists(
    st.tuples(st.sampled_from([*SPECIALS, *UNITS]), st.sampled_from([1, 7, 2_000])), max_size=5
).map(lambda runs: "".join(unit * times for unit, times in runs))


def cutter(*, cuts_stretches: bool = True) -> Cutter:
    return Cutter(SPECIALS, cuts_stretches=cuts_stretches)


def cuts_of(pieces: list[str]) -> list[int]:
    """The places between the pieces."""
    return list(accumulate(map(len, pieces)))[:-1]


@given(text=TEXTS, cuts_stretches=st.booleans())
@settings(deadline=None, max_examples=examples(40))
def test_pieces_are_the_text_and_no_special_token_is_cut(text: str, cuts_stretches: bool) -> None:  # noqa: FBT001
    pieces = list(cutter(cuts_stretches=cuts_stretches).pieces(text))
    assert "".join(pieces) == text
    assert all(pieces)
    for place in cuts_of(pieces):
        around = text[max(0, place - 20) : place], text[place : place + 20]
        for special in (text for text in SPECIALS if not text.isspace()):
            inside = range(1, len(special))
            assert not any(around[0].endswith(special[:i]) and around[1].startswith(special[i:]) for i in inside)


@pytest.mark.parametrize("unit", ["a", "é", "0", " ", "\n", "-", "😀", "e\u0301", "aB3+/", '{"a":1},', "\n/", "a "])
def test_a_run_without_an_end_is_cut_into_stretches(unit: str) -> None:
    pieces = list(cutter().pieces("!" + unit * 10_000))
    assert len(pieces) > 1
    assert max(map(len, pieces)) <= LONGEST_STRETCH + 1
    assert min(map(len, pieces[:-1])) >= LONGEST_STRETCH // 2


@pytest.mark.parametrize(
    "text",
    [
        "Prose with spaces, commas and a 3rd number. " * 1_000,
        "ein sehr langes wort\n" * 2_000,
        "def f(x):\n\treturn x[1:] + [2]\n" * 2_000,
        "x" * LONGEST_STRETCH,
        f"{'x' * (LONGEST_STRETCH - 1)} {'y' * 1000}\n",
    ],
)
def test_a_text_without_long_stretches_is_one_piece(text: str) -> None:
    assert list(cutter().pieces(text)) == [text]


def test_other_tokenizers_get_long_stretches_whole() -> None:
    text = "x" * 100_000
    assert list(cutter(cuts_stretches=False).pieces(text)) == [text]


@pytest.mark.parametrize(
    ("text", "behind", "before"),
    [
        ('{"key":"value"},' * 1_000, "yeualn", '"'),  # in front of punctuation, as a word ends there
        ("天气很好，" * 2_000, "好", "，"),
        ("one two three " * 2_000, "eo", " "),
    ],
)
def test_a_stretch_is_cut_where_words_are_parted_anyway(text: str, behind: str, before: str) -> None:
    for place in cuts_of(list(cutter().pieces(text))):
        assert text[place - 1] in behind
        assert text[place] in before


def test_no_stretch_is_cut_in_front_of_an_apostrophe() -> None:
    text = "don't" * 2_000
    assert all(text[place] != "'" for place in cuts_of(list(cutter().pieces(text))))


@pytest.mark.parametrize(("unit", "period"), [("7", 3), ("-", 64), ("=", 256), (" ", 16)])
def test_cuts_in_equal_characters_fall_between_their_tokens(unit: str, period: int) -> None:
    assert {place % period for place in cuts_of(list(cutter().pieces(unit * 50_000)))} == {0}


def test_marks_and_joiners_stay_with_their_letters() -> None:
    text = "👩\u200d👩" * 5_000 + "e\u0301\u0302" * 5_000
    for place in cuts_of(list(cutter().pieces(text))):
        assert text[place] not in "\u0301\u0302\u200d"
        assert text[place - 1] != "\u200d"


def test_many_special_tokens_are_read_in_parts_that_end_with_one() -> None:
    pieces = list(cutter(cuts_stretches=False).pieces("<|im_end|>word" * 20_000))
    assert len(pieces) > 5
    assert all(piece.endswith("<|im_end|>") for piece in pieces[:-1])


def test_places_at_which_special_tokens_might_begin_are_an_effort() -> None:
    many = Cutter((f"<unused{number}>" for number in range(6_000)), cuts_stretches=False)
    prose = "The sea the sea. " * 1_000
    assert many.effort(prose) == len(prose)
    assert many.effort("<" * 1_000) > 100 * 1_000
    assert Cutter((), cuts_stretches=True).effort("<" * 1_000) == 1_000
