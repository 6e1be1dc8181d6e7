"""What a template shows is found out by rendering, and messages are put in the form that it shows."""

import copy
import logging
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from neuron_lib.text.chat_template import ChatTemplate
from neuron_lib.text.messages import fit_messages, has_text_arguments
from neuron_lib.text.template_facts import TemplateFacts, template_facts

REAL_TEMPLATES = Path(__file__).parents[4] / "shared" / "templates"


def each(body: str) -> str:
    """A template that writes `body` for each message `m`."""
    return "{% for m in messages %}" + body + "{% endfor %}"


CHATML = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
PARTS = "{% for m in messages %}<{{ m.role }}>{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}"
BOTH = (
    "{% for m in messages %}<{{ m.role }}>"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}"
    "{% elif p.type == 'thinking' %}({{ p.thinking }}){% endif %}{% endfor %}{% endif %}{% endfor %}"
)
CALLS = "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls %}CALL{% endfor %}{% endfor %}"


def compiled(source: str) -> ChatTemplate:
    return ChatTemplate(source, bos_token="<s>", eos_token="</s>")  # noqa: S106


def facts_of(source: str) -> TemplateFacts:
    return template_facts(compiled(source))


def shown(source: str, messages: list[dict[str, Any]]) -> str:
    template = compiled(source)
    facts = template_facts(template)
    fitted = fit_messages(messages, facts)
    return template.render(fitted, arguments=facts.arguments, now=lambda: datetime(2026, 1, 2, tzinfo=UTC))


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def text(*texts: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": each} for each in texts]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (CHATML, "<system>D<user>U"),
        (
            each("{% if m.role in ['system', 'user'] %}<{{ m.role }}>{{ m.content }}{% endif %}"),
            "<system>D<user>U",
        ),
        (
            each("{% if m.role == 'developer' %}[{{ m.content }}]{% else %}{{ m.content }}{% endif %}"),
            "[D]U",
        ),
        (
            each("{% if m.role == 'developer' %}{% else %}<{{ m.role }}>{{ m.content }}{% endif %}"),
            "<system>D<user>U",
        ),
        ("{{ 'developer' if x else '' }}" + CHATML, "<developer>D<user>U"),
    ],
)
def test_a_developer_is_the_system_unless_the_template_knows_developers(source: str, expected: str) -> None:
    assert shown(source, [{"role": "developer", "content": "D"}, user("U")]) == expected


def test_an_empty_list_of_tool_calls_is_no_key() -> None:
    source = each("{% if 'tool_calls' in m %}{{ m.tool_calls[0].function.name }}{% endif %}{{ m.content }}")
    assert shown(source, [user("a"), {"role": "assistant", "content": "b", "tool_calls": []}]) == "ab"


def calling(arguments: Any) -> dict[str, Any]:
    function = {"name": "f"} if arguments is ... else {"name": "f", "arguments": arguments}
    return {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": function}]}


AS_OBJECT = (
    "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls %}"
    "{% for k, v in c.function.arguments.items() %}{{ k }}={{ v }};{% endfor %}{% endfor %}{% endfor %}"
)
AS_TEXT = each("{{ m.content }}{% for c in m.tool_calls %}{{ '!' + c.function.arguments }}{% endfor %}")
AS_TILDE = AS_TEXT.replace("'!' +", "'!' ~")
AS_JSON = AS_TEXT.replace("'!' + c.function.arguments", "c.function.arguments | tojson")


@pytest.mark.parametrize("arguments", ["", " ", "\n", None, "null", " null ", {}, "{}", ...])
@pytest.mark.parametrize(
    ("source", "expected"), [(AS_OBJECT, "a"), (AS_TEXT, "a!{}"), (AS_TILDE, "a!{}"), (AS_JSON, "a{}")]
)
def test_no_arguments_in_any_spelling_are_an_empty_object(source: str, arguments: Any, expected: str) -> None:
    assert shown(source, [user("a"), calling(arguments)]) == expected


@pytest.mark.parametrize(
    ("source", "arguments", "expected"),
    [
        (AS_OBJECT, '{"x": 1}', "ax=1;"),
        (AS_OBJECT, {"x": 1}, "ax=1;"),
        (AS_TEXT, '{"x":1,  "y": 2}', 'a!{"x":1,  "y": 2}'),
        (AS_TEXT, {"x": "é"}, 'a!{"x": "é"}'),
        (AS_TILDE, '{"x": 1}', 'a!{"x": 1}'),
        (AS_JSON, '{"x":1}', 'a{"x": 1}'),
        (AS_JSON, "no json", 'a"no json"'),
    ],
)
def test_arguments_reach_a_template_in_the_form_that_it_writes(source: str, arguments: Any, expected: str) -> None:
    assert shown(source, [user("a"), calling(arguments)]) == expected


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (user("x"), False),
        (calling({}), False),
        (calling("{}"), True),
        (calling(...), False),
        ({"tool_calls": [3]}, False),
    ],
)
def test_text_arguments_are_noticed(message: dict[str, Any], expected: bool) -> None:  # noqa: FBT001
    assert has_text_arguments([message]) is expected


@pytest.mark.parametrize(
    ("source", "content", "expected"),
    [
        (CHATML, text("one", "two"), "<user>onetwo"),
        (PARTS, text("one", "two"), "<user>onetwo"),
        (BOTH, text("one", "two"), "<user>onetwo"),
        (CHATML, "one", "<user>one"),
        (PARTS, "one", "<user>one"),
        (BOTH, "one", "<user>one"),
        (CHATML, [], "<user>"),
        (PARTS, [], "<user>"),
        (BOTH, ["one", *text("two")], "<user>onetwo"),
        (CHATML, [{"type": "document", "text": "one"}, *text("two")], "<user>onetwo"),
        (BOTH, [{"type": "document", "text": "one"}, *text("two")], "<user>onetwo"),
        (CHATML, [{"type": "refusal", "refusal": "no"}], "<user>no"),
        (CHATML, [{"type": "thinking", "thinking": "hm"}, *text("two")], "<user>two"),
        (BOTH, [{"type": "thinking", "thinking": "hm"}, *text("two")], "<user>(hm)two"),
        (CHATML, [{"type": "input_audio", "input_audio": {}}, 7, None, {"text": 3}, *text("two")], "<user>two"),
    ],
)
def test_content_reaches_a_template_as_it_shows_it(source: str, content: Any, expected: str) -> None:
    assert shown(source, [user(content)]) == expected


def test_each_role_has_the_form_that_the_template_shows_of_it() -> None:
    source = (
        "{% for m in messages %}{% if m.role == 'user' %}{% for p in m.content %}{{ p.text }}{% endfor %}"
        "{% else %}{{ m.role }}:{{ m.content + '.' }}{% endif %}{% endfor %}"
    )
    messages = [
        {"role": "system", "content": text("a", "b")},
        user("c"),
        {"role": "assistant", "content": text("d")},
        user(text("e")),
    ]
    assert shown(source, messages) == "system:ab.cassistant:d.e"


def test_what_is_left_out_is_logged_by_its_type_alone(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        shown(CHATML, [user([{"type": "video", "video": "secret"}, *text("x")])])
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.DEBUG]
    assert "video" in line
    assert "secret" not in line


GEMMA = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate') }}"
    "{% endif %}<{{ m.role }}>{{ m.content }}{% endfor %}"
)


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([{"role": "system", "content": "S"}, user("U")], "<user>S\nU"),
        ([{"role": "developer", "content": "S"}, user("U")], "<user>S\nU"),
        ([{"role": "system", "content": "S"}, {"role": "system", "content": "T"}, user("U")], "<user>S\nT\nU"),
        ([{"role": "system", "content": "S"}, user(text("a", "b"))], "<user>S\nab"),
        (
            [user("U"), {"role": "assistant", "content": "A"}, {"role": "system", "content": "S"}, user("V")],
            "<user>U<assistant>A<user>S\nV",
        ),
        ([{"role": "system", "content": "S"}], "<user>S"),
        ([user("U"), {"role": "system", "content": "S"}], "<user>U\nS"),
        ([user(text("a", "b")), {"role": "system", "content": text("S", "T")}], "<user>ab\nST"),
    ],
)
def test_a_system_text_that_a_template_refuses_goes_to_the_next_user(
    messages: list[dict[str, Any]], expected: str
) -> None:
    assert shown(GEMMA, messages) == expected
    assert (
        shown(GEMMA.replace("<{{ m.role }}>", "{% if m.role != 'system' %}<{{ m.role }}>{% endif %}"), messages)
        == expected
    )


SYSTEM = {"role": "system", "content": "S"}
FIRST_ONLY = (
    "{% for m in messages %}{% if m.role == 'system' %}{% if loop.first %}[{{ m.content }}]{% else %}LATER{% endif %}"
    "{% else %}<{{ m.role }}>{{ m.content }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize("later", ["", "{{ raise_exception('System message must be at the beginning.') }}"])
@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([SYSTEM, user("U")], "[S]<user>U"),
        ([SYSTEM, {"role": "developer", "content": text("D", "E")}, user("U")], "[S\nDE]<user>U"),
        ([user("U"), {"role": "assistant", "content": "A"}, SYSTEM, user("V")], "<user>U<assistant>A<user>S\nV"),
        ([user("U"), SYSTEM], "<user>U\nS"),
    ],
)
def test_a_second_system_text_that_a_template_drops_or_refuses_goes_where_it_is_shown(
    messages: list[dict[str, Any]], expected: str, later: str
) -> None:
    assert shown(FIRST_ONLY.replace("LATER", later), messages) == expected


def test_system_messages_that_a_template_shows_stay_where_they_are() -> None:
    messages = [SYSTEM, {"role": "system", "content": "T"}, user("U"), SYSTEM]
    assert shown(CHATML, messages) == "<system>S<system>T<user>U<system>S"


def test_of_two_system_texts_none_takes_the_place_of_the_other() -> None:
    source = (
        "{% set n = namespace(s='') %}{% for m in messages %}{% if m.role == 'system' %}{% set n.s = m.content %}"
        "{% endif %}{% endfor %}[{{ n.s }}]" + each("{% if m.role != 'system' %}{{ m.content }}{% endif %}")
    )
    assert shown(source, [SYSTEM, {"role": "system", "content": "T"}, user("U"), SYSTEM, user("V")]) == "[S\nT]US\nV"


def test_a_developer_whom_a_template_knows_only_at_the_head_is_heard_beside_a_system_message() -> None:
    source = "[{{ messages[0].content if messages[0].role in ['system', 'developer'] }}]" + each(
        "{% if m.role not in ['system', 'developer'] %}{{ m.content }}{% endif %}"
    )
    developer = {"role": "developer", "content": "D"}
    assert shown(source, [developer, user("U")]) == "[D]U"
    assert shown(source, [SYSTEM, developer, user("U"), developer, user("V")]) == "[S\nD]UD\nV"


def test_a_system_text_goes_to_the_next_user_as_a_part_where_the_template_wants_parts() -> None:
    source = PARTS.replace("<{{ m.role }}>", "{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}")
    assert shown(source, [{"role": "system", "content": "S"}, user("U")]) == "S\nU"


def test_a_system_text_behind_the_last_user_is_a_part_where_the_template_wants_parts() -> None:
    source = PARTS.replace("<{{ m.role }}>", "{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}|")
    assert shown(source, [user("U"), SYSTEM]) == "|U\nS"
    assert shown(source, [SYSTEM]) == "|S"


def test_two_system_texts_are_a_part_where_the_template_wants_parts() -> None:
    source = PARTS.replace(
        "<{{ m.role }}>", "{% if m.role == 'system' and not loop.first %}{{ raise_exception('no') }}{% endif %}|"
    )
    assert shown(source, [SYSTEM, SYSTEM, user("U")]) == "|S\nS|U"


RESULTS = each("{% if m.role in ['user', 'assistant', 'tool'] %}<{{ m.role }}>{{ m.content }}{% endif %}") + each(
    "{% for c in m.tool_calls %}({{ c.function.name }}{{ c.function.arguments }}){% endfor %}"
)


def test_the_function_calls_of_older_clients_and_their_results_are_those_of_tools() -> None:
    called = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"a":1}'}}
    result = {"role": "function", "name": "f", "content": "3"}
    assert shown(RESULTS, [user("U"), called, result]) == '<user>U<assistant><tool>3(f{"a":1})'


def test_a_template_that_reads_function_calls_gets_them() -> None:
    source = RESULTS + each("{% if m.function_call %}[{{ m.function_call.name }}]{% endif %}")
    called = {"role": "assistant", "content": "A", "function_call": {"name": "f", "arguments": "{}"}}
    assert shown(source, [user("U"), called]) == "<user>U<assistant>A[f]"


def test_reasoning_beside_a_text_and_calls_is_joined_with_the_text_where_the_template_refuses_both() -> None:
    source = each(
        "{% if m.tool_calls and m.content and m.thinking %}{{ raise_exception('one or the other') }}{% endif %}"
        "{% if m.thinking %}({{ m.thinking }}){% endif %}{{ m.content }}"
    )
    turn = {**calling("{}"), "content": "text", "reasoning_content": "why"}
    assert shown(source, [user("a"), turn]) == "a(why\ntext)"
    assert shown(source, [user("a"), {**turn, "content": text("te", "xt")}]) == "a(why\ntext)"
    assert shown(source, [user("a"), {**turn, "tool_calls": []}]) == "a(why)text"


def test_reasoning_is_a_part_where_the_template_reads_it_as_one() -> None:
    turn = {"role": "assistant", "content": "b", "reasoning_content": "why"}
    assert shown(BOTH, [user("a"), turn]) == "<user>a<assistant>(why)b"
    assert shown(BOTH, [user("a"), {**turn, "content": None}]) == "<user>a<assistant>(why)"
    assert shown(BOTH, [user("a"), {**turn, "content": text("b", "c")}]) == "<user>a<assistant>(why)bc"


def test_reasoning_in_parts_reaches_a_template_that_reads_it_under_a_name() -> None:
    source = each("{% if m.reasoning_content %}({{ m.reasoning_content }}){% endif %}{{ m.content }}")
    thoughts = [{"type": "thinking", "thinking": thought, "signature": "x"} for thought in ("why", "so")]
    turn = {"role": "assistant", "content": [*thoughts, *text("b")]}
    assert shown(source, [user("a"), turn]) == "a(why\nso)b"
    assert shown(source, [user("a"), {**turn, "reasoning_content": "because"}]) == "a(because)b"
    assert shown(BOTH, [user("a"), turn]) == "<user>a<assistant>(why)(so)b"
    assert shown(BOTH, [user("a"), {**turn, "reasoning_content": "why\nso"}]) == "<user>a<assistant>(why)(so)b"


def test_a_part_of_thoughts_is_no_part_for_a_template_that_knows_thinking_only_as_a_name() -> None:
    source = each(
        "{% if m.thinking %}({{ m.thinking }}){% endif %}{% if m.content is string %}{{ m.content }}{% else %}"
        "{% for p in m.content %}{{ p.text if p.type == 'text' else raise_exception('a part') }}{% endfor %}{% endif %}"
    )
    turn = {"role": "assistant", "content": [{"type": "thinking", "thinking": "why"}, *text("b", "c")]}
    assert shown(source, [user("a"), turn]) == "a(why)bc"


@pytest.mark.parametrize("sent", ["reasoning_content", "reasoning", "thinking"])
@pytest.mark.parametrize("read", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_of_earlier_turns_has_the_name_that_the_template_reads(sent: str, read: str) -> None:
    source = "{% for m in messages %}{% if m.READ %}({{ m.READ }}){% endif %}{{ m.content }}{% endfor %}".replace(
        "READ", read
    )
    assert shown(source, [user("a"), {"role": "assistant", "content": "b", sent: "why"}, user("c")]) == "a(why)bc"


def test_reasoning_that_is_shown_beside_tool_calls_only_reaches_them() -> None:
    source = (
        "{% for m in messages %}{% if m.role == 'assistant' and 'thinking' in m and m.tool_calls %}({{ m.thinking }})"
        "{% endif %}{{ m.content }}{% endfor %}{{ x.reasoning_content }}"
    )
    turn = {**calling("{}"), "reasoning_content": "why"}
    assert shown(source.replace("{{ x.reasoning_content }}", ""), [user("a"), turn]) == "a(why)"


def test_a_template_that_reads_no_reasoning_gets_no_other_key() -> None:
    message = {"role": "assistant", "content": "b", "reasoning_content": "why"}
    assert fit_messages([message], facts_of(CHATML)) == [message]


def test_the_messages_given_stay_as_they_are() -> None:
    messages = [
        {"role": "developer", "content": text("a")},
        user("b"),
        calling(""),
        {"role": "assistant", "tool_calls": []},
    ]
    before = copy.deepcopy(messages)
    fit_messages(messages, facts_of(GEMMA))
    assert messages == before


@pytest.mark.parametrize(
    ("source", "is_shown"),
    [
        (CHATML, False),
        ("{{ tools | tojson if tools else '' }}" + CHATML, True),
        ("{% if messages[0].role == 'system' %}{{ tools | tojson }}{% endif %}" + CHATML, True),
        ("{% if tools %}You have tools.{% endif %}" + CHATML, False),
        ("{% if tools %}{{ raise_exception('no tools') }}{% endif %}" + CHATML, False),
    ],
)
def test_whether_tools_are_shown_is_seen(source: str, is_shown: bool) -> None:  # noqa: FBT001
    assert facts_of(source).shows_tools is is_shown


@pytest.mark.parametrize("source", ["", "{{ 'hello' }}", "{{ raise_exception('no') }}", "{{ messages[9].content.x }}"])
def test_of_a_template_that_shows_nothing_nothing_is_known_and_messages_stay(source: str) -> None:
    facts = facts_of(source)
    messages = [{"role": "system", "content": "S"}, user("U")]
    assert (facts.takes_system, facts.shows_tools, facts.arguments) == (True, True, "object")
    assert fit_messages(messages, facts) == messages


def test_of_what_a_template_searches_for_only_the_marks_of_reasoning_count() -> None:
    source = (
        CHATML + "{% if '</think>' in messages[0].content or '<tool_response>' in messages[0].content %}{% endif %}"
    )
    assert facts_of(source).searched == ("</think>",)


FACTS_OF_REAL_TEMPLATES: dict[str, dict[str, Any]] = {
    "Qwen-Qwen2.5-7B-Instruct": {"knows_developer": False, "takes_system": True, "shows_tools": True},
    "Qwen-Qwen3-0.6B": {"reasoning_key": "reasoning_content", "part_roles": frozenset()},
    "Qwen3.5-4B": {"part_roles": frozenset({"system", "user", "assistant", "tool"})},
    "openai-gpt-oss-120b": {"knows_developer": True, "reasoning_key": "thinking"},
    "google-gemma-2-2b-it": {"takes_system": False, "shows_tools": False},
    "google-gemma-4-31B-it-interleaved": {"knows_developer": True, "reasoning_key": "reasoning_content"},
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": {"arguments": "text", "shows_tools": False},
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": {"arguments": "object", "shows_tools": False},
    "deepseek-ai-DeepSeek-V3.2": {"knows_developer": False, "reasoning_key": "reasoning_content"},
    "meetkai-functionary-medium-v3.2": {"arguments": "text", "shows_tools": True},
    "microsoft-Phi-3.5-mini-instruct": {"shows_tools": False},
    "Mistral-Small-3.2-24B-Instruct-2506": {"part_roles": frozenset({"user", "assistant"}), "takes_system": True},
    "unsloth-mistral-Devstral-Small-2507": {"part_roles": frozenset({"user"})},
    "meta-llama-Llama-3.2-3B-Instruct": {"shows_tools": True, "knows_developer": False, "takes_later_system": True},
}


@pytest.mark.skipif(not REAL_TEMPLATES.is_dir(), reason=f"no templates of real models in {REAL_TEMPLATES}")
@pytest.mark.parametrize("name", FACTS_OF_REAL_TEMPLATES)
def test_the_facts_of_real_templates_are_found(name: str) -> None:
    facts = facts_of((REAL_TEMPLATES / f"{name}.jinja").read_text())
    expected = FACTS_OF_REAL_TEMPLATES[name]
    assert {fact: getattr(facts, fact) for fact in expected} == expected


@pytest.mark.skipif(not REAL_TEMPLATES.is_dir(), reason=f"no templates of real models in {REAL_TEMPLATES}")
@pytest.mark.parametrize(
    "path",
    [path for path in sorted(REAL_TEMPLATES.glob("*.jinja")) if not path.stem.endswith("tool_use")],
    ids=lambda path: path.stem,
)
def test_nothing_of_a_chat_vanishes_in_a_real_template(path: Path) -> None:
    template = compiled(path.read_text())
    facts = template_facts(template)

    def prompt(*messages: dict[str, Any]) -> str:
        fitted = fit_messages(messages, facts)
        return template.render(fitted, arguments=facts.arguments, now=lambda: datetime(2026, 1, 2, tzinfo=UTC))

    answer = {"role": "assistant", "content": "Ho"}
    for role in ("system", "developer"):
        assert "Zork" in prompt({"role": role, "content": "Zork"}, user("Hi"))
        assert "Zork" in prompt({"role": role, "content": text("Here:", "Zork")}, user("Hi"))
    both = prompt({"role": "system", "content": "Zork"}, {"role": "developer", "content": "Quux"}, user("Hi"))
    assert "Zork" in both
    assert "Quux" in both
    assert "Zork" in prompt(user("Hi"), answer, {"role": "system", "content": "Zork"}, user("Ha"))
    assert "Zork" in prompt(user(text("Here:", "Zork")), answer, user("Hi"))
    assert "Zork" in prompt(user("Hi"), {**answer, "content": text("Here:", "Zork"), "tool_calls": []}, user("Ha"))
    assert "Zork" in prompt(user("Hi"), {"role": "system", "content": "Zork"})
    if facts.shows_results:
        call = {"id": "zq1234567", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        asked = {**answer, "reasoning_content": "Hm", "tool_calls": [call]}
        result = {"role": "tool", "tool_call_id": "zq1234567", "content": "Zork"}
        assert "Zork" in prompt(user("Hi"), asked, result)


def test_ids_that_a_template_refuses_become_ids_of_nine_characters_and_stay_in_pairs() -> None:
    ids = ("call_1", "abcdefgh9")
    calls = [{"id": each, "type": "function", "function": {"name": "f", "arguments": {}}} for each in ids]
    messages: list[dict[str, Any]] = [
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "call_1", "content": "1"},
    ]
    fitted = fit_messages(messages, TemplateFacts(wants_short_ids=True))
    first, second = (call["id"] for call in fitted[0]["tool_calls"])
    assert re.fullmatch("[0-9a-f]{9}", first)
    assert second == "abcdefgh9"
    assert fitted[1]["tool_call_id"] == first
    assert fit_messages(messages, TemplateFacts())[1]["tool_call_id"] == "call_1"


SHORT_IDS = """{% for m in messages %}{% for call in m.tool_calls or [] %}{% if call.id | length != 9 %}
{{ raise_exception('an id of length 9') }}{% endif %}{{ call.function.name }}{{ call.function.arguments | tojson }}
{% endfor %}{{ m.content or '' }}{% endfor %}"""


@pytest.mark.parametrize(("template", "is_wanted"), [(SHORT_IDS, True), (SHORT_IDS.replace("!= 9", "== 0"), False)])
def test_a_template_that_refuses_long_ids_is_known(template: str, *, is_wanted: bool) -> None:
    facts = template_facts(ChatTemplate(template, bos_token="", eos_token=""))
    assert facts.wants_short_ids is is_wanted
