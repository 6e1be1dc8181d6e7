"""Bonds of chats, compiled and followed token by token, over small vocabularies with and without tokens for markers."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Final, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuron_lib.engine.binder import Binder, Bond
from neuron_lib.engine.protocol import ChatTask
from neuron_lib.errors import InvalidGrammar, InvalidRequest
from neuron_lib.llama.grammar import Calls, GrammarCompiler
from neuron_lib.llama.vocab import Vocab
from neuron_lib.sampling.sampler import Constraint
from neuron_lib.text.formats import FORMATS
from neuron_lib.text.prefill import Prefill
from neuron_lib.text.tag_splitter import Markers
from neuron_lib.types import Grammar, ToolChoice
from tests.examples import examples
from tests.fakes.vocabularies import open_vocabulary

pytestmark = pytest.mark.process  # compiling a grammar starts one

THINK: Final = Markers("<think>", "</think>")
CITY: Final = {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"]}
ANSWER: Final = Grammar("json_schema", '{"const": {"ok": true}}')


def tool(name: str = "look", parameters: object = CITY, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters, **more}}


def call(city: str = "Rome", name: str = "look") -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {{"city": "{city}"}}}}\n</tool_call>'


class Model:
    """One vocabulary with what binds replies over it."""

    def __init__(self, vocab: Vocab) -> None:
        self.vocab = vocab
        self.compiler = GrammarCompiler(vocab)
        self.binder = Binder(vocab, tool_format=FORMATS["hermes"], reasoning=THINK)
        for marker in (*FORMATS["hermes"].shown_tokens, THINK.open, THINK.close):
            token = vocab.single_token(marker)
            if token is not None:
                vocab.show(token)

    def bond(self, *, prefill: Prefill | None = None, in_reasoning: bool = False, **fields: Any) -> Bond | None:
        return self.binder.bond(ChatTask(**fields), prefill=prefill, in_reasoning=in_reasoning)

    def begin(self, **fields: Any) -> Constraint:
        bond = self.bond(**fields)
        assert bond is not None
        return bond.binding(None if bond.wanted is None else self.compiler.compile(bond.wanted))()

    def reads(self, constraint: Constraint, text: str) -> bool:
        """Whether the whole text is accepted, the markers in it as tokens if there are such tokens."""
        for token in self.binder.spell(text):
            if not constraint.allows(token):
                return False
            constraint.accept(token)
        return True

    def may_end(self, constraint: Constraint) -> bool:
        return any(map(constraint.allows, self.vocab.eog))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Model]]:
    folder = tmp_path_factory.mktemp("vocabularies")
    marks = ("<tool_call>", "</tool_call>", "<think>", "</think>")
    with ExitStack() as stack:

        def opened(name: str, control: tuple[str, ...], **options: Any) -> Model:
            path = folder / f"{name}.gguf"
            return Model(stack.enter_context(open_vocabulary(path, control=control, **options)))

        yield {
            "tokens": opened("tokens", ("<s>", *marks, "</s>")),
            "texts": opened("texts", ("<s>", "</s>")),
            "sentencepiece": opened("sentencepiece", ("<s>", "<unk>", "</s>"), kind="sentencepiece"),
        }


@pytest.fixture(params=["tokens", "texts", "sentencepiece"])
def model(models: dict[str, Model], request: pytest.FixtureRequest) -> Model:
    return models[request.param]


def test_a_reply_may_call_and_is_bound_only_in_the_call(model: Model) -> None:
    auto = model.begin(tools=(tool(),))
    assert model.reads(auto, "I < you and {that} is the\n")
    assert model.may_end(auto)
    assert model.reads(auto, call())
    assert model.may_end(auto)
    assert model.reads(auto, "\n" + call("Oslo") + "\nthe and you")
    assert model.may_end(auto)
    assert not model.reads(auto, call("Paris"))


def test_a_call_that_is_open_must_be_closed(model: Model) -> None:
    auto = model.begin(tools=(tool(),))
    assert model.reads(auto, "the" + call()[:40])
    assert not model.may_end(auto)


def test_a_reply_with_one_call_at_most_ends_with_it(model: Model) -> None:
    one = model.begin(tools=(tool(),), tool_choice=ToolChoice(parallel=False))
    assert model.reads(one, "the " + call())
    assert one.is_complete
    assert model.may_end(one)


def test_a_reply_that_must_call_is_one_or_several_calls(model: Model) -> None:
    required = model.begin(tools=(tool(), tool("find")), tool_choice=ToolChoice("required"))
    assert not model.may_end(required)
    assert not model.reads(required, "the")
    assert model.reads(required, call(name="find"))
    assert not required.is_complete
    assert model.reads(required, "\n" + call())
    assert model.may_end(required)


def test_a_reply_that_has_called_ends_when_the_model_wants_neither_another_call_nor_the_end(model: Model) -> None:
    required = model.begin(tools=(tool(),), tool_choice=ToolChoice("required"))
    assert model.reads(required, call())
    row = np.zeros(model.vocab.n_tokens, np.float32)
    required.mask(row)
    assert set(np.flatnonzero(np.isfinite(row)).tolist()) == model.vocab.eog
    early = np.zeros(model.vocab.n_tokens, np.float32)
    early[[*model.vocab.eog]] = -np.inf  # the end would come too early
    required.mask(early)
    assert np.isfinite(early).any()


def test_a_tool_that_is_named_is_called_once(model: Model) -> None:
    fields: dict[str, Any] = {"tools": (tool(), tool("find")), "tool_choice": ToolChoice("required", "find")}
    assert not model.reads(model.begin(**fields), call())
    named = model.begin(**fields)
    assert model.reads(named, call(name="find"))
    assert named.is_complete


def test_with_a_grammar_a_reply_calls_or_fits_it(model: Model) -> None:
    fields: dict[str, Any] = {"tools": (tool(),), "grammar": ANSWER}
    assert model.reads(model.begin(**fields), call())
    assert model.reads(model.begin(**fields), '{"ok": true}')
    assert not model.reads(model.begin(**fields), "the")
    must = model.begin(**fields, tool_choice=ToolChoice("required"))
    assert not model.reads(must, '{"ok": true}')


def test_reasoning_may_come_first(model: Model) -> None:
    fields: dict[str, Any] = {"tools": (tool(),), "tool_choice": ToolChoice("required")}
    opened = model.begin(**fields, in_reasoning=True)
    assert model.reads(opened, "the and\n</think>\n\n" + call())
    if model.vocab.single_token("<think>") is not None:  # else the call begins with the same token
        assert model.reads(model.begin(**fields), "<think>the</think>" + call())


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_a_message_that_ends_inside_a_call_is_not_continued(model: Model, mode: Literal["auto", "required"]) -> None:
    fields: dict[str, Any] = {"tools": (tool(),), "tool_choice": ToolChoice(mode)}
    with pytest.raises(InvalidRequest) as raised:
        model.bond(prefill=Prefill({}, call()[:30], is_reasoning=False, sentinel=""), **fields)
    assert raised.value.param == "messages"
    assert model.bond(prefill=Prefill({}, "I < you", is_reasoning=False, sentinel=""), **fields) is not None


def test_no_reasoning_comes_before_a_call_that_is_wanted_without(model: Model) -> None:
    fields: dict[str, Any] = {"tools": (tool(),), "tool_choice": ToolChoice("required")}
    assert model.reads(model.begin(**fields, template_kwargs={"enable_thinking": True}), "<think>the</think>" + call())
    bound = model.begin(**fields, template_kwargs={"enable_thinking": False})
    assert not model.reads(bound, "<think>")
    free = model.begin(tools=(tool(),), template_kwargs={"enable_thinking": False})
    assert model.reads(free, "<think>the</think>the")


def test_a_budget_closes_the_reasoning(model: Model) -> None:
    bound = model.begin(reasoning_budget=2, in_reasoning=True)
    text = ""
    wish = model.vocab.tokenize("a", add_special=False)[-1]
    closing = [token for token in range(model.vocab.n_tokens) if token not in model.vocab.eog]
    while "think>" not in text:
        token = wish if bound.allows(wish) else next(filter(bound.allows, closing))
        bound.accept(token)
        text += model.vocab.piece(token).decode()
    assert text == "aa</think>"
    assert model.reads(bound, "the")


def test_a_grammar_goes_on_behind_the_text_that_the_prompt_ends_with(model: Model) -> None:
    begun = Prefill.of({"role": "assistant", "content": '{"ok": '})
    assert model.reads(model.begin(grammar=ANSWER, prefill=begun), "true}")
    assert model.reads(model.begin(grammar=ANSWER, tools=(tool(),), prefill=begun), "true}")
    other = Prefill.of({"role": "assistant", "content": "Here it is: "})
    assert model.reads(model.begin(grammar=ANSWER, prefill=other), '{"ok": true}')


@pytest.mark.parametrize(
    "fields", [{}, {"reasoning_budget": None}, {"tools": (tool(),), "tool_choice": ToolChoice("none")}]
)
def test_a_chat_that_asks_for_nothing_is_bound_by_nothing(models: dict[str, Model], fields: dict[str, Any]) -> None:
    assert models["tokens"].bond(**fields) is None


def test_only_a_model_that_reasons_is_bound_by_a_budget(models: dict[str, Model]) -> None:
    plain = Binder(models["texts"].vocab, tool_format=FORMATS["hermes"], reasoning=None)
    assert plain.bond(ChatTask(reasoning_budget=4), prefill=None, in_reasoning=False) is None


@pytest.mark.parametrize(
    ("prompt", "message", "is_inside"),
    [
        ("<|assistant|>", None, False),
        ("<|assistant|><think>\n", None, True),
        ("<|assistant|><think>\n\n</think>\n", None, False),
        ("… <think>hm", {"reasoning_content": "hm"}, True),
        ("… <think>hm", {"content": "<think>hm"}, True),
        ("… <think>hm</think>So", {"content": "<think>hm</think>So"}, False),
        ("… So", {"content": "So", "reasoning_content": "hm"}, False),
    ],
)
def test_it_is_known_whether_a_prompt_ends_inside_reasoning(
    models: dict[str, Model],
    prompt: str,
    message: dict[str, Any] | None,
    is_inside: bool,  # noqa: FBT001 - a parameter
) -> None:
    prefill = None if message is None else Prefill.of({"role": "assistant", **message})
    assert models["tokens"].binder.starts_in_reasoning(prompt, prefill) is is_inside


@pytest.mark.parametrize(
    ("properties", "is_closed"),
    [
        ({"properties": {}}, True),
        ({"properties": {"a": {}}, "type": "object"}, True),
        ({"properties": {}, "additionalProperties": True}, False),
        ({"properties": {}, "patternProperties": {"^b": {}}}, False),
        ({"type": "object"}, False),
        ({}, False),
    ],
)
def test_a_call_has_no_arguments_that_its_schema_does_not_speak_of(
    models: dict[str, Model],
    properties: dict[str, Any],
    is_closed: bool,  # noqa: FBT001 - a parameter
) -> None:
    model = models["texts"]
    must = model.begin(tools=(tool(parameters=properties),), tool_choice=ToolChoice("required"))
    assert model.reads(must, '<tool_call>\n{"name": "look", "arguments": {"b') is not is_closed


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    "parameters",
    [
        {"type": "string"},
        {"type": "array", "items": {"type": "object"}},
        {"type": ["object", "null"], "properties": {}},
        {"enum": ["{}", 1]},
        {"$ref": "#/nowhere"},
    ],
)
def test_arguments_are_an_object_whatever_their_schema_says(
    models: dict[str, Model],
    parameters: dict[str, Any],
    strict: bool,  # noqa: FBT001 - a parameter
) -> None:
    model = models["texts"]
    begun = '<tool_call>\n{"name": "look", "arguments": '
    for value in ('"', "[", "n", "1", "{"):
        try:
            must = model.begin(tools=(tool(parameters=parameters, strict=strict),), tool_choice=ToolChoice("required"))
        except InvalidGrammar:
            assert strict
            return
        assert model.reads(must, begun)
        assert model.reads(must, value) is (value == "{")


def test_the_strict_schemas_are_told_with_their_fields(models: dict[str, Model]) -> None:
    tools = (tool(), tool("find", strict=True), {**tool("seek"), "strict": True})
    bond = models["tokens"].bond(tools=tools)
    assert bond is not None
    assert isinstance(bond.wanted, Calls)
    assert [field for _, field in bond.wanted.strict] == [f"tools[{place}].function.parameters" for place in (1, 2)]
    assert json.loads(bond.wanted.strict[0][0]) == CITY
    assert '"city"' in bond.wanted.looser


@pytest.mark.parametrize(
    "fields",
    [
        {"tool_choice": ToolChoice("required")},
        {"tool_choice": ToolChoice("required", "find")},
        {"tools": (tool(),), "tool_choice": ToolChoice("required", "find")},
    ],
)
def test_a_call_that_no_tool_is_there_for_is_refused(models: dict[str, Model], fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        models["tokens"].bond(**fields)
    assert caught.value.param == "tool_choice"


_words = st.sampled_from(["type", "properties", "required", "enum", "items", "$ref", "anyOf", "a"])
_json: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["", "string", "object", "#", 'a"b', "é"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_words, inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=examples(20))
@given(schema=st.dictionaries(_words, _json, max_size=4), function=st.text(min_size=1, max_size=9))
def test_no_schema_and_no_name_is_too_strange_for_a_format(
    models: dict[str, Model], name: str, schema: dict[str, Any], function: str
) -> None:
    binder = Binder(models["texts"].vocab, tool_format=FORMATS[name], reasoning=None)
    chat = ChatTask(tools=(tool(function, schema),), tool_choice=ToolChoice("required"))
    assert binder.bond(chat, prefill=None, in_reasoning=False)
