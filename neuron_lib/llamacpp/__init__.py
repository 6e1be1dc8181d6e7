"""The llama.cpp harness, daemon side: one engine process per loaded model. Never imports llama_cpp itself."""

from neuron_lib.llamacpp.harness import LlamaCppHarness
from neuron_lib.sources.configured import model_store

__all__ = ("LlamaCppHarness", "model_store")
