"""The families that write JSON between markers of their own."""

from typing import Final

from neuron_lib.text.formats.blocks import PairBlock
from neuron_lib.text.formats.json_calls import ends_inside_value, json_pair, parse_keyed_calls, parse_tool_calls
from neuron_lib.text.formats.marked import MarkedFormat, spells
from neuron_lib.text.formats.rules import json_object_rules, keyed_rules
from neuron_lib.text.tag_splitter import Markers

__all__ = (
    "APERTUS",
    "APRIEL",
    "COMMAND_R7B",
    "HUNYUAN",
    "INTERNLM2",
    "JAMBA",
    "MINIMAX_M1",
    "NEMOTRON_V2",
)

_TOOL_CALLS: Final = json_pair("<tool_calls>", closes=("</tool_calls>",))

JAMBA: Final = MarkedFormat(
    name="jamba",
    blocks=(_TOOL_CALLS,),
    recognises=spells("<tool_calls>", "</tool_calls>"),
    write_rules=json_object_rules(begin="<tool_calls>[", between=", ", end="]</tool_calls>"),
)
"""A list between `<tool_calls>` and `</tool_calls>`."""

MINIMAX_M1: Final = MarkedFormat(
    name="minimax_m1",
    blocks=(_TOOL_CALLS,),
    calls_in_reasoning=False,
    recognises=lambda template: "<tool_calls>\\n{" in template or "<tool_calls>\n{" in template,
    write_rules=json_object_rules(begin="<tool_calls>\n", after="\n", end="</tool_calls>"),
)
"""One object on each line between the same markers."""

HUNYUAN: Final = MarkedFormat(
    name="hunyuan",
    blocks=(_TOOL_CALLS,),
    calls_in_reasoning=False,
    answer=Markers("<answer>", "</answer>"),
    recognises=spells("<tool_calls>", "<answer>"),
    write_rules=JAMBA.write_rules,
)
"""As Jamba's. An answer behind reasoning stands between `<answer>` and `</answer>`."""

APRIEL: Final = MarkedFormat(
    name="apriel",
    blocks=(_TOOL_CALLS,),
    reasoning=Markers("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]"),
    dropped=("[END FINAL RESPONSE]",),
    recognises=spells("[BEGIN FINAL RESPONSE]"),
    write_rules=JAMBA.write_rules,
)
"""As Jamba's. The prompt ends with the words that open the reasoning."""

NEMOTRON_V2: Final = MarkedFormat(
    name="nemotron_v2",
    blocks=(json_pair("<TOOLCALL>", closes=("</TOOLCALL>",)),),
    recognises=spells("<TOOLCALL>"),
    write_rules=json_object_rules(begin="<TOOLCALL>[", between=", ", end="]</TOOLCALL>"),
)

INTERNLM2: Final = MarkedFormat(
    name="internlm2",
    blocks=(
        PairBlock(
            opens=("<|action_start|>",),
            closes=("<|action_end|>",),
            parse=lambda body, tools: parse_tool_calls(body.strip().removeprefix("<|plugin|>"), tools),
            ends_inside=lambda body: ends_inside_value(body.strip().removeprefix("<|plugin|>")),
        ),
    ),
    more_shown=("<|plugin|>",),
    recognises=spells("<|action_start|>"),
    write_rules=json_object_rules(
        before="<|action_start|><|plugin|>\n", after="<|action_end|>", arguments_key="parameters"
    ),
)
"""`<|plugin|>` stands before each object."""

COMMAND_R7B: Final = MarkedFormat(
    name="command_r7b",
    blocks=(json_pair("<|START_ACTION|>", closes=("<|END_ACTION|>",)),),
    reasoning=Markers("<|START_THINKING|>", "<|END_THINKING|>"),
    dropped=("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"),
    recognises=spells("<|START_ACTION|>"),
    write_rules=json_object_rules(
        begin="<|START_ACTION|>[\n    ",
        between=",\n    ",
        end="\n]<|END_ACTION|>",
        name_key="tool_name",
        arguments_key="parameters",
        numbered_key="tool_call_id",
    ),
)
"""Cohere's Command R7B and Command A, and Cohere 2 MoE. An answer stands between markers too."""

APERTUS: Final = MarkedFormat(
    name="apertus",
    blocks=(
        PairBlock(
            opens=("<|tools_prefix|>",),
            closes=("<|tools_suffix|>",),
            parse=parse_keyed_calls,
            ends_inside=ends_inside_value,
        ),
    ),
    reasoning=Markers("<|inner_prefix|>", "<|inner_suffix|>"),
    recognises=spells("<|tools_prefix|>"),
    write_rules=keyed_rules(begin="<|tools_prefix|>[", between=", ", end="]<|tools_suffix|>"),
)
"""The name of the function is the only key of an object, the arguments are the value."""
