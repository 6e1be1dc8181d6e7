from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from neuron_lib.sampling.penalties import penalties
from neuron_lib.types import Sampling

LETTERS = "abcdefgh"


class Letters:
    """A vocabulary of eight letters."""

    eog: frozenset[int] = frozenset()

    def text(self, token: int) -> bytes:
        return LETTERS[token].encode()

    def tokens_containing(self, text: str) -> frozenset[int]:
        return frozenset({LETTERS.index(text)})


def dry(multiplier: float = 1.0, *, allowed: int = 2, last_n: int = -1, breakers: str = "") -> Sampling:
    return Sampling(
        temperature=0,
        seed=1,
        dry_multiplier=multiplier,
        dry_base=2.0,
        dry_allowed_length=allowed,
        dry_penalty_last_n=last_n,
        dry_sequence_breakers=tuple(breakers),
    )


def ids(text: str) -> list[int]:
    return [LETTERS.index(letter) for letter in text]


def punished(sampling: Sampling, text: str, *, sampled: Sequence[int] = ()) -> dict[str, float]:
    """By how much each letter is less likely after `text`, the last of which were sampled one by one."""
    (penalty,) = penalties(sampling, history=ids(text), vocab=Letters())
    for token in sampled:
        penalty.remember(token)
    scores = np.zeros(len(LETTERS), np.float32)
    penalty.apply(scores)
    return {letter: -float(score) for letter, score in zip(LETTERS, scores, strict=True) if score}


def by_definition(text: str, *, allowed: int, last_n: int, breakers: str) -> dict[str, float]:
    """DRY as it is told: every earlier place whose letters end like the text does, as far back as they agree."""
    text = text if last_n < 0 else text[-last_n:]
    current = len(text) - 1 - max((text.rfind(breaker) for breaker in breakers), default=-1)
    longest: dict[str, int] = {}
    for place in range(1, len(text)):
        length = 0
        while length < min(place, current) and text[place - 1 - length] == text[len(text) - 1 - length]:
            length += 1
        if length >= allowed and text[place] not in breakers:
            longest[text[place]] = max(length, longest.get(text[place], 0))
    return {letter: 2.0 ** (length - allowed) for letter, length in longest.items()}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("abcab", {"c": 1.0}),
        ("abcdabcdabc", {"d": 2.0**5}),
        ("abcxxabc".replace("x", "h"), {"h": 2.0}),
        ("abcdbce", {}),
        ("ccabcdbc", {"d": 1.0}),
        ("ab", {}),
        ("", {}),
        ("aaaa", {"a": 2.0}),
    ],
)
def test_dry_punishes_what_prolongs_a_repetition_the_more_the_longer_it_is(
    text: str, expected: dict[str, float]
) -> None:
    assert punished(dry(), text) == expected


@pytest.mark.parametrize(
    ("breakers", "expected"),
    [
        ("", {"d": 4.0}),
        ("h", {"d": 4.0}),
        ("a", {"d": 2.0}),
        ("b", {"d": 1.0}),
        ("c", {}),
        ("d", {}),
        ("ha", {"d": 2.0}),
    ],
)
def test_dry_counts_from_the_last_breaker_on_and_never_punishes_one(breakers: str, expected: dict[str, float]) -> None:
    assert punished(dry(allowed=1, breakers=breakers), "abcdhabc") == expected


@given(
    text=st.text(LETTERS[:3], max_size=40),
    split=st.integers(0, 40),
    allowed=st.integers(0, 3),
    last_n=st.sampled_from([-1, 1, 2, 5, 9, 100]),
    breakers=st.sampled_from(["", "c", "bc", "h"]),
)
@example(text="a" * 20, split=0, allowed=2, last_n=5, breakers="")
def test_dry_is_what_its_definition_says_however_the_tokens_came(
    text: str, split: int, allowed: int, last_n: int, breakers: str
) -> None:
    sampling = dry(allowed=allowed, last_n=last_n, breakers=breakers)
    expected = by_definition(text, allowed=allowed, last_n=last_n, breakers=breakers)
    assert punished(sampling, text[:split], sampled=ids(text[split:])) == expected


def test_a_repetition_without_end_is_punished_with_a_number() -> None:
    text = "abcdefg" * 40
    assert punished(dry(), text) == punished(dry(), "", sampled=ids(text)) == {"a": float(np.finfo(np.float32).max)}


@pytest.mark.parametrize("sampling", [dry(0.0), dry(last_n=0), Sampling(temperature=1, seed=1)])
def test_what_is_switched_off_is_not_there(sampling: Sampling) -> None:
    assert penalties(sampling, history=ids("abcabc"), vocab=Letters()) == ()
