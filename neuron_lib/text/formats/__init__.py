"""How families of models write tool calls and reasoning, and how a reply is read. One module for each family. Pure."""

from neuron_lib.text.formats.choice import FORMATS, choose_format, choose_reasoning, named_format
from neuron_lib.text.formats.hermes import GENERIC
from neuron_lib.text.formats.marked import plain_reader
from neuron_lib.text.formats.tool_format import OutputEvent, Reader, ToolFormat, Trigger

__all__ = (
    "FORMATS",
    "GENERIC",
    "OutputEvent",
    "Reader",
    "ToolFormat",
    "Trigger",
    "choose_format",
    "choose_reasoning",
    "named_format",
    "plain_reader",
)
