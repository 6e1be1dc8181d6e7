"""Which tokens of a model are spelled in the text of its replies."""

from typing import cast

import msgspec

from neuron_lib.engine.build import show_markers
from neuron_lib.llama.vocab import Vocab
from neuron_lib.text.tag_splitter import Markers
from tests.fakes.fake_engine import FACTS


class Marks:
    """A vocabulary of which only single tokens matter."""

    def __init__(self, *texts: str) -> None:
        self.texts = texts
        self.shown: list[str] = []

    def single_token(self, text: str) -> int | None:
        return self.texts.index(text) if text in self.texts else None

    def show(self, token: int) -> None:
        self.shown.append(self.texts[token])


def test_the_markers_of_the_format_and_of_reasoning_are_shown_if_they_are_tokens() -> None:
    vocab = Marks("</s>", "[TOOL_CALLS]", "[ARGS]", "[INST]", "[THINK]", "[/THINK]", "{")
    facts = msgspec.structs.replace(FACTS, tool_format="mistral_args", reasoning=Markers("[THINK]", "[/THINK]"))
    show_markers(cast("Vocab", vocab), facts)
    assert sorted(vocab.shown) == ["[/THINK]", "[ARGS]", "[THINK]", "[TOOL_CALLS]"]
