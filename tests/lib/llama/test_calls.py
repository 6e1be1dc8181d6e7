"""Rules for calls, over the demo's vocabulary, in which control tokens stand for the markers."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from neuron_lib.errors import InvalidGrammar
from neuron_lib.llama.bindings import init_backend, route_logs
from neuron_lib.llama.grammar import Calls, Constraint, GrammarCompiler, special_tokens
from neuron_lib.llama.model import Model
from neuron_lib.llama.vocab import Vocab
from neuron_lib.text.formats.hermes import HERMES
from neuron_lib.types import Grammar

pytestmark = pytest.mark.model

CITY: Final = {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"]}
CALL: Final = '<tool_call>\n{"name": "look", "arguments": {"city": "Rome"}}\n</tool_call>'


def tool(name: str = "look", parameters: object = CITY) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def hermes(*tools: dict[str, Any], parallel: bool = True, **fields: Any) -> Calls:
    return Calls(rules=HERMES.call_rules(tools or [tool()], parallel=parallel, tokens={}), **fields)


@pytest.fixture(scope="module")
def vocab(smollm2_path: Path) -> Iterator[Vocab]:
    init_backend()
    route_logs(lambda _level, _text: None)
    with Model(smollm2_path, gpu_layers=0, on_progress=lambda _fraction: True) as model:
        yield model.vocab


@pytest.fixture(scope="module")
def compiler(vocab: Vocab) -> GrammarCompiler:
    return GrammarCompiler(vocab)


def read(constraint: Constraint, vocab: Vocab, text: str) -> bool:
    """Whether the whole of `text` is accepted, token by token."""
    for token in vocab.tokenize(text, add_special=False, parse_special=False):
        if not constraint.allows(token):
            return False
        constraint.accept(token)
    return True


def test_calls_are_whole_texts_with_arguments_that_fit(compiler: GrammarCompiler, vocab: Vocab) -> None:
    calls = compiler.compile(hermes())
    assert not calls.is_satisfied
    assert read(calls.copy(), vocab, CALL)
    assert not read(calls.copy(), vocab, CALL.replace("Rome", "Paris"))
    assert not read(calls.copy(), vocab, CALL.replace("look", "find"))
    assert not read(calls.copy(), vocab, "Sure")


def test_several_calls_may_follow_one_another_only_where_they_are_allowed(
    compiler: GrammarCompiler, vocab: Vocab
) -> None:
    several, one = compiler.compile(hermes()), compiler.compile(hermes(parallel=False))
    assert read(several, vocab, CALL)
    assert several.is_satisfied
    assert not several.is_complete
    assert read(several, vocab, f"\n{CALL}")
    assert read(one, vocab, CALL)
    assert one.is_complete


@pytest.mark.parametrize("text", [b"<", b"<tool_call>", b"<tool_call>\n", b'<tool_call>\n{"na', b"<tool_call>\n{"])
def test_a_copy_goes_on_behind_a_text_whatever_its_tokens_are(
    compiler: GrammarCompiler, vocab: Vocab, text: bytes
) -> None:
    calls = compiler.compile(hermes())
    begun = calls.after(text)
    assert begun is not None
    assert read(begun, vocab, CALL[len(text) :])
    assert read(calls, vocab, CALL)  # which has not moved


@pytest.mark.parametrize("text", [b"a", b"<tool_call>x", b"<tool_call>\n\xc3", b"\xff"])
def test_there_is_no_copy_behind_a_text_that_is_not_allowed(compiler: GrammarCompiler, text: bytes) -> None:
    assert compiler.compile(hermes()).after(text) is None


def test_a_call_or_an_answer_that_fits_may_come(compiler: GrammarCompiler, vocab: Vocab) -> None:
    either = compiler.compile(hermes(answer=Grammar("json_schema", '{"const": {"ok": true}}')))
    assert read(either.copy(), vocab, CALL)
    assert read(either.copy(), vocab, '{"ok": true}')
    assert not read(either.copy(), vocab, '{"ok": false}')
    for answer in (Grammar("regex", "yes|no"), Grammar("lark", 'start: "yes" | calls\ncalls: "no"')):
        worded = compiler.compile(hermes(answer=answer))
        assert read(worded.copy(), vocab, "no")
        assert read(worded.copy(), vocab, CALL)
        assert not read(worded, vocab, "maybe")


def test_markers_that_are_special_tokens_are_told_from_their_spelling(compiler: GrammarCompiler, vocab: Vocab) -> None:
    marks = special_tokens(vocab, ["<repo_name>", "<|im_start|>", "<tool_call>", "the"])
    assert set(marks) == {"<repo_name>", "<|im_start|>"}
    calls = compiler.compile(Calls(rules=f'calls: <[{marks["<repo_name>"]}]> "x"'))
    assert not read(calls.copy(), vocab, "<repo_name>")
    behind = calls.after(b"<repo_name>")
    assert behind is not None
    assert read(behind, vocab, "x")
    calls.accept(marks["<repo_name>"])
    assert read(calls, vocab, "x")
    assert calls.is_complete


def test_a_text_is_read_with_special_tokens_where_the_rules_want_them(compiler: GrammarCompiler, vocab: Vocab) -> None:
    marks = special_tokens(vocab, ["<repo_name>", "<file_sep>"])
    rules = f'calls: <[{marks["<repo_name>"]}]> "tools the" <[{marks["<file_sep>"]}]> "x"'
    calls = compiler.compile(Calls(rules=rules))
    for begun in (b"<repo_name>", b"<repo_name>to", b"<repo_name>tools the<file_sep>"):
        assert calls.after(begun) is not None
    assert calls.after(b"<repo_name>x") is None


def test_schemas_that_are_not_understood_are_left_out_where_nobody_insists_on_them(
    compiler: GrammarCompiler, vocab: Vocab
) -> None:
    wrong = tool(parameters={"type": "object", "properties": {"a": {"type": "banana"}}})
    loose = HERMES.call_rules([tool(parameters={"type": "object"})], parallel=False, tokens={})
    with pytest.raises(InvalidGrammar) as caught:
        compiler.compile(hermes(wrong))
    assert caught.value.param == "tools"
    assert read(compiler.compile(hermes(wrong, looser=loose)), vocab, CALL.replace("Rome", "Paris"))


def test_the_schema_of_a_strict_tool_must_be_understood(compiler: GrammarCompiler) -> None:
    field = "tools[3].function.parameters"
    unknown = json.dumps({"type": "object", "properties": {"a": {"format": "banana"}}})
    strict = ((json.dumps(CITY), "tools[0].function.parameters"), (unknown, field), ("{}", "tools[7]"))
    for schemas in (strict, strict[1:], strict[:2], strict[1:2]):
        with pytest.raises(InvalidGrammar, match="banana") as caught:
            compiler.compile(hermes(strict=schemas))
        assert caught.value.param == field
    compiler.compile(hermes(strict=(strict[0], strict[2])))


def test_an_answer_that_is_not_understood_is_blamed_on_its_own_field(compiler: GrammarCompiler) -> None:
    with pytest.raises(InvalidGrammar) as caught:
        compiler.compile(hermes(answer=Grammar("json_schema", '{"type": "banana"}')))
    assert caught.value.param == "response_format"


def test_what_was_compiled_is_known_until_many_others_were(vocab: Vocab) -> None:
    compiler = GrammarCompiler(vocab)
    first = Grammar("regex", "a|b")
    assert not compiler.knows(first)
    one, other = compiler.compile(first), compiler.compile(first)
    assert compiler.knows(first)
    assert read(one, vocab, "a")
    assert read(other, vocab, "b")
    for number in range(15):
        compiler.compile(Grammar("regex", f"a{number}"))
        compiler.compile(first)
    assert compiler.knows(first)
    for number in range(16):
        compiler.compile(Grammar("regex", f"b{number}"))
    assert not compiler.knows(first)


def test_unknown_keywords_of_a_schema_are_ignored(compiler: GrammarCompiler, vocab: Vocab) -> None:
    city = {"type": "string", "format": "city-name"}
    schema = {"type": "object", "properties": {"city": city}, "required": ["city"], "propertyNames": {"maxLength": 9}}
    assert read(compiler.compile(hermes(tool(parameters=schema))), vocab, CALL)
