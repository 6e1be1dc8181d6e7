"""Which templates ask for calls that are read: known by how they write a call, never by the name of a model."""

from pathlib import Path

import pytest

from neuron_lib.text.tag_splitter import Markers
from neuron_lib.text.tool_calls import TOOL_MARKERS
from neuron_lib.text.tool_format import asks_for_known_calls

CALL = TOOL_MARKERS[0]
SHIPPED = Path(__file__).parents[4] / "shared" / "templates"

JSON = """{%- if tools %}<tools>{{ tools | tojson }}</tools>
{{- '<tool_call>\\n{"name": <function-name>, "arguments": <args-json-object>}\\n</tool_call>' }}{% endif %}"""
TAGGED = "{% for tool in tools %}{{ tool }}{% endfor %}<tool_call>\n<function=name>\n<parameter=key>\n</tool_call>"
WHOLE_OBJECT = (
    "{{ tools }}{% for call in calls %}{{ '<tool_call>' + (call.function | tojson) + '</tool_call>' }}{% endfor %}"
)
ARGUMENT_KEYS = "{% if tools %}{{ tools }}{{ '<tool_call>' + name }}<arg_key>{{ key }}</arg_key></tool_call>{% endif %}"


@pytest.mark.parametrize("template", [JSON, TAGGED, WHOLE_OBJECT])
def test_a_template_that_shows_tools_and_a_form_that_is_read_asks_for_known_calls(template: str) -> None:
    assert asks_for_known_calls(template, CALL)


@pytest.mark.parametrize(
    "template",
    [
        ARGUMENT_KEYS,
        JSON.replace("tools", "functions"),
        JSON.replace("{%- if tools %}", "{%- if message.tools %}").replace("{{ tools | tojson }}", ""),
        "{{ 'the tools' }}" + JSON.replace("tools", "functions"),
        JSON.replace("<tool_call>", "[TOOL_CALL]"),
        JSON.replace('"arguments"', '"parameters"'),
        "{{ messages }}",
        "",
    ],
    ids=[
        "other form",
        "no tools",
        "tools of a message",
        "only the word",
        "other markers",
        "other keys",
        "plain",
        "empty",
    ],
)
def test_every_other_template_does_not(template: str) -> None:
    assert not asks_for_known_calls(template, CALL)


def test_a_model_without_template_or_without_markers_is_asked_for_no_calls() -> None:
    assert not asks_for_known_calls(None, CALL)
    assert not asks_for_known_calls(JSON, None)
    assert not asks_for_known_calls(JSON, Markers("<call>", "</call>"))


@pytest.mark.parametrize("piece", ["{{", "{% '", "'\\", '"', "<tool_call>", "<tool_call>|", "{{tools}}"])
def test_a_source_that_is_made_to_take_long_does_not(piece: str) -> None:
    hostile = "{{ 'x' }}<tool_call>" + piece * (200_000 // len(piece))
    assert isinstance(asks_for_known_calls(hostile, CALL), bool)  # squared, it would be hours


@pytest.mark.skipif(not SHIPPED.is_dir(), reason="the templates of publishers are not here")
@pytest.mark.parametrize(
    ("name", "is_known"),
    [
        ("Qwen-Qwen2.5-7B-Instruct", True),
        ("Qwen-Qwen3-0.6B", True),
        ("Qwen3.5-4B", True),
        ("NousResearch-Hermes-3-Llama-3.1-8B-tool_use", True),
        ("ibm-granite-granite-4.1", True),
        ("GLM-4.6", False),
        ("GLM-4.7-Flash", False),
        ("Spark2.5", False),
        ("poolside-Laguna-XS-2.1", False),
        ("MiniMax-M3", False),
        ("deepseek-ai-DeepSeek-V3.2", False),
        ("meta-llama-Llama-3.2-3B-Instruct", False),
        ("google-gemma-2-2b-it", False),
    ],
)
def test_the_templates_of_publishers_are_told_apart(name: str, *, is_known: bool) -> None:
    assert asks_for_known_calls((SHIPPED / f"{name}.jinja").read_text(encoding="utf-8"), CALL) is is_known
