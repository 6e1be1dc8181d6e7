"""How the configuration loads a model that a person names. Pure."""

from neuron_lib.config import Config
from neuron_lib.process.entry import ProcessEntry
from neuron_lib.types import ModelSpec, public_id

__all__ = ("configured_spec",)


def configured_spec(config: Config, model_id: str) -> ModelSpec:
    """The spec of the model's `[[default_models]]` entry, else one with what its `[[models]]` entry says.

    Without a harness in either, the only one of the host counts, or the process that has settings for this very model.
    The spec has no harness where the files of the model decide.
    """
    id_ = public_id(model_id)
    for spec in config.default_models:
        if public_id(spec.model_id) == id_:
            return spec
    entry = next((each for each in config.models if each.id == id_), None)
    names = [each.name for each in config.harnesses]
    own = (each.name for each in config.harnesses if isinstance(each, ProcessEntry) and id_ in each.models)
    return ModelSpec(
        model_id=model_id,
        harness=(entry and entry.harness) or (names[0] if len(names) == 1 else next(own, None)),
        devices=None if entry is None else entry.devices,
    )
