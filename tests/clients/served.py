"""The daemon that the real clients are tried against. Its model says what it is told (`tests.fakes.scripted_model`)."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fakes.scripted_model import write_scripted_model
from tests.system.daemon import Daemon, running_daemon

__all__ = ("served",)

_CONFIG = """
default_models = [{{ model_id = "test/tools", harness = "llamacpp" }}]

[harness.llamacpp]
local_roots = ["{folder}"]
sampling.temperature = 0
sampling.repetition_penalty = 1.0

[[models]]
id = "test/tools"
path = "{gguf}"
"""
"""A penalty would keep the model from repeating the markers that its prompt shows."""


@contextmanager
def served(folder: Path) -> Iterator[Daemon]:
    """Start the daemon, with its files and the model's in `folder`, and wait until the model serves."""
    folder.mkdir(parents=True, exist_ok=True)
    gguf = folder / "scripted.gguf"
    if not gguf.exists():
        part = write_scripted_model(folder / "scripted.part")
        part.rename(gguf)
    with running_daemon(folder, _CONFIG.format(folder=folder, gguf=gguf)) as daemon:
        daemon.wait_ready()
        yield daemon
