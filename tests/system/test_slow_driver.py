"""A host whose `nvidia-smi` hangs when the daemon starts, as it does while a driver is not up yet."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.wire_shapes import read_discovery
from tests.system.daemon import eventually, running_daemon

pytestmark = pytest.mark.system

TOOL = """#!/bin/sh
if mkdir "{folder}/once" 2>/dev/null; then exec sleep 600; fi
case "$*" in
*index,name,*) echo "0, Card, 8192, 8.0, 580.1" ;;
*) echo "0, 100, 8092, 3, 40" ;;
esac
"""


def test_gpus_of_a_slow_driver_are_seen_later_and_earlier_answers_have_no_max_prompt_tokens(
    tmp_path: Path,
) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "nvidia-smi").write_text(TOOL.format(folder=tmp_path))
    (tools / "nvidia-smi").chmod(0o755)
    environ = {"PATH": f"{tools}:{os.environ['PATH']}"}
    with running_daemon(tmp_path / "daemon", environ=environ) as daemon:
        told: list[Any] = []

        def has_cap() -> bool:
            told.append(daemon.client.get("/discovery").json())
            return "max_prompt_tokens" in told[-1]

        eventually(has_cap, within_s=60)
        assert len(told) > 1, "the first look hung"
        assert [entry["devices"] for entry in told[:-1]] == [[]] * (len(told) - 1)
        seen = read_discovery(daemon.client.get("/discovery").content)
        assert seen.memory
        assert seen.cpus
        eventually(lambda: {"memory", "cpus"} <= daemon.client.get("/health").json().keys(), within_s=60)
        assert [(gpu.name, gpu.vram_total_mb) for gpu in seen.devices] == [("Card", 8192)]
        assert "no GPU is seen, looking again" in daemon.log
        assert "hardware seen" in daemon.log
