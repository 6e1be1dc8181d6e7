"""The marker pairs models put around their reasoning, and whether a prompt leaves such a block open."""

from typing import Final

from neuron_lib.text.tag_splitter import Markers

__all__ = ("REASONING_MARKERS", "prompt_opens_reasoning")

REASONING_MARKERS: Final = (
    Markers("<think>", "</think>"),
    Markers("[THINK]", "[/THINK]"),
    Markers("<thought>", "</thought>"),
    Markers("<reasoning>", "</reasoning>"),
)
"""In the order to try (wire contract §1.8): a model has the first pair whose halves are both single tokens."""


def prompt_opens_reasoning(prompt: str, markers: Markers) -> bool:
    """Whether the rendered `prompt` makes the reply start inside a reasoning block.

    Only a marker at the very end counts, white space aside. Searching further back would let a user who merely
    writes about the marker turn the whole answer into reasoning.
    """
    return prompt.rstrip().endswith(markers.open)
