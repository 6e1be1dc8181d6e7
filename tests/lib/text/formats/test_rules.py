"""The rules of every format, over a vocabulary of single bytes and the markers of the format."""

import json
import re
from functools import cache

import pytest
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from neuron_lib.text.formats import FORMATS
from tests.lib.text.formats.family_samples import SAMPLES, TOOLS
from tests.lib.text.formats.marker_samples import MARKER_SAMPLES

EOS = 256
CALLS = [s for s in (*SAMPLES, *MARKER_SAMPLES) if s.calls and not (s.answer or s.reasoning)]
WRONG = ("Rome", "{}", "get_weather", "<tool_call>{}</tool_call>", "[]")
with_and_without_tokens = pytest.mark.parametrize("has_tokens", [True, False])
of_every_format = pytest.mark.parametrize("name", sorted(FORMATS))


class Bytes:
    """A tokenizer with a token for each byte, and one for each marker."""

    eos_token_id = EOS
    bos_token_id = None
    unk_token_id = None

    def __init__(self, marks: tuple[str, ...]) -> None:
        self.tokens = [*(bytes([byte]) for byte in range(256)), b"<eos>", *map(str.encode, marks)]
        self.special_token_ids = list(range(EOS, len(self.tokens)))

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


class Rules:
    """The rules of a format, with its markers as tokens if it `has_tokens`."""

    def __init__(self, name: str, *, has_tokens: bool) -> None:
        shown = FORMATS[name].shown_tokens if has_tokens else ()
        self._ids = {mark: EOS + 1 + place for place, mark in enumerate(shown)}
        self._marks = re.compile("|".join(map(re.escape, sorted(self._ids, key=len, reverse=True))) or "(?!)")
        rules = FORMATS[name].call_rules(TOOLS, parallel=True, tokens=self._ids)
        source = json.dumps({"grammars": [{"lark_grammar": f"start: calls\n{rules}"}]})
        self._matcher = LLMatcher(LLTokenizer(TokenizerWrapper(Bytes(shown))), source)
        assert not self._matcher.is_error(), self._matcher.get_error()

    def allows(self, text: str) -> bool:
        """Whether a text may begin so."""
        tokens = self._tokens(text)
        return self._matcher.deep_copy().validate_tokens(tokens) == len(tokens)

    def fits(self, text: str) -> bool:
        """Whether this is a whole text."""
        matcher, tokens = self._matcher.deep_copy(), self._tokens(text)
        return self.allows(text) and matcher.consume_tokens(tokens) and matcher.is_accepting()

    def _tokens(self, text: str) -> list[int]:
        tokens: list[int] = []
        position = 0
        for mark in self._marks.finditer(text):
            tokens += [*text[position : mark.start()].encode(), self._ids[mark[0]]]
            position = mark.end()
        return [*tokens, *text[position:].encode()]


@cache
def rules(name: str, *, has_tokens: bool) -> Rules:
    return Rules(name, has_tokens=has_tokens)


@with_and_without_tokens
@of_every_format
def test_the_first_text_that_opens_a_call_begins_what_the_rules_allow(name: str, *, has_tokens: bool) -> None:
    allowed = rules(name, has_tokens=has_tokens)
    assert all(allowed.allows(trigger.text) for trigger in FORMATS[name].triggers[:1])


@with_and_without_tokens
@of_every_format
def test_the_rules_allow_a_call_as_the_family_writes_it_and_no_other_text(name: str, *, has_tokens: bool) -> None:
    allowed = rules(name, has_tokens=has_tokens)
    written = [sample.reply.strip() for sample in CALLS if sample.format == name]
    assert any(map(allowed.fits, written))
    assert not any(map(allowed.fits, WRONG))
