"""The families that write calls as in Python: `[f(a=1, b="x")]`."""

from typing import Final

from neuron_lib.text.formats.bare import BARE, FENCED, parse_value
from neuron_lib.text.formats.blocks import PairBlock
from neuron_lib.text.formats.marked import MarkedFormat, spells
from neuron_lib.text.formats.python_calls import ends_inside_string, parse_python_calls
from neuron_lib.text.formats.rules import python_rules
from neuron_lib.text.formats.spelling import python_speller
from neuron_lib.text.formats.tool_format import Trigger

__all__ = ("LFM2", "OLMO_3")

_LFM2_MARKS: Final = ("<|tool_call_start|>", "<|tool_list_start|>", "List of tools: [")

LFM2: Final = MarkedFormat(
    name="lfm2",
    blocks=(
        PairBlock(
            opens=("<|tool_call_start|>",),
            closes=("<|tool_call_end|>",),
            parse=parse_value,
            ends_inside=ends_inside_string,
        ),
        BARE,
        FENCED,
    ),
    recognises=lambda template: any(map(template.__contains__, _LFM2_MARKS)),
    own_triggers=(Trigger("<|tool_call_start|>"),),
    write_rules=python_rules(begin="<|tool_call_start|>[", end="]<|tool_call_end|>"),
    spell=python_speller(begin="<|tool_call_start|>[", between=", ", end="]<|tool_call_end|>"),
)
"""A list of calls, or JSON if the system prompt asks for JSON."""

OLMO_3: Final = MarkedFormat(
    name="olmo3",
    blocks=(
        PairBlock(
            opens=("<function_calls>",),
            closes=("</function_calls>",),
            parse=parse_python_calls,
            ends_inside=ends_inside_string,
        ),
    ),
    recognises=spells("<function_calls>", "<functions>"),
    write_rules=python_rules(begin="<function_calls>\n", between="\n", end="\n</function_calls>"),
)
"""One call on each line."""
