"""The binding of a reply, over a vocabulary of pieces and rules that are a regular expression."""

import math
import re
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any, Final, Self

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.sampling.binding import Binding, Mark, Plan, Reasoning
from neuron_lib.sampling.filters import Scores

END: Final = 0
THINK, UNTHINK, CALL, UNCALL = 1, 2, 3, 4
CONTROL: Final = {END: "", THINK: "<think>", UNTHINK: "</think>", CALL: "<call>", UNCALL: "</call>"}
HALVES: Final = ("\xc3", "\xa9")
"""The two bytes of an é, each a piece of its own."""
PIECES: Final = (
    *CONTROL.values(),
    *("a", "b", " ", "\n", "\n\n", "<", "c", "c>", "c>1", "c>x", "1", "2", "</c>", "<c>1</c>", "t>", "</", "/t>", "<t"),
    *(";", ">", "/", "é", *HALVES, "think", "call"),
)
ID: Final = {piece: token for token, piece in enumerate(PIECES)}
WORDS: Final = sorted((piece for piece in PIECES if piece), key=len, reverse=True)


def piece_of(token: int) -> bytes:
    return PIECES[token].encode("latin-1" if PIECES[token] in HALVES else "utf-8")


def spell(text: str) -> list[int]:
    """The tokens of a text, the longest pieces first, without those that are control tokens."""
    tokens = []
    while text:
        word = next(word for word in WORDS if text.startswith(word) and ID[word] not in CONTROL)
        tokens.append(ID[word])
        text = text[len(word) :]
    return tokens


def sign(token: int) -> str:
    return chr(0xE000 + token) if token in CONTROL else PIECES[token]


class Sentences:
    """Rules that allow these texts. A control token in them is one character of its own."""

    def __init__(self, sentences: Sequence[str], text: str = "") -> None:
        self.sentences = sentences
        self.text = text

    @property
    def is_satisfied(self) -> bool:
        return self.text in self.sentences

    @property
    def is_complete(self) -> bool:
        return self.is_satisfied and not self._may_become(self.text, is_longer=True)

    def copy(self) -> Self:
        return type(self)(self.sentences, self.text)

    def after(self, text: bytes) -> Self | None:
        more = self.text + text.decode()
        return type(self)(self.sentences, more) if self._may_become(more) else None

    def allows(self, token: int) -> bool:
        if token == END:
            return self.is_satisfied
        return self._may_become(self.text + sign(token))

    def mask(self, row: Scores) -> None:
        row[[token for token in range(len(PIECES)) if not self.allows(token)]] = -math.inf

    def accept(self, token: int) -> None:
        assert self.allows(token)
        self.text += "" if token == END else sign(token)

    def _may_become(self, text: str, *, is_longer: bool = False) -> bool:
        return any(each.startswith(text) and len(each) >= len(text) + is_longer for each in self.sentences)


def calls(opening: str, closing: str, *, between: str, most: int) -> Sentences:
    """All texts of up to `most` calls of 1 or 2."""
    one = [f"{opening}{value}{closing}" for value in "12"]
    return Sentences([between.join(each) for count in range(1, most + 1) for each in product(one, repeat=count)])


SPECIAL: Final = calls(sign(CALL), sign(UNCALL), between="\n", most=4)
SINGLE: Final = calls(sign(CALL), sign(UNCALL), between="\n", most=1)
SPELLED: Final = calls("<c>", "</c>", between=";", most=4)
ONE_CALL: Final = r"<call>[12]</call>"
CALLS: Final = rf"{ONE_CALL}(\n{ONE_CALL})*"
BY_TOKEN: Final = Mark(b"<call>", CALL)
BY_TEXT: Final = Mark(b"<c>")
THOUGHT: Final = Reasoning(open=Mark(b"<think>", THINK), close=Mark(b"</think>", UNTHINK))
SPELLED_THOUGHT: Final = Reasoning(open=Mark(b"<t>"), close=Mark(b"</t>"))


def plan(rules: Sentences | None = None, *openings: Mark, **fields: Any) -> Plan:
    return Plan(piece=piece_of, spell=spell, eog=frozenset({END}), rules=rules, openings=openings, **fields)


def within(reasoning: Reasoning, budget: int) -> Reasoning:
    return Reasoning(open=reasoning.open, close=reasoning.close, budget=budget)


def tokens(*pieces: str) -> list[int]:
    return [ID[piece] for piece in pieces]


def read(binding: Binding, *pieces: str) -> bool:
    """Whether the pieces are accepted, one after the other."""
    for token in tokens(*pieces):
        if not binding.allows(token):
            return False
        binding.accept(token)
    return True


def unmasked(binding: Binding) -> set[str]:
    row = np.zeros(len(PIECES), np.float32)
    binding.mask(row)
    return {PIECES[token] for token in np.flatnonzero(np.isfinite(row))}


def choices(binding: Binding) -> set[str]:
    return {PIECES[token] for token in range(len(PIECES)) if binding.allows(token)}


def write(binding: Binding, wishes: Iterable[str], *, most: int = 40) -> str:
    """What becomes of a model that wishes for these pieces, as a sampler does it: the mask decides where a wish is
    refused. The model ends where it has no wish left.
    """
    text = ""
    queue = list(wishes)
    for _ in range(most):
        if binding.is_complete:
            return text
        token = ID[queue.pop(0)] if queue else END
        if not binding.allows(token):
            row = np.linspace(0, 1, len(PIECES), dtype=np.float32)[::-1].copy()
            binding.mask(row)
            token = int(row.argmax())
            assert binding.allows(token)
        binding.accept(token)
        if token == END:
            return text
        text += PIECES[token]
    pytest.fail(f"no end: {text!r}")


# ------------------------------------------------------------------------------------------------------ free and bound


@pytest.mark.parametrize(
    ("rules", "opening", "begin", "end"),
    [
        (SPECIAL, BY_TOKEN, ("<call>",), ("1", "</call>")),
        (SPELLED, BY_TEXT, ("<", "c>1"), ("</c>",)),
        (SPELLED, BY_TEXT, ("a", "<", "c", ">"), ("2", "</", "c", ">")),
    ],
)
def test_a_reply_is_free_up_to_a_call_and_bound_in_it(
    rules: Sentences, opening: Mark, begin: Sequence[str], end: Sequence[str]
) -> None:
    binding = plan(rules, opening).begin()
    assert read(binding, "a", "<", "b")
    assert choices(binding) == set(PIECES)
    assert read(binding, *begin)
    assert not {"a", ""} & choices(binding)
    assert read(binding, *end, "a", "")


def test_behind_a_call_the_reply_is_free_again_and_may_call_again() -> None:
    binding = plan(SPECIAL, BY_TOKEN).begin()
    assert read(binding, "<call>", "1", "</call>", "a", " ", "b", "<call>", "2", "</call>", "a", "")


def test_white_space_behind_a_call_forces_no_other_call() -> None:
    binding = plan(SPECIAL, BY_TOKEN).begin()
    assert read(binding, "<call>", "1", "</call>", "\n")
    assert {"", "a", "<call>"} <= choices(binding)


def test_a_reply_that_may_call_once_ends_with_the_call() -> None:
    binding = plan(SINGLE, BY_TOKEN, is_repeated=False).begin()
    ends = [read(binding, *pieces) and binding.is_complete for pieces in (("a", "<call>", "1"), ("</call>",))]
    assert ends == [False, True]
    assert choices(binding) == {""}


def test_a_token_that_opens_a_call_wrongly_is_replaced_by_one_that_opens_it_rightly() -> None:
    binding = plan(SPELLED, BY_TEXT).begin()
    assert read(binding, "a", "<")
    assert not binding.allows(ID["c>x"])
    assert write(binding, ["c>x"]).startswith(("c>1", "c>", "c"))


def test_a_call_may_be_opened_and_closed_by_one_token() -> None:
    binding = plan(SPELLED, BY_TEXT).begin()
    assert read(binding, "a", "<c>1</c>", "b")


def test_a_text_that_looks_like_the_token_that_opens_calls_opens_none() -> None:
    binding = plan(SPECIAL, BY_TOKEN).begin()
    assert read(binding, "<", "c", "a", "1")


@pytest.mark.parametrize(("before", "opens"), [((), True), (("\n", " "), True), (("a",), False), (("a", "\n"), False)])
def test_an_opening_that_must_come_first_means_nothing_later(before: Sequence[str], *, opens: bool) -> None:
    binding = plan(SPELLED, Mark(b"<c>", is_first=True)).begin()
    assert read(binding, *before, "<", "c>")
    assert binding.allows(ID["a"]) is not opens


@pytest.mark.parametrize("wishes", [("a", "b", "a"), ("1",), ("<call>", "a"), ("</think>", "2", "2")])
@pytest.mark.parametrize("is_repeated", [True, False])
def test_a_reply_that_must_call_calls_whatever_the_model_wishes(wishes: Sequence[str], *, is_repeated: bool) -> None:
    rules = SPECIAL if is_repeated else SINGLE
    binding = plan(rules, BY_TOKEN, binds_answer=True, is_repeated=is_repeated).begin()
    assert re.fullmatch(CALLS, write(binding, wishes).rstrip())


def test_a_reply_that_must_call_may_end_behind_white_space() -> None:
    binding = plan(SPECIAL, BY_TOKEN, binds_answer=True).begin()
    assert read(binding, "<call>", "1", "</call>", "\n", "")


def test_a_reply_that_must_call_does_not_call_without_end() -> None:
    binding = plan(SPECIAL, BY_TOKEN, binds_answer=True, most_calls=3).begin()
    text = write(binding, ["<call>", "1", "</call>", "\n"] * 9)
    assert text == "\n".join(["<call>1</call>"] * 3)
    assert binding.is_complete


def test_a_reply_that_must_call_says_nothing_else() -> None:
    binding = plan(SPECIAL, BY_TOKEN, binds_answer=True).begin()
    assert choices(binding) == {"<call>"}
    assert read(binding, "<call>", "1", "</call>")
    assert choices(binding) == {"", "\n"}


@given(st.lists(st.sampled_from(PIECES[1:]), max_size=12), st.booleans())
def test_no_wish_leads_to_a_call_that_breaks_the_rules(
    wishes: list[str],
    is_repeated: bool,  # noqa: FBT001 - hypothesis passes it by position
) -> None:
    rules = SPECIAL if is_repeated else SINGLE
    text = write(plan(rules, BY_TOKEN, is_repeated=is_repeated).begin(), [*wishes, "a"])
    assert len(re.findall(r"<call>[12]</call>", text)) == text.count("<call>")


@given(st.lists(st.sampled_from(PIECES[5:]), max_size=12))
def test_no_cut_of_a_spelled_call_escapes_the_rules(wishes: list[str]) -> None:
    text = write(plan(SPELLED, BY_TEXT).begin(), [*wishes, "a"])
    assert len(re.findall(r"<c>[12]</c>", text)) == text.count("<c>")


def test_where_a_reply_is_bound_the_mask_leaves_what_is_allowed() -> None:
    must = plan(SPECIAL, BY_TOKEN, binds_answer=True, reasoning=within(THOUGHT, 2))
    for begun in (
        (),
        ("<call>",),
        ("<think>", "a"),
        ("<think>", "a", "b"),
    ):
        binding = must.begin()
        assert read(binding, *begun)
        assert unmasked(binding) == choices(binding)


def test_where_calls_may_end_the_mask_leaves_the_end() -> None:
    must = plan(SPECIAL, BY_TOKEN, binds_answer=True)
    for begun in (("<call>", "1", "</call>"), ("<call>", "1", "</call>", "\n")):
        binding = must.begin()
        assert read(binding, *begun)
        assert unmasked(binding) == {""} < choices(binding)


# ----------------------------------------------------------------------------------------------------------- reasoning


@pytest.mark.parametrize("budget", [0, 1, 3])
def test_at_the_end_of_its_budget_the_reasoning_is_closed_to_the_token(budget: int) -> None:
    binding = plan(reasoning=within(THOUGHT, budget), starts_in_reasoning=True).begin()
    assert write(binding, ["a"] * (budget + 3)) == "a" * budget + "</think>" + "a" * 2


def test_reasoning_that_the_reply_opens_itself_has_the_same_budget() -> None:
    binding = plan(reasoning=within(THOUGHT, 2)).begin()
    assert write(binding, ["<think>", *"abab"]) == "<think>ab</think>b"


def test_all_blocks_of_reasoning_share_one_budget() -> None:
    binding = plan(reasoning=within(THOUGHT, 3)).begin()
    assert write(binding, ["<think>", "a", "a", "</think>", "b", "<think>", "a", "a", "b"]) == (
        "<think>aa</think>b<think>a</think>b"
    )


def test_a_closing_marker_of_many_tokens_is_written_to_its_end_and_only_what_is_missing_of_it() -> None:
    binding = plan(reasoning=within(SPELLED_THOUGHT, 3), starts_in_reasoning=True).begin()
    assert write(binding, ["a", "a", "a", "a", "a", "b"]) == "aaa</t>b"
    begun = plan(reasoning=within(SPELLED_THOUGHT, 3), starts_in_reasoning=True).begin()
    assert write(begun, ["a", "a", "</", "a", "b"]) == "aa</t>b"


def test_a_budget_does_not_cut_a_character() -> None:
    binding = plan(reasoning=within(THOUGHT, 1), starts_in_reasoning=True).begin()
    assert read(binding, "\xc3")
    assert choices(binding) == {"\xa9", "</think>"}
    assert read(binding, "\xa9")
    assert choices(binding) == {"</think>"}


def test_without_a_budget_reasoning_is_free() -> None:
    binding = plan(SPECIAL, BY_TOKEN, reasoning=THOUGHT, starts_in_reasoning=True).begin()
    assert read(binding, *["a"] * 50, "</think>", "b", "")


def test_reasoning_may_come_before_a_call_that_must_come_and_cannot_replace_it() -> None:
    must = plan(SPECIAL, BY_TOKEN, binds_answer=True, reasoning=THOUGHT)
    assert choices(must.begin()) == {"<think>", "<call>"}
    binding = must.begin()
    assert read(binding, "<think>", "a", "b")
    assert "" not in choices(binding)
    assert read(binding, "</think>", "\n\n")
    assert "a" not in choices(binding)
    assert read(binding, "<call>", "2", "</call>", "")


def test_a_prompt_that_opens_the_reasoning_leaves_it_before_the_call() -> None:
    binding = plan(SPECIAL, BY_TOKEN, binds_answer=True, reasoning=THOUGHT, starts_in_reasoning=True).begin()
    assert re.fullmatch(r"ab</think><call>[12]</call>", write(binding, ["a", "b", "</think>", "a", "a", "a"]))


def test_reasoning_of_many_tokens_may_come_before_a_call() -> None:
    binding = plan(SPECIAL, BY_TOKEN, binds_answer=True, reasoning=SPELLED_THOUGHT).begin()
    assert read(binding, "<t", ">", "a", "b")
    assert read(binding, "</", "t>", "<call>", "1", "</call>", "")


def test_reasoning_and_calls_that_begin_alike_are_told_apart_later() -> None:
    channels = Sentences(["<c>call1", "<c>call2"])
    thought = Reasoning(open=Mark(b"<c>think"), close=Mark(b"</think>", UNTHINK))
    must = plan(channels, binds_answer=True, reasoning=thought)
    assert spell("<c>think")[0] == spell("<c>call1")[0]
    thinking, calling = must.begin(), must.begin()
    assert read(thinking, *(PIECES[token] for token in spell("<c>think")), "a", "b", "</think>")
    assert read(calling, *(PIECES[token] for token in spell("<c>call1")))
    assert calling.is_complete
    between = must.begin()
    assert read(between, "<", "c>")
    assert choices(between) == {PIECES[spell("think")[0]], "c", "call"}
    assert unmasked(between) == choices(between)


def test_a_budget_of_nothing_allows_no_reasoning_before_a_call() -> None:
    binding = plan(SPECIAL, BY_TOKEN, binds_answer=True, reasoning=within(THOUGHT, 0)).begin()
    assert choices(binding) == {"<call>"}


def test_a_call_inside_reasoning_is_bound_if_a_token_opens_it() -> None:
    binding = plan(SPECIAL, BY_TOKEN, reasoning=THOUGHT, starts_in_reasoning=True).begin()
    assert read(binding, "a", "<call>")
    assert choices(binding) == {"1", "2"}
    spelled = plan(SPELLED, BY_TEXT, reasoning=THOUGHT, starts_in_reasoning=True).begin()
    assert read(spelled, "a", "<", "c>", "a")


def test_each_reply_of_a_plan_has_a_state_of_its_own() -> None:
    both = plan(SINGLE, BY_TOKEN, is_repeated=False)
    first, second = both.begin(), both.begin()
    assert read(first, "<call>", "1", "</call>")
    assert first.is_complete
    assert not second.is_complete
    assert read(second, "a", "b", "<call>", "2", "</call>")
