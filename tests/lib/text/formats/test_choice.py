"""Which format a template asks for: known by how it writes a call, never by the name of a model."""

from pathlib import Path

import pytest

from neuron_lib.errors import LoadFailed
from neuron_lib.text.formats import FORMATS, choose_format, choose_reasoning, named_format
from neuron_lib.text.tag_splitter import Markers

SHIPPED = Path(__file__).parents[5] / "shared" / "templates"

JSON = """{%- if tools %}<tools>{{ tools | tojson }}</tools>
{{- '<tool_call>\\n{"name": <function-name>, "arguments": <args-json-object>}\\n</tool_call>' }}{% endif %}"""
BARE = JSON.replace("<tool_call>", "").replace("</tool_call>", "")
WHOLE_OBJECT = (
    "{{ tools }}{% for call in calls %}{{ '<tool_call>' + (call.function | tojson) + '</tool_call>' }}{% endfor %}"
)
UNKNOWN = "{% if tools %}{{ tools }}{{ 'CALL ' + name + ' WITH ' + key }}{% endif %}"


@pytest.mark.parametrize(
    ("template", "name"),
    [
        (JSON, "hermes"),
        (WHOLE_OBJECT, "hermes"),
        (BARE, "json"),
        (BARE.replace('{"name"', '[{"name"'), "json_list"),
        (BARE.replace("tools", "functions"), "generic"),
        ("{{ 'the tools' }}" + BARE.replace("tools", "functions"), "generic"),
        (UNKNOWN, "generic"),
        ("{{ messages }}", "generic"),
        ("", "generic"),
        (None, "generic"),
    ],
)
def test_a_template_asks_for_a_format_by_what_it_spells(template: str | None, name: str) -> None:
    assert choose_format(template).name == name


def test_a_template_that_shows_tools_and_no_call_is_told_by_the_tokens_of_the_vocabulary() -> None:
    assert choose_format("{{ tools }}", {"<|tool_call_start|>"}.__contains__).name == "lfm2"
    assert choose_format("{{ messages }}", {"<|tool_call_start|>"}.__contains__).name == "generic"


@pytest.mark.parametrize("piece", ["{{", "{% '", "'\\", '"', "<tool_call>", "<tool_call>|", "{{tools}}", "[f(a", "[{"])
def test_a_source_that_is_made_to_take_long_does_not(piece: str) -> None:
    hostile = "{{ 'x' }}<tool_call>" + piece * (200_000 // len(piece))
    assert choose_format(hostile).name in FORMATS  # squared, it would be hours


def test_reasoning_is_told_by_the_format_then_by_the_vocabulary_then_by_the_template() -> None:
    generic, nothing = FORMATS["generic"], frozenset[str]()
    think, thought = Markers("<think>", "</think>"), Markers("<thought>", "</thought>")
    assert choose_reasoning(FORMATS["command_r7b"], None, {think.open, think.close}.__contains__) == Markers(
        "<|START_THINKING|>", "<|END_THINKING|>"
    )
    assert choose_reasoning(generic, "</thought>", {think.open, think.close}.__contains__) == think
    assert choose_reasoning(generic, "</thought>", {think.open}.__contains__) == thought
    assert choose_reasoning(generic, "Here is my response:") == Markers(
        "Here is my thought process:", "Here is my response:"
    )
    assert choose_reasoning(generic, "{{ messages }}", nothing.__contains__) is None


@pytest.mark.skipif(not SHIPPED.is_dir(), reason="the templates of publishers are not here")
@pytest.mark.parametrize(
    ("name", "tool_format"),
    [
        ("Apertus-8B-Instruct", "apertus"),
        ("Apriel-1.6-15b-Thinker-fixed", "apriel"),
        ("ByteDance-Seed-OSS", "seed_oss"),
        ("CohereForAI-c4ai-command-r-plus-tool_use", "command_r_plus"),
        ("GLM-4.6", "glm45"),
        ("GLM-4.7-Flash", "glm47"),
        ("GigaChat3.1-10B-A1.8B", "gigachat3"),
        ("Kimi-K2-Instruct", "kimi_k2"),
        ("Kimi-K3", "kimi_k3"),
        ("LFM2-8B-A1B", "lfm2"),
        ("LFM2.5-Instruct", "lfm2"),
        ("MiniMax-M1", "minimax_m1"),
        ("MiniMax-M3", "minimax_m3"),
        ("Mistral-Small-3.2-24B-Instruct-2506", "mistral_ids"),
        ("NVIDIA-Nemotron-Nano-v2", "nemotron_v2"),
        ("NousResearch-Hermes-3-Llama-3.1-8B-tool_use", "hermes"),
        ("Qwen-Qwen2.5-7B-Instruct", "hermes"),
        ("Qwen-Qwen3-0.6B", "hermes"),
        ("Qwen3.5-4B", "qwen_xml"),
        ("Spark2.5", "glm47"),
        ("deepseek-ai-DeepSeek-R1-Distill-Llama-8B", "deepseek_r1"),
        ("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "deepseek_r1"),
        ("deepseek-ai-DeepSeek-V3.2", "deepseek_v32"),
        ("deepseek-ai-DeepSeek-V4", "deepseek_v4"),
        ("google-gemma-2-2b-it", "generic"),
        ("google-gemma-4-31B-it-interleaved", "gemma4"),
        ("ibm-granite-granite-3.3-2B-Instruct", "granite3"),
        ("ibm-granite-granite-4.1", "hermes"),
        ("llama-cpp-deepseek-r1", "deepseek_r1"),
        ("llama-cpp-rwkv-world", "generic"),
        ("meetkai-functionary-medium-v3.2", "functionary_3_2"),
        ("meta-llama-Llama-3.2-3B-Instruct", "llama_json"),
        ("microsoft-Phi-3.5-mini-instruct", "generic"),
        ("mistralai-Ministral-3-14B-Reasoning-2512", "mistral_args"),
        ("moonshotai-Kimi-K2", "kimi_k2"),
        ("openai-gpt-oss-120b", "harmony"),
        ("poolside-Laguna-S-2.1", "glm47"),
        ("poolside-Laguna-XS-2.1", "glm45"),
        ("tencent-Hy3", "hunyuan3"),
        ("unsloth-mistral-Devstral-Small-2507", "mistral_args"),
    ],
)
def test_the_templates_of_publishers_are_told_apart(name: str, tool_format: str) -> None:
    assert choose_format((SHIPPED / f"{name}.jinja").read_text(encoding="utf-8")).name == tool_format


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    assert named_format("hermes") is FORMATS["hermes"]
    with pytest.raises(LoadFailed, match=r"no tool format 'qwen'; there are apertus, .*, step3"):
        named_format("qwen")
