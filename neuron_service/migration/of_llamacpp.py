"""What becomes of settings of llama.cpp that several servers pass on to it."""

from typing import Final

from neuron_service.migration.draft import LLAMACPP, Draft

__all__ = ("note_endless_reply", "set_layers")

_ALL_LAYERS: Final = 99
"""From this number on people mean all layers."""


def set_layers(draft: Draft, what: str, value: str, model_id: str | None) -> None:
    """How many layers are on GPUs. 0 is not meant here, because a model without GPUs has no `devices`."""
    if value in {"auto", "all", "-1", "-2"} or (value.isdecimal() and int(value[:6]) >= _ALL_LAYERS):
        draft.note("needless", what, "all layers are on the GPU where there is one")
    else:
        draft.key(f"{LLAMACPP}.gpu_layers", value, what=what, model_id=model_id)


def note_endless_reply(draft: Draft, what: str) -> None:
    """A reply without a limit was asked for."""
    text = "a reply whose request gives no `max_tokens` ends after `sampling.max_tokens`, 8192 by default"
    draft.note("lost", what, text)
