"""The pairs of markers around reasoning, and whether a prompt leaves a block of reasoning open. Pure."""

from typing import Final

from neuron_lib.text.tag_splitter import Markers

__all__ = ("REASONING_MARKERS", "prompt_opens_reasoning")

REASONING_MARKERS: Final = (
    Markers("<think>", "</think>"),
    Markers("[THINK]", "[/THINK]"),
    Markers("<thought>", "</thought>"),
    Markers("<reasoning>", "</reasoning>"),
)
"""In the order in which they are tried. A model has the first pair of which both halves are single tokens of its
vocabulary. The gateway's clients rely on these pairs (`docs/reference/wire-contract.md#reasoning-and-tool-calls`).
"""


def prompt_opens_reasoning(prompt: str, markers: Markers) -> bool:
    """Whether the rendered `prompt` makes the reply start inside a reasoning block.

    Only a marker at the very end counts, without white space behind it. If the whole prompt were searched, a user who
    writes about the marker would turn the whole answer into reasoning.
    """
    return prompt.rstrip().endswith(markers.open)
