"""The llama.cpp harness on the daemon's side: one engine process for each loaded model. Does not import llama_cpp
itself.
"""

from neuron_lib.llamacpp.harness import LlamaCppHarness
from neuron_lib.sources.configured import model_store

__all__ = ("LlamaCppHarness", "model_store")
