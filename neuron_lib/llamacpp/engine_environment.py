"""The environment variables of an engine process."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

__all__ = ("engine_environment",)

_KEPT_VARIABLES: Final = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "OPENBLAS_NUM_THREADS")
_KEPT_PREFIXES: Final = ("LC_", "CUDA_", "GGML_", "LLAMA_", "OMP_", "GOMP_", "KMP_", "HIP_", "ROCR_", "NVIDIA_", "VK_")
_SECRET_WORDS: Final = ("KEY", "TOKEN", "SECRET", "PASS")
_ROOT: Final = Path(__file__).parents[2]
"""The directory this package was found in, which need not be on the path of a new interpreter."""


def engine_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The part of `environ` an engine needs. Tokens and keys are not in it: an engine has no business with them."""
    kept = {
        name: value
        for name, value in environ.items()
        if name in _KEPT_VARIABLES
        # Even harmless families have black sheep, such as NVIDIA_API_KEY.
        or (name.startswith(_KEPT_PREFIXES) and not any(word in name for word in _SECRET_WORDS))
    }
    # NumPy's library for matrices, of which there are none here, starts a thread for each core as it is loaded.
    return (
        {"OPENBLAS_NUM_THREADS": "1"}
        | kept
        | {
            "PYTHONPATH": os.pathsep.join(filter(None, (str(_ROOT), environ.get("PYTHONPATH")))),
            # Without it an assertion in ggml forks a debugger that is installed, and hangs in it.
            "GGML_NO_BACKTRACE": "1",
        }
    )
