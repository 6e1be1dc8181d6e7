"""The environment variables of an engine process."""

from collections.abc import Mapping
from typing import Final

from neuron_lib.child.environment import DEVICE_PREFIXES, chosen_variables, own_modules

__all__ = ("engine_environment",)

_PREFIXES: Final = (*DEVICE_PREFIXES, "GGML_", "LLAMA_", "GOMP_", "KMP_")


def engine_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The part of `environ` that an engine needs, without tokens and keys, and what an engine needs beside."""
    return {
        # NumPy's library for matrices starts a thread for each core when it is loaded. An engine multiplies none.
        "OPENBLAS_NUM_THREADS": "1",
        **chosen_variables(environ, names=("OPENBLAS_NUM_THREADS",), prefixes=_PREFIXES),
        **own_modules(environ),
        # Without this variable a failed assertion in ggml starts an installed debugger, and hangs in it.
        "GGML_NO_BACKTRACE": "1",
    }
