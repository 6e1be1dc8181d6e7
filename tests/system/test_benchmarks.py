"""The benchmarks still run. What they measure is nobody's business here: no timing is asserted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.system, pytest.mark.model]

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["compare", "step_overhead"])
def test_a_quick_round_of_a_benchmark_prints_json_lines_that_say_where_they_were_measured(name: str) -> None:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=110, cwd=ROOT)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines
    assert all({"bench", "date", "cpus", "threads", "model"} <= line.keys() for line in lines)
