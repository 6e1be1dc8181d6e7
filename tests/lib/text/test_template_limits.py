"""What a template may make, and that it fails quickly and in little memory where it wants more."""

import resource
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

from neuron_lib.errors import TemplateFailed
from neuron_lib.text import template_sandbox
from neuron_lib.text.chat_template import ChatTemplate
from neuron_lib.text.template_limits import TooLarge

HELLO: list[dict[str, Any]] = [{"role": "user", "content": "hello"}]
ROOM = 1 << 30
"""Bytes that this process may take beyond what it has: what is refused must not need them."""

NESTED = "{% set n = namespace(x=['a', 'b']) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}"
"""A list that is written in 2 to the power of 61 words, and held in 60 pairs of references."""

GROWN = "{% set n = namespace(x='a') %}{% for i in range(40) %}{% set n.x = GROW %}{% endfor %}"
"""A text that grows by a factor each time."""

KEPT = (
    "{% set t = 'x' * 1000000 %}{% set n = namespace(l=[]) %}"
    "{% for i in range(90000) %}{% set n.l = n.l + [KEPT] %}{% endfor %}"
)
"""A list that grows by one each time."""


def now() -> datetime:
    return datetime(2026, 2, 3, tzinfo=UTC)


def render(source: str) -> str:
    return ChatTemplate(source, bos_token="<s>", eos_token="</s>").render(HELLO, now=now)  # noqa: S106


@pytest.fixture(autouse=True)
def _little_memory() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture(autouse=True)
def _limit_of_a_walk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --fast a nested value is walked for a few thousand items, and not for a million, before it is refused."""
    if request.config.getoption("--fast"):
        monkeypatch.setattr("neuron_lib.text.template_limits._MAX_INSIDE", 1 << 12)


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a'.ljust(3000000000) }}",
        "{{ 'a'.rjust(3000000000, 'x') }}",
        "{{ 'a'.center(3000000000) }}",
        "{{ 'a'.zfill(3000000000) }}",
        "{{ 'a'['ljust'](3000000000) }}",
        "{{ ('a'|attr('ljust'))(3000000000) }}",
        "{% set pad = 'a'.ljust %}{{ pad(3000000000) }}",
        "{{ 'a\\tb'.expandtabs(3000000000) }}",
        "{{ ('x' * 1000000).join('a' * 100000) }}",
        "{{ ('x' * 1000000).join(['a'] * 100000) }}",
        "{{ ('x' * 1000000).join((['a', 'b'] * 50000) | map('upper')) }}",
        "{{ (['a'] * 100000) | join('x' * 1000000) }}",
        "{{ (['a'] * 100000) | map('upper') | join('x' * 1000000) }}",
        "{{ ([{'t': 'x' * 1000000}] * 100000) | join(attribute='t') }}",
        "{{ ('a' * 100000).replace('a', 'x' * 100000) }}",
        "{{ ('a' * 100000).replace('', 'x' * 100000) }}",
        "{{ ('a' * 100000) | replace('a', 'x' * 100000) }}",
        "{{ '%s%s%s%s%s%s%s%s%s%s' % (('x' * 1000000,) * 10) }}",
        "{{ ('%(a)s' * 10000) % {'a': 'x' * 100000} }}",
        "{{ '{:3000000000}'.format('a') }}",
        "{{ '{:{}}'.format('a', 3000000000) }}",
        "{{ '{a:>3000000000}'.format_map({'a': 1}) }}",
        "{{ ('{0}' * 10000).format('x' * 100000) }}",
        "{{ 'a' | center(3000000000) }}",
        "{{ ['a'] | map('center', 3000000000) | first }}",
        "{% filter center(3000000000) %}a{% endfilter %}",
        "{{ 'a' | indent(3000000000, true) }}",
        "{{ ('a\\n' * 100000) | indent(100000) }}",
        "{{ ('a\\n' * 100000) | indent('x' * 100000) }}",
        "{{ [1] | batch(3000000000, 0) | list }}",
        "{{ [1] | slice(3000000000, 0) | list }}",
        "{{ ([[0] * 1000000] * 1000000) | sum(start=[]) }}",
        "{{ [1] | tojson(separators=('x' * 1000000, 'y')) }}",
        "{{ 5 | round(-1000000000) }}",
        "{{ 5 | round(1000000000, 'floor') }}",
        "{{ ('f' * 1000000) | int(0, 16) }}",
        "{{ strftime_now('%99999999Y' * 1000) }}",
        "{{ (1).to_bytes(3000000000, 'big') }}",
        "{{ 'a'.encode() }}",
        "{{ 'aaaa'.translate({97: 'x' * 1000000}) }}",
        GROWN.replace("GROW", "n.x + n.x"),
        GROWN.replace("GROW", "n.x ~ n.x"),
        GROWN.replace("GROW", "[n.x, n.x] | join"),
        GROWN.replace("GROW", "'{}{}'.format(n.x, n.x)"),
        GROWN.replace("GROW", "'%s%s' % (n.x, n.x)"),
        GROWN.replace("x='a'", "x=[1]").replace("GROW", "n.x + n.x"),
        GROWN.replace("{% set n.x = GROW %}", "{% set t %}{{ n.x }}{{ n.x }}{% endset %}{% set n.x = t %}"),
        "{% macro twice(x) %}{{ x }}{{ x }}{% endmacro %}" + GROWN.replace("GROW", "twice(n.x)"),
        NESTED + "{{ n.x }}",
        NESTED + "{{ n.x | string }}",
        NESTED + "{{ n.x ~ '' }}",
        NESTED + "{{ n.x | tojson }}",
        NESTED + "{{ n.x | upper }}",
        NESTED + "{{ '%s' % n.x }}",
        NESTED + "{{ '{}'.format(n.x) }}",
        NESTED + "{{ [n.x] | join }}",
        NESTED + "{{ n.x == [n.x[0], n.x[1]] }}",
        NESTED + "{{ n.x is eq([n.x[0], n.x[1]]) }}",
        NESTED + "{{ n.x in [[n.x[0], n.x[1]]] }}",
        NESTED + "{{ [n.x] | unique | list }}",
        NESTED + "{{ [[n.x]] | select('eq', [n.x]) | list }}",
        NESTED + "{{ [n.x].index([n.x[0], n.x[1]]) }}",
        NESTED + "{{ raise_exception(n.x) }}",
        NESTED + "{{ {'a': n.x}.items() }}",
        NESTED.replace("[n.x, n.x]", "(n.x, n.x)").replace("['a', 'b']", "('a', 'b')") + "{{ {n.x: 1} | length }}",
        NESTED.replace("[n.x, n.x]", "(n.x, n.x)").replace("['a', 'b']", "('a', 'b')") + "{{ {}[n.x] }}",
        NESTED.replace("[n.x, n.x]", "(n.x, n.x)").replace("['a', 'b']", "('a', 'b')") + "{{ {}.get(n.x) }}",
    ],
)
def test_what_would_make_too_much_is_refused_before_it_is_made(source: str) -> None:
    with pytest.raises(TemplateFailed) as caught:
        render(source)
    cause = caught.value.__cause__
    assert isinstance(cause, TooLarge) or type(cause).__name__ in {"SecurityError", "TemplateError"}, repr(cause)


@pytest.mark.parametrize(
    "kept",
    [
        "'x' * 1000000 ~ i",
        "range(100000) | list",
        "('ab ' * 300000).split()",
        "t[1:]",
        "t.upper()",
        "[" + "0, " * 50_000 + "]",
    ],
)
def test_a_template_that_keeps_too_much_is_stopped(kept: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neuron_lib.text.template_limits._MAX_GROWTH_BYTES", 32 << 20)
    source = KEPT.replace("KEPT", kept)
    with pytest.raises(TemplateFailed) as caught:
        render(source)
    assert isinstance(caught.value.__cause__, TooLarge)


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a' | center(3) }}",
        "{{ 'x' ~ ('a' | center(3)) }}",
        "{% if 'a' | center(3) %}x{% endif %}",
        "{% set a = 'a' | center(3) %}",
        "{{ ['a' | center(3)] | join }}",
    ],
)
def test_nothing_is_computed_before_a_template_is_rendered(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[object] = []
    monkeypatch.setitem(
        cast("dict[str, object]", template_sandbox._FILTER_CHECKS), "center", lambda *args: called.append(args)
    )
    template = ChatTemplate(source, bos_token="", eos_token="")
    assert called == []
    template.render(HELLO, now=now)
    assert called == [("a", 3)]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ 'a'.ljust(5, '.') }}|{{ 'a'.rjust(3) }}|{{ 'a'.center(3) }}|{{ '7'.zfill(3) }}", "a....|  a| a |007"),
        ("{{ 'a\\tb'.expandtabs(4) }}|{{ 'a-b'.replace('-', '+') }}|{{ 'a'.replace('', '-') }}", "a   b|a+b|-a-"),
        ("{{ ', '.join(['a', 'b']) }}|{{ ','.join(['a', 'b'] | map('upper')) }}|{{ '-'.join('ab') }}", "a, b|A,B|a-b"),
        ("{{ ['a', 'b'] | join(', ') }}|{{ [{'t': 1}, {'t': 2}] | join('+', attribute='t') }}", "a, b|1+2"),
        (
            "{{ '{}-{b}'.format(1, b='x') }}|{{ '{a:>3}'.format_map({'a': 1}) }}|{{ '%s-%02d' % ('a', 7) }}",
            "1-x|  1|a-07",
        ),
        ("{{ 'a' | center(3) }}|{{ 'a\\nb' | indent(2) }}|{{ 'a\\nb' | indent('> ', true) }}", " a |a\n  b|> a\n> b"),
        ("{{ [1, 2, 3] | batch(2, 0) | list }}{{ [1, 2, 3] | slice(2) | list }}", "[[1, 2], [3, 0]][[1, 2], [3]]"),
        (
            "{{ [1, 2] | sum }}|{{ [{'a': 1.5}] | sum('a') }}|{{ 2.345 | round(2) }}|{{ 'ff' | int(0, 16) }}",
            "3|1.5|2.35|255",
        ),
        ("{{ 'a' ~ 1 ~ none ~ [1] }}|{{ [1] + [2] }}|{{ 'a' + 'b' }}", "a1None[1]|[1, 2]|ab"),
        (
            "{{ [1, [2]] == [1, [2]] }}{{ 1 < 2 < 3 }}{{ 'a' in ['a'] }}{{ [1] in [[1]] }}{{ 1 not in [1] }}",
            "TrueTrueTrueTrueFalse",
        ),
        (
            "{{ {'a': {'b': 1}}['a'] }}{{ {('x', 1): 2}[('x', 1)] }}{{ 'abc'[1:] }}{{ [1, 2, 3][::-1] }}",
            "{'b': 1}2bc[3, 2, 1]",
        ),
        ("{% set t %}a{{ 1 }}{% endset %}{{ t }}{% macro m(x) %}[{{ x }}]{% endmacro %}{{ m(2) }}", "a1[2]"),
        ("{% for x in [1, 1, 2] %}{{ loop.changed(x) }}{{ loop.index }}{% endfor %}", "True1False2True3"),
        (
            "{{ 'A-b'.lower().split('-') }}{{ ' x '.strip() }}{{ 'abc'.find('c') }}{{ 2.0.is_integer() }}",
            "['a', 'b']x2True",
        ),
        ("{{ {'b': 1, 'a': 2} | dictsort }}{{ {'a': 1}.items() | list }}", "[('a', 2), ('b', 1)][('a', 1)]"),
        ("{% autoescape true %}{{ '<' }}{{ '<' | safe ~ '>' }}{% endautoescape %}", "&lt;<&gt;"),
    ],
)
def test_what_templates_do_every_day_they_may_do(source: str, expected: str) -> None:
    assert render(source) == expected


def test_a_long_conversation_is_no_reason_to_refuse() -> None:
    add = "{% set n.t = n.t + m.content + '\\n' %}"
    source = "{% set n = namespace(t='') %}{% for m in messages %}" + add + "{% endfor %}{{ n.t }}"
    messages = [{"role": "user", "content": "word " * 40}] * 2000
    text = ChatTemplate(source, bos_token="", eos_token="").render(messages, now=now)
    assert len(text) == 2000 * 201
