"""The grammar of a format and its reader belong together: what the one allows, the other reads as calls that fit."""

import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pytest
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from neuron_lib.text.formats import FORMATS, choose_reasoning
from neuron_lib.types import ToolCall
from tests.examples import examples
from tests.lib.text.formats.family_samples import SAMPLES, TOOLS
from tests.lib.text.formats.marker_samples import MARKER_SAMPLES

_FIRST_MARK: Final = 257
"""The tokens before are the bytes and the end."""
_CLOSINGS: Final = (*'"}])\n', "\n</", "</", "<escape>", '<|"|>', "<|close|>", "]<]minimax[>[</")
"""What ends a value in some format. A walk that takes only random bytes would never leave a text."""
_ENDS: Final = (
    "</parameter>",
    "</param>",
    "</arg_value>",
    "</arg_value:opensource>",
    "</｜DSML｜parameter>",
    "</steptml:parameter>",
)
_PLAIN: Final = {10, *range(32, 127)} - set(b"eE")
"""Bytes that a walk prefers. Exponents make numbers that no decoder of JSON takes."""
_TYPES: Final[Mapping[str, type | tuple[type, ...]]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}


class _Vocabulary:
    """A byte for each token, and the markers of a format as special tokens."""

    def __init__(self, marks: Sequence[str]) -> None:
        self.tokens = [*(bytes([byte]) for byte in range(256)), b"<end>", *(mark.encode() for mark in marks)]
        self.eos_token_id = 256
        self.bos_token_id = None
        self.special_token_ids = list(range(256, len(self.tokens)))

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text if isinstance(text, bytes) else text.encode())


class _Walk:
    """A random way through the grammar of a format."""

    def __init__(self, name: str, *, has_marks: bool, tools: Sequence[Mapping[str, Any]], parallel: bool) -> None:
        shown = FORMATS[name].shown_tokens if has_marks else ()
        marks = [mark for mark in shown if len(mark) > 1 and mark[0] in "<[]" and mark[-1] in ">]["]
        self.ids = {mark: _FIRST_MARK + index for index, mark in enumerate(marks)}
        rules = FORMATS[name].call_rules(tools, parallel=parallel, tokens=self.ids)
        source = json.dumps({"grammars": [{"lark_grammar": f"start: calls\n{rules}"}]})
        self.matcher = LLMatcher(LLTokenizer(TokenizerWrapper(_Vocabulary(marks))), source)
        assert not self.matcher.is_error(), self.matcher.get_error()

    def tokens(self, text: str) -> list[int]:
        pattern = re.compile("|".join(map(re.escape, sorted(self.ids, key=len, reverse=True))) or r"(?!)")
        return list(self._tokens(text, pattern))

    def _tokens(self, text: str, marks: re.Pattern[str]) -> Iterator[int]:
        place = 0
        for mark in marks.finditer(text):
            yield from text[place : mark.start()].encode()
            yield self.ids[mark[0]]
            place = mark.end()
        yield from text[place:].encode()

    def allows(self, text: str) -> bool:
        """Whether the text is a whole one of the grammar."""
        tokens = self.tokens(text)
        matcher = self.matcher.deep_copy()
        return (
            matcher.validate_tokens(tokens) == len(tokens) and matcher.consume_tokens(tokens) and matcher.is_accepting()
        )

    def text(self, seed: int) -> str | None:
        """A text that the grammar allows. None if the walk has become too long."""
        choice = random.Random(seed)  # noqa: S311 - no secret
        spelled = {token: mark.encode() for mark, token in self.ids.items()}
        text = b""
        for _ in range(600):
            if self.matcher.is_stopped() or (self.matcher.is_accepting() and choice.random() < 0.5):
                return text.decode(errors="replace")
            tokens = self._closing(choice) if choice.random() < 0.4 else []
            tokens = tokens or [choice.choice(self._likely())]
            assert self.matcher.consume_tokens(tokens)
            text += b"".join(spelled.get(token) or bytes([token]) for token in tokens)
        return None

    def _closing(self, choice: random.Random) -> list[int]:
        """The tokens of some text that may end a value here."""
        closings = [self.tokens(text) for text in (*_CLOSINGS, *_ENDS)]
        choice.shuffle(closings)
        fitting = (tokens for tokens in closings if self.matcher.validate_tokens(tokens) == len(tokens))
        return next(fitting, [])

    def _likely(self) -> list[int]:
        bits = np.frombuffer(self.matcher.compute_bitmask(), np.uint8)
        allowed = [int(token) for token in np.flatnonzero(np.unpackbits(bits, bitorder="little")) if token != 256]
        # Printable, and no exponents: those make numbers that no JSON decoder takes.
        plain = [
            token
            for token in allowed
            if token >= _FIRST_MARK or (32 <= token < 127 and token not in b"eE") or token == 10
        ]
        return plain or allowed


def fits(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether a value fits a schema of `TOOLS`."""
    match schema:
        case {"anyOf": list(alternatives)}:
            return any(fits(value, each) for each in alternatives)
        case {"type": "object"}:
            properties = schema.get("properties", {})
            has_all = isinstance(value, dict) and value.keys() >= set(schema.get("required", ()))
            return has_all and all(fits(item, properties.get(key, {})) for key, item in value.items())
        case {"type": "array"}:
            return isinstance(value, list) and all(fits(item, schema.get("items", {})) for item in value)
        case {"type": str(name)}:
            return isinstance(value, _TYPES[name])
        case _:
            return True


_MOST_WALKS: Final = 40
"""Walks of one format. Some do not come to an end."""

SCHEMAS: Final = {tool["function"]["name"]: tool["function"]["parameters"] for tool in TOOLS}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("has_marks", [True, False], ids=["special tokens", "plain text"])
def test_what_the_rules_allow_is_read_as_calls_of_the_tools(name: str, *, has_marks: bool) -> None:
    read = 0
    for seed in range(_MOST_WALKS):
        if read == examples(4):
            break
        text = _Walk(name, has_marks=has_marks, tools=TOOLS, parallel=True).text(seed)
        if text is None:
            continue
        tool_format = FORMATS[name]
        reader = tool_format.reader(tools=TOOLS, reasoning=choose_reasoning(tool_format, None))
        events = reader.feed(text) + reader.finish()
        calls = [event for event in events if isinstance(event, ToolCall)]
        assert calls == events, text
        assert all(fits(json.loads(call.arguments), SCHEMAS[call.name]) for call in calls), text
        read += 1
    assert read == examples(4), "too few walks came to an end"


@pytest.mark.parametrize("name", FORMATS)
def test_one_call_is_allowed_and_a_second_one_is_not(name: str) -> None:
    for seed in range(examples(4)):
        text = _Walk(name, has_marks=True, tools=TOOLS[:1], parallel=False).text(seed)
        if text is not None:
            reader = FORMATS[name].reader(tools=TOOLS)
            assert sum(isinstance(event, ToolCall) for event in reader.feed(text) + reader.finish()) == 1


@pytest.mark.parametrize(
    "name",
    ["deepseek_v32", "deepseek_v4", "glm45", "glm47", "hunyuan3", "kimi_k2", "minimax_m2", "qwen_xml", "seed_oss"],
)
def test_what_a_model_was_trained_to_write_is_allowed(name: str) -> None:
    """The first sample of a family is the plain one, with one required argument."""
    plain = next(each for each in SAMPLES if each.format == name and each.calls and not each.is_open)
    assert _Walk(name, has_marks=True, tools=TOOLS, parallel=True).allows(plain.reply)
    assert not _Walk(name, has_marks=True, tools=TOOLS[1:], parallel=True).allows(plain.reply)
    assert not _Walk(name, has_marks=True, tools=TOOLS, parallel=True).allows(plain.reply.replace("city", "town"))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("has_marks", [True, False], ids=["special tokens", "plain text"])
def test_the_first_text_that_opens_a_call_begins_what_the_rules_allow(name: str, *, has_marks: bool) -> None:
    walk = _Walk(name, has_marks=has_marks, tools=TOOLS, parallel=True)
    for trigger in FORMATS[name].triggers[:1]:
        tokens = walk.tokens(trigger.text)
        assert walk.matcher.validate_tokens(tokens) == len(tokens)


@pytest.mark.parametrize("name", sorted({sample.format for sample in MARKER_SAMPLES}))
def test_one_of_the_calls_that_are_read_is_what_the_rules_allow(name: str) -> None:
    walk = _Walk(name, has_marks=True, tools=TOOLS, parallel=True)
    assert any(walk.allows(sample.reply.strip()) for sample in MARKER_SAMPLES if sample.format == name and sample.calls)


def _tool(parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": "f", "parameters": parameters}}]


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "string", "enum": ["a b", "c"]}, "a b", "d"),
        ({"enum": [1, "x"]}, "x", "y"),
        ({"type": "string", "pattern": "^[a-z]+/[0-9]$"}, "ab/1", "ab1"),
        ({"type": "string", "pattern": "[0-9]"}, "x1x", "xx"),
        ({"type": "string", "minLength": 2, "maxLength": 3}, "abc", "a"),
        ({"type": "string", "maxLength": 3}, "", "abcd"),
        ({"type": "integer", "minimum": 1}, "7", "0"),
        ({"anyOf": [{"type": "boolean"}, {"type": "null"}]}, "null", "maybe"),
        ({"$ref": "#/$defs/unit"}, "km", "miles"),
        ({"type": "array", "items": {"$ref": "#/$defs/unit"}}, '["km", "m"]', '["miles"]'),
        ({"type": ["string", "null"]}, "any </text>", None),
        ({}, "anything", None),
    ],
)
@pytest.mark.parametrize("name", ["qwen_xml", "glm47", "deepseek_v32"])
@pytest.mark.parametrize("has_marks", [True, False], ids=["special tokens", "plain text"])
def test_a_value_in_tags_fits_its_schema(
    name: str, schema: Mapping[str, Any], good: str, bad: str | None, *, has_marks: bool
) -> None:
    definitions = {"unit": {"type": "string", "enum": ["km", "m"]}}
    tools = _tool({"type": "object", "properties": {"x": schema}, "required": ["x"], "$defs": definitions})
    is_text = str("string" in json.dumps(schema) or not schema or "enum" in schema or "$ref" in schema).lower()
    if "array" in json.dumps(schema):
        is_text = "false"
    call = {
        "qwen_xml": "<tool_call>\n<function=f>\n<parameter=x>\n{}\n</parameter>\n</function>\n</tool_call>",
        "glm47": "<tool_call>f<arg_key>x</arg_key><arg_value>{}</arg_value></tool_call>",
        "deepseek_v32": '<｜DSML｜function_calls>\n<｜DSML｜invoke name="f">\n<｜DSML｜parameter name="x" '
        f'string="{is_text}">{{}}</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜function_calls>',
    }[name]
    assert _Walk(name, has_marks=has_marks, tools=tools, parallel=True).allows(call.format(good))
    if bad is not None:
        assert not _Walk(name, has_marks=has_marks, tools=tools, parallel=True).allows(call.format(bad))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("parameters", [{"type": "object"}, {"type": "object", "properties": {}}], ids=str)
def test_a_tool_whose_arguments_are_free_can_be_called(name: str, parameters: Mapping[str, Any]) -> None:
    tools = _tool(parameters)
    text = next(
        filter(None, (_Walk(name, has_marks=True, tools=tools, parallel=False).text(seed) for seed in range(9)))
    )
    reader = FORMATS[name].reader(tools=tools)
    events = reader.feed(text) + reader.finish()
    assert [event.name for event in events if isinstance(event, ToolCall)] == ["f"]
