import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuron_lib.errors import InvalidGrammar, Overloaded
from neuron_lib.llama import grammar as grammar_module
from neuron_lib.llama.bindings import init_backend, route_logs
from neuron_lib.llama.grammar import MAX_SOURCE_BYTES, Constraint, ConstraintFailed, GrammarCompiler
from neuron_lib.llama.model import Model
from neuron_lib.llama.vocab import Vocab
from neuron_lib.types import Grammar
from tests.examples import examples

pytestmark = pytest.mark.model

PERSON: Final = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
TREE: Final = {
    "type": "object",
    "properties": {"value": {"type": "integer"}, "kids": {"type": "array", "items": {"$ref": "#"}}},
    "required": ["value"],
}
ARITHMETIC: Final = """
start: term (("+" | "-") term)*
term: NUMBER | "(" start ")"
NUMBER: /[0-9]{1,6}/
"""
NESTED: Final = r"""
root ::= item ("," item)*   # in GBNF
item ::= [a-z]{1,6} | "(" root ")"
"""
EVERY_KIND: Final = (
    Grammar("json_schema", json.dumps(PERSON)),
    Grammar("json_schema", json.dumps(TREE)),
    Grammar("json_schema", '{"type": "object"}'),
    Grammar("regex", r"[A-Z][a-zé]{2,8}( [a-z]+){0,3}\."),
    Grammar("lark", ARITHMETIC),
    Grammar("lark", NESTED),
)


@pytest.fixture(scope="module")
def model(smollm2_path: Path) -> Iterator[Model]:
    init_backend()
    route_logs(lambda _level, _text: None)
    with Model(smollm2_path, gpu_layers=0, on_progress=lambda _fraction: True) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def vocab(model: Model) -> Vocab:
    return model.vocab


@pytest.fixture(scope="module")
def compiler(vocab: Vocab) -> GrammarCompiler:
    return GrammarCompiler(vocab)


def schema(**keywords: object) -> Grammar:
    return Grammar("json_schema", json.dumps(keywords))


def read(constraint: Constraint, vocab: Vocab, text: str) -> bool:
    """Whether the whole of `text` is accepted, token by token."""
    for token in vocab.tokenize(text, add_special=False, parse_special=False):
        if not constraint.allows(token):
            return False
        constraint.accept(token)
    return True


def may_end(constraint: Constraint, vocab: Vocab) -> bool:
    ends = {constraint.allows(token) for token in vocab.eog}
    assert len(ends) == 1
    return ends.pop()


def allowed_by_mask(constraint: Constraint, vocab: Vocab) -> npt.NDArray[np.intp]:
    row = np.zeros(vocab.n_tokens, np.float32)
    constraint.mask(row)
    assert set(np.unique(row)) <= {0.0, -np.inf}
    return np.flatnonzero(row == 0)


@pytest.mark.parametrize(
    ("grammar", "text"),
    [
        (EVERY_KIND[0], '{"name": "Zoë", "age": 7}'),
        (EVERY_KIND[1], '{"value": 1, "kids": [{"value": -2, "kids": []}, {"value": 3}]}'),
        (EVERY_KIND[2], '{"any": {"thing": [1.5, null, "\\n\\u0000"]}}'),
        (EVERY_KIND[3], "Der schöne".replace("ö", "o") + " see."),
        (EVERY_KIND[4], "1+(20-3)+4"),
    ],
)
def test_a_text_that_is_meant_is_accepted_to_its_end_and_may_end_there(
    compiler: GrammarCompiler, vocab: Vocab, grammar: Grammar, text: str
) -> None:
    constraint = compiler.compile(grammar)
    assert not may_end(constraint, vocab)
    assert read(constraint, vocab, text)
    assert may_end(constraint, vocab)


@pytest.mark.parametrize(
    ("grammar", "text"),
    [
        (EVERY_KIND[0], '{"name": "Zoë", "age": 100'),
        (EVERY_KIND[0], '{"name": "123456789"'),
        (EVERY_KIND[0], '{"age"'),
        (EVERY_KIND[1], '{"value": 1, "kids": [{}'),
        (EVERY_KIND[2], "[1]"),
        (EVERY_KIND[3], "lower case"),
        (EVERY_KIND[4], "1+)"),
    ],
)
def test_a_text_that_is_not_meant_is_refused_on_the_way(
    compiler: GrammarCompiler, vocab: Vocab, grammar: Grammar, text: str
) -> None:
    assert not read(compiler.compile(grammar), vocab, text)


@pytest.mark.parametrize("options", [{}, {"x-guidance": {"whitespace_flexible": True, "whitespace_pattern": r"\s*"}}])
@pytest.mark.parametrize("text", ["{\n", '{ "name"', '{"name":"', '{"name":  ', '{"name": "a","', '{"name": "a",\n'])
def test_json_has_one_way_to_be_written_so_that_nobody_waits_for_endless_whitespace(
    compiler: GrammarCompiler, vocab: Vocab, options: dict[str, object], text: str
) -> None:
    assert not read(compiler.compile(schema(**PERSON, **options)), vocab, text)


def test_a_reply_is_complete_behind_its_last_token_and_then_nothing_but_an_end_may_come(
    compiler: GrammarCompiler, vocab: Vocab
) -> None:
    constraint = compiler.compile(EVERY_KIND[0])
    complete = [read(constraint, vocab, text) and constraint.is_complete for text in ('{"name": "Zoe", "age": 7', "}")]
    assert complete == [False, True]
    assert may_end(constraint, vocab)
    assert set(allowed_by_mask(constraint, vocab)) == vocab.eog
    assert not constraint.allows(vocab.tokenize("}", add_special=False)[0])
    constraint.accept(next(iter(vocab.eog)))
    assert constraint.is_complete


def test_a_reply_that_could_go_on_or_end_is_not_complete(compiler: GrammarCompiler, vocab: Vocab) -> None:
    constraint = compiler.compile(Grammar("regex", "a+"))
    assert read(constraint, vocab, "a")
    before = constraint.is_complete
    assert may_end(constraint, vocab)
    constraint.accept(min(vocab.eog))
    assert (before, constraint.is_complete) == (False, True)


def test_a_copy_goes_its_own_way(compiler: GrammarCompiler, vocab: Vocab) -> None:
    first = compiler.compile(Grammar("regex", "(yes|no) (1|2)"))
    second = first.copy()
    assert read(first, vocab, "yes ")
    third = first.copy()
    assert read(second, vocab, "no 2")
    assert second.is_complete
    assert not first.is_complete
    assert read(third, vocab, "1")
    assert read(first, vocab, "2")


def test_a_copy_outlives_the_failure_of_the_other(compiler: GrammarCompiler, vocab: Vocab) -> None:
    first = compiler.compile(Grammar("regex", "yes"))
    second = first.copy()
    with pytest.raises(ConstraintFailed):
        first.accept(vocab.tokenize("no", add_special=False)[0])
    assert read(second, vocab, "yes")


LATER_TOO_COMPLEX: Final = {
    "nested repetitions": Grammar("regex", "((((((a{1,99}){1,99}){1,99}){1,99}){1,99}){1,99})"),
    "a pattern": schema(type="string", pattern=".*a.{15}b.*", maxLength=500),
    "a Lark grammar": Grammar("lark", "start: x{1,999}\nx: y{1,99}\ny: /[a-z]{1,99}/"),
}


@pytest.mark.parametrize("name", LATER_TOO_COMPLEX)
def test_a_grammar_that_becomes_too_complex_fails_and_names_its_field(
    compiler: GrammarCompiler, vocab: Vocab, name: str
) -> None:
    grammar = LATER_TOO_COMPLEX[name]
    constraint = compiler.compile(grammar)
    numbers = np.random.default_rng(1)
    with pytest.raises(ConstraintFailed) as caught:  # noqa: PT012 - which token it is does not matter
        for _ in range(500):
            row = numbers.normal(size=vocab.n_tokens).astype(np.float32)
            row[list(vocab.eog)] = -50
            constraint.mask(row)
            constraint.accept(int(row.argmax()))
    assert caught.value.param == {"regex": "regex", "json_schema": "response_format", "lark": "grammar"}[grammar.kind]
    assert str(caught.value).startswith(f"{caught.value.param}: ")


class PanicException(BaseException):
    pass


class PanickingMatcher:
    def _panic(self, *_: object) -> None:
        raise PanicException

    validate_tokens = consume_token = compute_bitmask = _panic


def test_a_panic_of_the_grammar_library_fails_the_reply_alone() -> None:
    matcher: Any = PanickingMatcher()
    constraint = Constraint(matcher, tokenizer=matcher, eog=frozenset(), param="regex")
    for use in (
        lambda: constraint.allows(1),
        lambda: constraint.accept(1),
        lambda: constraint.mask(np.zeros(8, np.float32)),
    ):
        with pytest.raises(ConstraintFailed, match="regex: "):
            use()


def test_a_panic_while_a_grammar_is_compiled_refuses_it(
    compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    def panic(*_: object) -> None:
        raise PanicException

    monkeypatch.setattr(grammar_module, "_try_out", panic)
    with pytest.raises(InvalidGrammar) as caught:
        compiler.compile(Grammar("regex", "a"))
    assert caught.value.param == "regex"


def test_a_failed_constraint_says_so_each_time(compiler: GrammarCompiler, vocab: Vocab) -> None:
    constraint = compiler.compile(EVERY_KIND[0])
    wrong = vocab.tokenize("no", add_special=False)[0]
    with pytest.raises(ConstraintFailed, match="satisfy the grammar"):
        constraint.accept(wrong)
    with pytest.raises(ConstraintFailed, match="satisfy the grammar"):
        constraint.allows(next(iter(vocab.eog)))
    with pytest.raises(ConstraintFailed):
        constraint.mask(np.zeros(vocab.n_tokens, np.float32))


@settings(max_examples=examples(25), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), grammar=st.sampled_from(EVERY_KIND))
def test_for_every_token_the_mask_and_the_question_agree(
    compiler: GrammarCompiler, vocab: Vocab, data: st.DataObject, grammar: Grammar
) -> None:
    constraint = compiler.compile(grammar)
    for _ in range(data.draw(st.integers(0, 12))):
        if constraint.is_complete:
            break
        choices = [token for token in allowed_by_mask(constraint, vocab) if token not in vocab.eog]
        constraint.accept(int(data.draw(st.sampled_from(choices))) if choices else min(vocab.eog))
    masked = set(map(int, allowed_by_mask(constraint, vocab)))
    asked = {token for token in range(vocab.n_tokens) if constraint.allows(token)}
    if len(masked) > 1:
        assert masked == asked
    else:  # the grammar leaves no choice of text, and the mask none of how to spell it
        assert masked <= asked


def test_control_tokens_are_no_text(compiler: GrammarCompiler, vocab: Vocab) -> None:
    start = vocab.single_token("<|im_start|>")
    assert start is not None
    anything = compiler.compile(Grammar("regex", r"(?s:.*)"))
    assert not anything.allows(start)
    assert read(anything, vocab, "<|im_start|>")


REFUSED: Final = {
    "not JSON": (Grammar("json_schema", "{'a': 1}"), "response_format", "key must be a string"),
    "no object": (Grammar("json_schema", "true"), "response_format", "Expecting object schema"),
    "no type": (schema(type="text"), "response_format", "text"),
    "no place": (schema(**{"$ref": "#/$defs/nowhere"}), "response_format", "nowhere"),
    "nothing satisfies it": (schema(type="integer", minimum=3, maximum=2), "response_format", "minimum"),
    "unknown format": (schema(type="string", format="postcode"), "response_format", "postcode"),
    "regex": (Grammar("regex", "a("), "regex", "unclosed group"),
    "look-around": (Grammar("regex", "(?=a)b"), "regex", "look-around"),
    "back reference": (Grammar("regex", r"(a)\1"), "regex", "backreferences are not supported"),
    "lark": (Grammar("lark", "start = 'a'"), "grammar", "1(9): lexer error"),
    "no root": (
        Grammar("lark", 'start ::= "a"'),
        "grammar",
        "there is no rule 'root'; grammars are read in Lark's notation and in GBNF",
    ),
    "a token in GBNF": (Grammar("lark", "root ::= <think>"), "grammar", "tokens in angle brackets are not read"),
    "no start": (Grammar("lark", ""), "grammar", "no start rule"),
    "a file": (Grammar("lark", 'start: "a"\n%import "/etc/passwd"'), "grammar", "2(9)"),
    "llguidance's own notation": (Grammar("lark", '{"grammars": [{"lark_grammar": "start: /a/"}]}'), "grammar", "1(1)"),
    "a control token": (Grammar("lark", "start: <|im_end|>"), "grammar", "unknown special token"),
    "half a surrogate pair": (Grammar("regex", "\ud800"), "regex", "surrogates not allowed"),
}


@pytest.mark.parametrize(("grammar", "param", "words"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_grammar_is_refused_in_words_that_help(
    compiler: GrammarCompiler, grammar: Grammar, param: str, words: str
) -> None:
    with pytest.raises(InvalidGrammar) as refusal:
        compiler.compile(grammar)
    assert refusal.value.param == param
    assert refusal.value.message.startswith(f"{param}: ")
    assert words in refusal.value.message
    assert len(refusal.value.message) <= len(param) + 2 + 500
    assert "\n" not in refusal.value.message


def nested(levels: int) -> Grammar:
    inner = '{"type": "integer"}'
    for _ in range(levels):
        inner = f'{{"type": "object", "properties": {{"a": {inner}}}, "required": ["a"]}}'
    return Grammar("json_schema", inner)


def chained_definitions(count: int) -> Grammar:
    definitions = {f"d{i}": {"type": "array", "items": {"$ref": f"#/$defs/d{i + 1}"}} for i in range(count)}
    return schema(**{"$ref": "#/$defs/d0", "$defs": definitions | {f"d{count}": {"type": "null"}}})


def chained_rules(count: int, *, groups: int = 0) -> Grammar:
    rules = "\n".join(f"r{i}: {'(' * groups} r{i + 1} {')' * groups}" for i in range(count))
    return Grammar("lark", f'start: r0\n{rules}\nr{count}: "a"')


HOSTILE_REFUSED: Final = {
    # what would end the engine itself, or take its memory
    "3,000 rules in a row": (chained_rules(3_000), "too complex"),
    "300 rules of 25 groups in a row": (chained_rules(300, groups=25), "too complex"),
    "3,000 definitions in a row": (chained_definitions(3_000), "too complex"),
    "a remainder without end": (schema(type="integer", multipleOf=9_999_991), "too complex"),
    "5,000 optional properties": (schema(properties={f"p{i}": {"type": "string"} for i in range(5_000)}), "too "),
    # what llguidance refuses by itself
    "40,000 groups": (Grammar("lark", "start: " + "(" * 40_000 + '"a"' + ")" * 40_000), "too deeply nested"),
    "40,000 groups in a regex": (Grammar("regex", "(" * 40_000 + ")" * 40_000), "invalid regex"),
    "400 objects in each other": (nested(400), "recursion limit"),
    "20,000 open brackets": (Grammar("json_schema", '{"a":' * 20_000), "recursion limit"),
    "a schema that is itself": (schema(**{"$ref": "#"}), "no first token"),
    "a rule that is itself": (Grammar("lark", "start: a\na: b\nb: a"), "no first token"),
    "a remote schema": (schema(**{"$ref": "http://127.0.0.1:9/schema.json"}), "Default retriever does not fetch"),
    "a local file": (schema(**{"$ref": "file:///etc/passwd"}), "Default retriever does not fetch"),
    "combinations": (
        schema(
            allOf=[{"anyOf": [{"properties": {f"{i}-{j}": {"pattern": f"^{j}"}}} for j in range(6)]} for i in range(9)]
        ),
        "too large",
    ),
    "an ambiguous first token": (
        Grammar("lark", "start: s\ns: " + " | ".join(" ".join("s" * n) for n in range(1, 60)) + " | /[a-z]/"),
        "no first token",
    ),
    "a text and all its parts": (
        Grammar("lark", 'start: %regex {"substring_chars": "' + "abcdefgh ijkl" * 10_000 + '"}'),
        "too big",
    ),
    "3,000 terminals": (
        Grammar("lark", "start: (" + " | ".join(f"/[a-z]*{i}/" for i in range(3_000)) + ")*"),
        "no first token",
    ),
    "too long": (Grammar("regex", "a" * (MAX_SOURCE_BYTES + 1)), "262145 bytes are too long"),
    "100,000 words": (schema(enum=[f"word{i}" for i in range(100_000)]), "bytes are too long"),
}


@pytest.mark.parametrize(("grammar", "words"), HOSTILE_REFUSED.values(), ids=HOSTILE_REFUSED)
def test_a_grammar_that_would_do_harm_is_refused(compiler: GrammarCompiler, grammar: Grammar, words: str) -> None:
    with pytest.raises(InvalidGrammar) as refusal:
        compiler.compile(grammar)
    assert words in refusal.value.message


HOSTILE_AND_BOUNDED: Final = {
    "a text of 524,288": schema(type="string", maxLength=524_288),
    "a list of 100,000": schema(type="array", items={"type": "integer"}, minItems=100_000),
    "10,000 words": schema(enum=[f"word{i}" for i in range(10_000)]),
    "500 rules in a row": chained_rules(500),
    "stars of stars": Grammar("regex", "((((((a*)*)*)*)*)*)*b"),
    "many states": Grammar("regex", r"(?s:.*a.{60}b)"),
    "repeated repetitions": Grammar("regex", "(.*a.{0,1000}){1,1000}"),
    "a billion letters": Grammar("regex", "a{1000000000}"),
    "ten to the tenth letters": Grammar("regex", "(((((((((a{10}){10}){10}){10}){10}){10}){10}){10}){10}){10}"),
    "an endless repetition of rules": Grammar("lark", 'start: (("a"~1000)~1000)~1000'),
    "ambiguity": Grammar("lark", 'start: e\ne: e e | "a" | e e e | '),
    "more ambiguity": Grammar("lark", 'start: s\ns: s s s s s | "a" | "aa" | "aaa" | s s | '),
    "a long literal": Grammar("lark", 'start: "' + "lorem ipsum " * 20_000 + '"'),
}


@pytest.mark.parametrize("text", ["a" * 4000, "ab c" * 1500, "入é" * 1000, "x" * 3071 + "é" * 100, "\U0001f600" * 1000])
def test_a_long_text_that_is_forced_begins_with_the_tokens_of_the_tokenizer(
    compiler: GrammarCompiler, vocab: Vocab, text: str
) -> None:
    constraint = compiler.compile(Grammar("lark", f'start: "{text}"'))
    tokens: list[int] = []
    for _ in range(20):
        (token,) = allowed_by_mask(constraint, vocab)
        constraint.accept(int(token))
        tokens.append(int(token))
    assert tokens == vocab.tokenize(text, add_special=False)[:20]


@pytest.mark.parametrize("grammar", HOSTILE_AND_BOUNDED.values(), ids=HOSTILE_AND_BOUNDED)
def test_a_grammar_that_is_costly_to_follow_goes_on_or_fails_its_own_reply(
    compiler: GrammarCompiler, vocab: Vocab, grammar: Grammar
) -> None:
    constraint = compiler.compile(grammar)
    rng = np.random.default_rng(1)
    with suppress(ConstraintFailed):
        for _ in range(60):
            if constraint.is_complete:
                break
            token = int(rng.choice(allowed_by_mask(constraint, vocab)))
            assert constraint.allows(token)
            constraint.accept(token)
    assert read(compiler.compile(EVERY_KIND[0]), vocab, '{"name": "Zoe", "age": 7}')


def test_a_trial_that_hangs_is_given_up(compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar_module, "_TRIAL", ("sleep", "30"))
    monkeypatch.setattr(grammar_module, "_TRIAL_LIMIT_S", 0.01)
    with pytest.raises(InvalidGrammar, match="takes too long to compile"):
        compiler.compile(Grammar("regex", "a grammar that nobody has tried"))


def test_what_survived_a_trial_is_not_tried_again(
    compiler: GrammarCompiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grammar = Grammar("regex", "a grammar that comes twice")
    compiler.compile(grammar)
    monkeypatch.setattr(grammar_module, "_TRIAL", (str(tmp_path / "nothing"),))
    compiler.compile(grammar)


@pytest.mark.parametrize("end", ["kill -9 $$", "kill -15 $$", "exit 1"])
def test_a_trial_that_something_else_has_ended_says_nothing_about_its_grammar(
    end: str, compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    grammar = Grammar("regex", f"a grammar whose trial ended with {end.split()[1].strip('-')}")
    with monkeypatch.context() as patch:
        patch.setattr(grammar_module, "_TRIAL", ("sh", "-c", end))
        with pytest.raises(Overloaded, match="was ended, with status"):
            compiler.compile(grammar)
    compiler.compile(grammar)


def test_a_trial_that_cannot_begin_says_nothing_about_its_grammar(
    compiler: GrammarCompiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grammar = Grammar("regex", "a grammar whose trial did not begin")
    with monkeypatch.context() as patch:
        patch.setattr(grammar_module, "_TRIAL", (str(tmp_path / "nothing"),))
        with pytest.raises(Overloaded, match="cannot be tried out now"):
            compiler.compile(grammar)
    compiler.compile(grammar)


@pytest.mark.parametrize("end", ["kill -SEGV $$", "kill -ABRT $$", "kill -PROF $$", f"exit {os.EX_DATAERR}"])
def test_a_trial_that_ended_of_its_grammar_is_a_verdict_that_is_kept(
    end: str, compiler: GrammarCompiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grammar = Grammar("regex", f"a grammar that ends its trial with {end.split()[1].strip('-')}")
    monkeypatch.setattr(grammar_module, "_TRIAL", ("sh", "-c", end))
    with pytest.raises(InvalidGrammar, match="too complex"):
        compiler.compile(grammar)
    monkeypatch.setattr(grammar_module, "_TRIAL", (str(tmp_path / "nothing"),))
    with pytest.raises(InvalidGrammar, match="too complex"):
        compiler.compile(grammar)
