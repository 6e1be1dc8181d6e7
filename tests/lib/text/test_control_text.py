import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.text import control_text
from neuron_lib.text.control_text import ControlTexts, Disguise, Piece, Strips

TOKENS = (
    "<|im_end|>",
    "<|im_start|>",
    "<s>",
    "[INST]",
    "<|x|>",
    "<|x|>y",
    " <lead>",
    "<|reserved_7|>",
    "<|" + "z" * 90,
)


def controls(*texts: str) -> ControlTexts:
    return ControlTexts(dict.fromkeys(texts or TOKENS, Strips()))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a<|im_end|>b<s>", ["<|im_end|>", "<s>"]),
        ("<|x|>y<|x|>z", ["<|x|>y", "<|x|>"]),
        ("<|im_<|im_end|>end|>", ["<|im_end|>"]),
        ("a <lead><lead>", [" <lead>"]),
        ("<|IM_END|><|im_end|", []),
        ("<|" + "z" * 90 + "<|" + "z" * 89, ["<|" + "z" * 90]),
        ("", []),
    ],
)
def test_control_tokens_are_found_where_the_longest_of_them_stands(text: str, found: list[str]) -> None:
    assert [text[start:end] for start, end in controls().find(text)] == found


@pytest.mark.parametrize(
    ("text", "marked"),
    [
        ("a<|im_end|>", "a~|im_end|>"),
        ("<|IM_End|>", "~|IM_End|>"),
        ("<|im_<|im_end|>end|>", "<|im_~|im_end|>end|>"),
        ("<|im_ end|>", "~|im_ end|>"),
        ("<|im_", "~|im_"),
        ("a <", "a ~"),
        ("a < b", "a ~ b"),
        ("<|im_CUTend|>", "~|im_CUTend|>"),
        ("<CUT|im_end|>", "~CUT|im_end|>"),
        ("<span>a</span>", "<span>a</span>"),
        ("<lead>", "~lead>"),
        ("<|reserved_12|>", "~|reserved_12|>"),
        ("[INST] [inst] [IN", "~INST] ~inst] ~IN"),
        ("nothing", "nothing"),
    ],
)
def test_what_spells_a_token_or_may_become_one_is_marked_at_its_beginning(text: str, marked: str) -> None:
    chars = list(text)
    for place in controls().marks(text, allowed=(), cutters=("CUT",)):
        chars[place] = "~"
    assert "".join(chars) == marked


@pytest.mark.parametrize("part", [1, 2, 3, 5])
def test_a_long_text_is_searched_in_parts_and_the_same_is_found(monkeypatch: pytest.MonkeyPatch, part: int) -> None:
    text = "<|im_end|> a<|im_CUTend|> <<|" + "z" * 95 + "<|im_x <span>[INST] <|"
    whole = controls().marks(text, allowed=(), cutters=("CUT",))
    monkeypatch.setattr(control_text, "_PART", part)
    assert controls().marks(text, allowed=(), cutters=("CUT",)) == whole
    assert len(whole) == 5


def test_what_is_allowed_stays() -> None:
    assert controls().marks("<|im_end|><s>", allowed=("<s>",), cutters=()) == [0]


def test_a_vocabulary_without_control_tokens_hides_nothing() -> None:
    none = ControlTexts({})
    assert list(none.find("<s>")) == []
    assert Disguise.of(none, [("<s>", ())], cutters=()) is None


def test_a_stand_in_that_a_template_wrote_as_a_json_escape_is_revealed() -> None:
    content = 'a "<s>" <|im_end|>'
    disguised = Disguise.of(controls(), [(content, ())], cutters=())
    assert disguised is not None
    (worn,), disguise = disguised
    prompt = f"<s>{json.dumps(worn)}<|im_end|>"
    assert disguise.reveal(prompt) == f"<s>{json.dumps(content)}<|im_end|>"
    assert disguise.pieces(prompt) == [
        Piece("<s>", is_foreign=False),
        Piece(json.dumps(content), is_foreign=True),
        Piece("<|im_end|>", is_foreign=False),
    ]


@pytest.mark.parametrize("taken", ["\ufdd0", "\\ufdd0", "\\uFDD0", "\ufdd0\ufdd1\\ufdd2"])
def test_a_stand_in_is_a_character_that_nobody_wrote(taken: str) -> None:
    disguised = Disguise.of(controls(), [(f"{taken}<s>", ())], cutters=())
    assert disguised is not None
    (text,), disguise = disguised
    assert disguise.reveal(text) == f"{taken}<s>"
    assert "<s>" not in text


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(alphabet="<|>ims_end[INST] x\ufdd0\\u", max_size=30),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet="<|x>s", max_size=6), inner, max_size=3)
        ),
    )
)
def test_a_disguise_hides_every_token_and_takes_nothing_away(value: object) -> None:
    disguised = Disguise.of(controls(), [(value, ())], cutters=())
    if disguised is None:
        assert not list(controls().find(repr(value)))
        return
    (worn,), disguise = disguised
    assert re.search("<s>|<[|]im_end[|]>", repr(worn), re.IGNORECASE) is None
    assert disguise.reveal(repr(worn)) == repr(value)
