"""Harnesses whose program is `fake_program`, for tests of the backend `process`."""

import sys
from pathlib import Path
from typing import Any

from neuron_lib.process.entry import HealthProbe, ProcessEntry, ReadyProbe, StopRules
from neuron_lib.process.harness import ProcessHarness
from neuron_lib.supervision.restart_policy import RestartPolicy
from neuron_lib.types import Chat, ModelSpec

__all__ = ("MODEL_ID", "ON_PORT", "ON_SOCKET", "PROGRAM", "SPEC", "chat", "fake_entry", "fake_harness", "is_gone")

PROGRAM = Path(__file__).with_name("fake_program.py")
MODEL_ID = "org/fake"
SPEC = ModelSpec(model_id=MODEL_ID, harness="fake")
ON_PORT = ("--port", "{port}", "--host", "{host}")
ON_SOCKET = ("--socket", "{socket}")


def fake_entry(
    *args: str, mode: str = "", listens: tuple[str, ...] = ON_SOCKET, health_limit_s: float = 60.0, **keys: Any
) -> ProcessEntry:
    """What an operator would say about the program in this mode."""
    entry: dict[str, Any] = {
        "name": "fake",
        "kind": "process",
        "command": (sys.executable, "-S", str(PROGRAM), *listens, "--mode", mode, *args),
        "env": {"FAKE_KEY": "{api_key}"},
        "ready": ReadyProbe(),
        "health": HealthProbe(interval_secs=0.1, limit_secs=health_limit_s),
        "stop": StopRules(grace_secs=10),
    }
    return ProcessEntry(**entry | keys)


def fake_harness(*args: str, **keys: Any) -> ProcessHarness:
    """A harness of the program."""
    return ProcessHarness(fake_entry(*args, **keys), policy=lambda: RestartPolicy(first_pause_s=0.01))


def chat(content: str = "one two three", **more: Any) -> Chat:
    """A request whose reply is its own words."""
    return Chat(model_id=MODEL_ID, messages=({"role": "user", "content": content},), **more)


def is_gone(pid: int) -> bool:
    """Whether no such process runs. One whose parent has not looked yet has ended."""
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True
