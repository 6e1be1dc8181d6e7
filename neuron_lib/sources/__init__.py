"""The way from a model id in a request to a checked GGUF file on this machine's disk."""

from neuron_lib.sources.reference import ModelReference, parse_reference
from neuron_lib.sources.store import LocalModel, ModelStore

__all__ = ("LocalModel", "ModelReference", "ModelStore", "parse_reference")
