import copy
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from neuron_lib.errors import TemplateFailed, cause_chain
from neuron_lib.text.chat_template import CHATML, MAX_SOURCE_CHARS, ChatTemplate

SAY_CONTENT = "{% for m in messages %}[{{ m['content'] }}]{% endfor %}"
HELLO: list[dict[str, Any]] = [{"role": "user", "content": "hello"}]


def now() -> datetime:
    return datetime(2026, 2, 3, 4, 5, tzinfo=UTC)


def template(source: str, *, max_output_chars: int = 10_000) -> ChatTemplate:
    return ChatTemplate(source, bos_token="<s>", eos_token="</s>", max_output_chars=max_output_chars)  # noqa: S106


def render(source: str, messages: list[dict[str, Any]] = HELLO, **options: Any) -> str:
    return template(source).render(messages, **{"now": now, **options})


def failure(source: str, messages: list[dict[str, Any]] = HELLO, **options: Any) -> str:
    with pytest.raises(TemplateFailed) as caught:
        render(source, messages, **options)
    assert caught.value.__cause__ is not None
    return cause_chain(caught.value)


def test_messages_special_tokens_and_the_generation_prompt_are_there() -> None:
    source = "{{ bos_token }}{{ messages[0].role }}:{{ messages[0].content }}{{ eos_token }}{{ add_generation_prompt }}"
    assert render(source) == "<s>user:hello</s>True"


def test_template_kwargs_override_defaults_and_add_names() -> None:
    source = "{{ add_generation_prompt }} {{ enable_thinking }} {{ bos_token }}"
    kwargs = {"add_generation_prompt": False, "enable_thinking": True, "bos_token": "B"}
    assert render(source, template_kwargs=kwargs) == "False True B"


def test_template_kwargs_cannot_replace_the_messages_or_the_tools() -> None:
    kwargs = {"messages": [], "tools": [1], "raise_exception": 1, "self": 1}
    assert render(SAY_CONTENT + "{{ tools }}", template_kwargs=kwargs) == "[hello]None"


def test_a_template_sees_tools_only_when_there_are_any() -> None:
    source = "{% if tools is not none %}{{ tools | length }}{% else %}none{% endif %}"
    assert [render(source, tools=[]), render(source, tools=[{"a": 1}])] == ["none", "1"]


@pytest.mark.parametrize("message", [{"role": "assistant"}, {"role": "assistant", "content": None}])
@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ messages[0].content }}", ""),
        ("{{ messages[0]['content'] + '.' }}", "."),
        ("{{ messages[0].content | trim }}", ""),
        ("{{ messages[0].content is none }}", "True"),
        ("{{ messages[0].content is string }}", "True"),
        ("{% if messages[0].content %}some{% else %}nothing{% endif %}", "nothing"),
    ],
)
def test_absent_and_null_content_is_empty_to_write_and_none_to_ask(
    message: dict[str, Any], source: str, expected: str
) -> None:
    assert render(source, [message]) == expected


def test_other_nulls_of_a_message_are_as_good_as_absent() -> None:
    source = "{{ 'tool_calls' in messages[0] }} {{ messages[0].name is defined }}"
    assert render(source, [{"role": "user", "content": "x", "tool_calls": None, "name": None}]) == "False False"


def test_real_none_is_still_none() -> None:
    assert render("{{ none is none }} {{ 'x' is none }} {{ '' is none }}") == "True False False"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('{"city": "Zürich"}', '{"city": "Zürich"}'),
        ({"city": "Zürich"}, '{"city": "Zürich"}'),
        ("not json", '"not json"'),
        ("[1]", '"[1]"'),
        ('{"a":' * 5000, json.dumps('{"a":' * 5000)),
    ],
)
def test_tool_call_arguments_reach_the_template_as_an_object(arguments: object, expected: str) -> None:
    call = {"id": "1", "function": {"name": "f", "arguments": arguments}}
    source = "{{ messages[0].tool_calls[0].function.arguments | tojson }}"
    assert template(source, max_output_chars=100_000).render([{"role": "a", "tool_calls": [call]}], now=now) == expected


@pytest.mark.parametrize("calls", [[], [3], [{}], [{"function": None}], [{"function": {"name": "f"}}], "text"])
def test_odd_tool_calls_are_left_alone(calls: object) -> None:
    message = {"role": "a", "content": "x", "tool_calls": calls}
    assert render("{{ messages[0].tool_calls == x }}", [message], template_kwargs={"x": calls}) == "True"


def test_rendering_leaves_the_messages_as_they_were() -> None:
    call = {"function": {"name": "f", "arguments": '{"a": 1}'}}
    messages = [{"role": "assistant", "content": None, "tool_calls": [call]}]
    before = copy.deepcopy(messages)
    render(SAY_CONTENT, messages)
    assert messages == before
    assert "SecurityError" in failure("{{ messages.append(1) }}", messages)
    assert messages == before


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ x | tojson }}", '{"a": "<é>&"}'),
        ("{{ x | tojson(indent=1) }}", '{\n "a": "<é>&"\n}'),
        ("{{ x | tojson(separators=(',', ':'), sort_keys=true) }}", '{"a":"<é>&"}'),
        ("{{ x | tojson(ensure_ascii=true) }}", '{"a": "<\\u00e9>&"}'),
    ],
)
def test_tojson_writes_json_without_html_escapes(source: str, expected: str) -> None:
    assert render(source, template_kwargs={"x": {"a": "<é>&"}}) == expected


def test_the_date_comes_from_the_injected_clock() -> None:
    assert render("{{ strftime_now('%d %b %Y') }}") == "03 Feb 2026"


def test_blocks_leave_no_white_space_and_loops_can_be_left() -> None:
    source = "{% for i in range(9) %}\n  {% if i == 1 %}{% continue %}{% endif %}\n  {% if i == 3 %}\n  {% break %}\n  {% endif %}\n{{ i }}\n{% endfor %}\n"  # noqa: E501
    assert render(source).split() == ["0", "2"]
    assert render("{% if true %}\n    {% set a = 1 %}\n{{ a }}{% endif %}") == "1"


def test_a_generation_block_is_its_content() -> None:
    assert render("a{% generation %}b{{ messages[0].role }}{% endgeneration %}c") == "abuserc"


def test_a_template_can_refuse_messages_and_say_why() -> None:
    assert "roles must alternate" in failure("{{ raise_exception('roles must alternate') }}")


@pytest.mark.parametrize(
    "source",
    [
        "{% if %}",
        "{{ unclosed",
        "{% endfor %}",
        "{% unknown_tag %}",
        "{{ x | no_such_filter }}",
        "{{ 'x' | format(1) }}",
        "{% if a %}" * 300 + "{% endif %}" * 300,
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    ],
)
def test_what_is_no_template_is_refused_when_it_is_made(source: str) -> None:
    with pytest.raises(TemplateFailed, match="cannot be compiled") as caught:
        template(source)
    assert caught.value.__cause__ is not None


def test_a_template_may_be_as_long_as_the_limit_and_no_longer() -> None:
    template("{#" + "x" * (MAX_SOURCE_CHARS - 4) + "#}")
    with pytest.raises(TemplateFailed, match=f"{MAX_SOURCE_CHARS} are allowed"):
        template("{#" + "x" * (MAX_SOURCE_CHARS - 3) + "#}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__ }}{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ raise_exception.__globals__ }}{{ raise_exception.__globals__['x'] }}",
        "{{ strftime_now.__closure__[0] }}",
        "{{ (''|attr('__class__')).__mro__ }}",
        "{% include 'other' %}",
        "{% import '/etc/passwd' as x %}",
        "{{ lipsum(n=9) }}",
        "{{ cycler('a') }}",
        "{{ joiner(',') }}",
        "{{ undefined_name.attribute }}",
        "{{ 1 / 0 }}",
        "{{ range(10 ** 9) }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ 2.0 ** 99999 }}",
        "{{ 'x' * 10000000 }}",
        "{{ 10000000 * 'x' }}",
        "{{ [1] * 10000000 }}",
        "{{ 9 ** (9 ** 9) }}",
        "{% set n = namespace(x=9 ** 1000) %}{{ n.x * n.x }}",
        "{{ '%9999d' % 1 }}",
        "{{ '%(a)9999d' % {'a': 1} }}",
        "{{ '%.*f' % (9999, 1.0) }}",
        "{{ '%.9999f' % 1.0 }}",
        "{{ 'x'.encode() % 1 }}",
        "{{ messages | tojson(indent=1000000) }}",
        "{{ missing | tojson }}",
        "{{ strftime_now(1) }}",
    ],
)
def test_a_hostile_or_broken_template_fails_with_its_cause(source: str) -> None:
    assert failure(source).startswith("the chat template cannot render these messages: ")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ 6 * 7 }}", "42"),
        ("{{ 2 ** 10 }}", "1024"),
        ("{{ 7 % 4 }}", "3"),
        ("{{ '%03d|%s' % (7, 'x') }}", "007|x"),
        ("{{ '=' * 5 }}", "====="),
        ("{{ 2 * 1.5 }}", "3.0"),
        ("{{ 'x' * -1 }}", ""),
    ],
)
def test_everyday_arithmetic_works(source: str, expected: str) -> None:
    assert render(source) == expected


def test_output_is_cut_off_while_it_grows() -> None:
    endless = template(
        "{% for i in range(99999) %}{% for j in range(99999) %}xxxxxxxxxx{{ j }}{% endfor %}{% endfor %}"
    )
    with pytest.raises(TemplateFailed) as caught:
        endless.render(HELLO, now=now)
    assert "more than 10000 characters" in cause_chain(caught.value)


def test_output_may_be_as_long_as_the_limit() -> None:
    assert template("{{ messages[0].content }}", max_output_chars=5).render(HELLO, now=now) == "hello"
    with pytest.raises(TemplateFailed):
        template("{{ messages[0].content }}", max_output_chars=4).render(HELLO, now=now)


def test_chatml_renders_text_parts_and_missing_content() -> None:
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "be kind"},
        {
            "role": "user",
            "content": [{"type": "text", "text": "a"}, {"type": "image_url"}, {"type": "text", "text": "b"}],
        },
        {"role": "assistant"},
    ]
    assert render(CHATML, messages) == (
        "<|im_start|>system\nbe kind<|im_end|>\n"
        "<|im_start|>user\nab<|im_end|>\n"
        "<|im_start|>assistant\n<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert render(CHATML, HELLO, template_kwargs={"add_generation_prompt": False}) == (
        "<|im_start|>user\nhello<|im_end|>\n"
    )
