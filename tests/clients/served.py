"""The daemon that the real clients are tried against. Its model says what it is told (`tests.fakes.scripted_model`)."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fakes.scripted_model import write_scripted_model
from tests.system.daemon import Daemon, running_daemon

__all__ = ("served",)

_CONFIG = """
default_models = [
  {{ model_id = "test/tools", harness = "llamacpp" }},
  {{ model_id = "test/minilm", harness = "llamacpp" }},
]

[http]
cors_origins = ["*"]
model_aliases = {{ "dummy" = "test/tools" }}

[harness.llamacpp]
local_roots = ["/"]
sampling.temperature = 0
sampling.repetition_penalty = 1.0

[[models]]
id = "test/tools"
path = "{chatter}"

[[models]]
id = "test/minilm"
path = "{embedder}"
"""
"""A penalty would keep the model from repeating the markers that its prompt shows."""


@contextmanager
def served(folder: Path, embedder: Path) -> Iterator[Daemon]:
    """Start the daemon, with its files and the model's in `folder`, and wait until its models serve.

    `embedder` is the file of the model that makes embeddings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chatter = folder / "scripted.gguf"
    if not chatter.exists():
        write_scripted_model(folder / "scripted.part").rename(chatter)
    with running_daemon(folder, _CONFIG.format(chatter=chatter, embedder=embedder)) as daemon:
        daemon.wait_ready()
        yield daemon
