"""What tests of fetching by the real daemon share: a model that loads quickly, and configurations for a fake hub."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest

from tests.fakes.synthetic_gguf import write_synthetic
from tests.system.daemon import Daemon

__all__ = ("FETCH_PROCESS", "defaults", "fetch_pids", "large_model", "mounted", "source", "split_model")

FETCH_PROCESS = "neuron_lib.sources.fetch_worker"


@cache
def large_model() -> bytes:
    """A model that the engine loads and runs, followed by so many zeros that a hub keeps it in large file storage."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "model.gguf")
        write_synthetic(path, "full")
        return path.read_bytes() + bytes(4 << 20)


@cache
def split_model() -> dict[str, bytes]:
    """The same model in three files, by their names."""
    with TemporaryDirectory() as folder:
        write_synthetic(Path(folder, "m-Q8_0.gguf"), "full", tensors_per_part=14)
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def source(endpoint: str, cache_dir: Path, *, name: str = "huggingface", more: str = "") -> str:
    """The section of a configuration for one source."""
    return f"""
[harness.llamacpp.sources.{name}]
endpoint = "{endpoint}"
cache_dir = "{cache_dir}"
{more}
"""


def defaults(*model_ids: str) -> str:
    """The beginning of a configuration: the default models."""
    entries = "".join(f'  {{ model_id = "{model_id}", harness = "llamacpp" }},\n' for model_id in model_ids)
    return f"default_models = [\n{entries}]\n"


def fetch_pids(daemon: Daemon) -> list[int]:
    """The fetch processes that a daemon has."""
    children = psutil.Process(daemon.process.pid).children(recursive=True)
    return [child.pid for child in children if FETCH_PROCESS in _command_line(child)]


def _command_line(process: psutil.Process) -> list[str]:
    """The command line of a process. Empty if the process has just ended."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


@contextmanager
def mounted(place: Path, options: str) -> Iterator[None]:
    """A file system of its own at `place`. Skips the test if this process may not mount one."""
    mount, unmount = shutil.which("mount"), shutil.which("umount")
    if mount is None or unmount is None:
        pytest.skip("there is no mount on this system")
    place.mkdir()
    command = [mount, "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run([unmount, "-l", str(place)], check=True)
