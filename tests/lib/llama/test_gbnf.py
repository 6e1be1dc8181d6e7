"""GBNF becomes Lark that allows the same texts, or is refused with a reason."""

import json
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from itertools import product
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from neuron_lib.llama.gbnf import is_gbnf, to_lark
from tests.examples import examples

JSON = r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::=
  "{" ws (
    string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws   # lists
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws     ::= | " " | "\n" [ \t]{0,20}
"""


@cache
def tokenizer() -> Any:
    from llguidance import LLTokenizer  # noqa: PLC0415 - slow, and only some tests of a run need it

    return LLTokenizer("byte")


def allows(lark: str) -> Callable[[str], bool]:
    """What llguidance says about whole texts."""
    from llguidance import LLMatcher  # noqa: PLC0415 - as above

    begin = LLMatcher(tokenizer(), json.dumps({"grammars": [{"lark_grammar": lark}]}), log_level=0)
    assert not begin.is_error(), begin.get_error()

    def is_allowed(text: str) -> bool:
        matcher, tokens = begin.deep_copy(), list(text.encode())
        if matcher.validate_tokens(tokens) < len(tokens):
            return False
        matcher.consume_tokens(tokens)
        return bool(matcher.is_accepting())

    return is_allowed


@pytest.mark.parametrize(
    ("grammar", "good", "bad"),
    [
        ('root ::= "yes" | "no"', ["yes", "no"], ["", "ye", "yesno"]),
        ("root ::= [a-c]+ # letters", ["a", "cab"], ["", "d"]),
        ("root ::= [^a-c]", ["d", "\n", "é", "😀"], ["a", "dd", ""]),
        ("root ::= [-a\\]^]+", ["-", "a]^"], ["b", "\\"]),
        (r'root ::= "\x41\u00e9\U0001F600\n\"\\"', ['Aé😀\n"\\'], ["Aé😀"]),
        ('root ::= "ab"* "c"', ["c", "abc", "ababc"], ["bc", "abbc"]),
        ('root ::= "a"{2} "b"{1,} "c"{0,2}', ["aab", "aabbbcc"], ["ab", "aa", "aabccc"]),
        ('root ::= ("a" | "b" | ) "c"', ["ac", "bc", "c"], ["abc", ""]),
        ('root ::= .* "END"', ["END", "a\nEND", "ENDEND"], ["EN"]),
        ('root ::= item-1 ("," item-1)*\nitem-1 ::= UPPER\nUPPER ::=\n  [A-Z]+', ["A", "AB,C"], ["a", "A,"]),
        ('root ::= "(" root ")" | "x"', ["x", "((x))"], ["(x", "", "()"]),
        ('root ::= list\nlist ::= "[" (list ("," list)*)? "]"', ["[]", "[[],[[]]]"], ["[", "[,]"]),
        (JSON, ["{}", '{"a": [1,-2.5e+3, {"b":null}], "c":"\\n\\u00e9é"} '], ["[1]", '{"a"}', '{"a":01}', '{"a":tru}']),
    ],
)  # fmt: skip
def test_a_grammar_allows_the_same_texts_as_before(grammar: str, good: list[str], bad: list[str]) -> None:
    assert is_gbnf(grammar)
    is_allowed = allows(to_lark(grammar))
    assert [text for text in good if not is_allowed(text)] == []
    assert [text for text in bad if is_allowed(text)] == []


def test_a_rule_that_leads_back_to_itself_stays_a_rule() -> None:
    assert to_lark('root ::= "(" inner ")"\ninner ::= root | [0-9]{1,2}') == (
        "start: rule_0\n"
        "rule_0: /\\x{28}/ rule_1 /\\x{29}/\n"
        "rule_1: rule_0 | /[0-9]{1,2}/\n"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("grammar", "reason"),
    [
        ('start ::= "a"', "there is no rule 'root'"),
        ("root ::= x", "there is no rule 'x'"),
        ('root ::= "a"\nroot ::= "b"', "line 2 .* twice"),
        ("root ::= <think>", "line 1 .* angle brackets are not read"),
        ("root ::= !<[7]>", "line 1 .* angle brackets are not read"),
        ('root ::= "a', "line 1 .* not expected"),
        ('root ::= ("a"', "line 1 .* no end"),
        ('root ::= "a")', "line 1 .* rule is expected"),
        ("root ::= *", "line 1 .* not expected here"),
        ("root ::= []", "stands for no character"),
        ("root ::= [z-a]", "end of a range is before its beginning"),
        (r'root ::= "\q"', r"escape .* not known"),
        (r'root ::= "\uD800"', "no character"),
        (r'root ::= "\UFFFFFFFF"', "no character"),
        ('root ::= "a"{3,2}', "repetitions"),
        ('root ::= "a"{2001}', "repetitions"),
        ("root ::= " + "(" * 100 + '"a"' + ")" * 100, "groups inside each other"),
        ("root ::= " + '"a" ' * 20_000, "may have 65536 bytes"),
        ("root ::= x0\n" + "".join(f"x{i} ::= x{i + 1} x{i + 1}\n" for i in range(40)) + 'x40 ::= "a"', "too long"),
        ("root ::= " + " | ".join(f'"{i}" root' for i in range(1000)), "characters"),
        ("root ::= x0\n" + "".join(f"x{i} ::= x{(i + 1) % 300}\n" for i in range(300)), "lead back to themselves"),
        ('root ::= expr "\\n"\nexpr ::= "(" expr ")" | [a-z \\n]+', "cannot be read in pieces"),
    ],
)
def test_what_is_not_translated_is_refused_with_its_reason(grammar: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        to_lark(grammar)


@pytest.mark.parametrize(
    "grammar",
    [
        'root ::= "(" root ")" | (' + " | ".join(["[a-z]"] * 290) + ")*",
        'root ::= "(" root ")" | ' + " | ".join(["word root"] * 3000) + "\nword ::= [a-z]{1,9}",
        'root ::= "(" root ")" | ' + " | ".join(["text root"] * 3000) + '\ntext ::= "' + "a" * 9000 + '"',
        "root ::= x0\n" + "".join(f"x{i} ::= x{(i + 1) % 198} [a-z] | [0-9] x{i * 7 % 198}\n" for i in range(198)),
        "root ::= a0\n" + "".join(f"a{i} ::= a{i + 1}\n" for i in range(4000)) + 'a4000 ::= "x"',
        "root ::= " + "(" * 50 + '"a"' + "){2,3}" * 50,
    ],
    ids=["many positions", "many lexemes", "a long lexeme", "many rules", "a long way", "many repetitions"],
)
def test_a_large_grammar_comes_to_an_end(grammar: str) -> None:
    with suppress(ValueError):
        assert len(to_lark(grammar)) < 2_000_000


@pytest.mark.parametrize("lark", ['start: "a"', "start: x\nx: /[a-z]+/", "%ignore /::=/\nstart: /a ::= b/", ""])
def test_lark_is_not_taken_for_gbnf(lark: str) -> None:
    assert not is_gbnf(lark)


# ------------------------------------------------------------------------------------------------ any small grammar

LONGEST = 4
TEXTS = ["".join(chars) for length in range(LONGEST + 1) for chars in product("ab", repeat=length)]
RULES = ("root", "x", "y")

nodes = st.recursive(
    st.one_of(
        st.tuples(st.just("text"), st.text("ab", max_size=2)),
        st.tuples(st.just("chars"), st.sampled_from(["a", "b", "ab"])),
        st.tuples(st.just("ref"), st.sampled_from(RULES)),
    ),
    lambda inner: st.one_of(
        st.tuples(st.just("sequence"), st.lists(inner, min_size=1, max_size=3)),
        st.tuples(st.just("choice"), st.lists(inner, min_size=1, max_size=3)),
        st.tuples(st.just("repeat"), inner, st.sampled_from([("*", 0, 9), ("+", 1, 9), ("?", 0, 1), ("{2}", 2, 2)])),
    ),
    max_leaves=6,
)


def spelled(node: Any) -> str:
    match node:
        case "text", text:
            return f'"{text}"'
        case "chars", chars:
            return f"[{chars}]"
        case "ref", rule:
            return str(rule)
        case "sequence", items:
            return "(" + " ".join(map(spelled, items)) + ")"
        case "choice", options:
            return "(" + " | ".join(map(spelled, options)) + ")"
        case _, item, (sign, _, _):
            return f"({spelled(item)}){sign}"
    raise AssertionError(node)


def joined(one: frozenset[str], two: frozenset[str]) -> frozenset[str]:
    return frozenset(a + b for a in one for b in two if len(a + b) <= LONGEST)


def texts_of(node: Any, known: dict[str, frozenset[str]]) -> frozenset[str]:
    """All texts of a node up to a length, as far as those of the rules are known."""
    match node:
        case "text", text:
            return frozenset({text}) if len(text) <= LONGEST else frozenset()
        case "chars", chars:
            return frozenset(chars)
        case "ref", rule:
            return known[rule]
        case "sequence", items:
            texts = frozenset({""})
            for item in items:
                texts = joined(texts, texts_of(item, known))
            return texts
        case "choice", options:
            return frozenset[str]().union(*(texts_of(option, known) for option in options))
        case _, item, (_, least, most):
            once, texts, found = texts_of(item, known), frozenset({""}), frozenset[str]()
            for count in range(most + 1):
                found |= texts if count >= least else frozenset()
                texts = joined(texts, once)
            return found
    raise AssertionError(node)


def language(rules: dict[str, Any]) -> frozenset[str]:
    known = dict.fromkeys(rules, frozenset[str]())
    while True:
        more = {name: texts_of(node, known) for name, node in rules.items()}
        if more == known:
            return known["root"]
        known = more


@settings(max_examples=examples(300))
@given(st.fixed_dictionaries(dict.fromkeys(RULES, nodes)))
def test_any_grammar_allows_the_same_texts_or_is_refused(rules: dict[str, Any]) -> None:
    expected = language(rules)
    assume(expected)  # llguidance refuses a grammar without any text
    grammar = "\n".join(f"{name} ::= {spelled(node)}" for name, node in rules.items())
    try:
        lark = to_lark(grammar)
    except ValueError:
        return
    is_allowed = allows(lark)
    assert frozenset(text for text in TEXTS if is_allowed(text)) == expected


@given(st.text(alphabet='root::= "[]ab-^\\x(){}|*+?.,019\n#<', max_size=60))
def test_any_text_is_translated_or_refused(text: str) -> None:
    try:
        to_lark(text)
    except ValueError:
        return
