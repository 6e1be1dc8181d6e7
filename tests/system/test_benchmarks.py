"""The benchmarks still run. The results are not checked: no timing is asserted."""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.documents import blocks
from tests.fakes.synthetic_gguf import write_synthetic
from tests.patience import PATIENCE_S

pytestmark = [pytest.mark.system, pytest.mark.model]

ROOT = Path(__file__).parents[2]
SIDE_BY_SIDE, SIMULATION = blocks("benchmarks/README.md", "sh")


def run(name: str, *arguments: str) -> str:
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
    return subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, timeout=3 * PATIENCE_S, cwd=ROOT
    ).stdout


def test_every_command_of_the_page_is_understood(tmp_path: Path) -> None:
    """A run takes minutes. The help is shown instead, once all that stands before it is understood."""
    *runs, report = (shlex.split(line, comments=True)[1:] for line in SIDE_BY_SIDE.splitlines())
    simulations = (shlex.split(line, comments=True)[1:] for line in SIMULATION.splitlines())
    for command in (*runs, *simulations):
        done = subprocess.run(
            [sys.executable, *command, "--help"],
            check=True,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            cwd=ROOT,
        )
        assert done.stdout.startswith("usage: ")
    _, name, results = report
    copy = shutil.copy(ROOT / results, tmp_path)
    subprocess.run([sys.executable, "-m", name, copy], check=True, capture_output=True, timeout=PATIENCE_S, cwd=ROOT)
    table = Path(results).with_suffix(".md")
    assert (tmp_path / table.name).read_text() == (ROOT / table).read_text()


def assert_says_where_it_was_measured(lines: list[dict[str, Any]]) -> None:
    assert lines
    assert all({"bench", "date", "cpus", "threads", "model"} <= line.keys() for line in lines)


@pytest.mark.parametrize("name", ["responsiveness", "first_answer", "command_start", "daemon_cost"])
def test_a_quick_round_of_a_benchmark_prints_json_lines_that_say_where_they_were_measured(name: str) -> None:
    assert_says_where_it_was_measured([json.loads(line) for line in run(name, "--quick").splitlines()])


@pytest.mark.parametrize("name", ["step_overhead", "tools"])
def test_a_quick_round_over_another_model_says_which(name: str, tmp_path: Path) -> None:
    tiny = tmp_path / "tiny.gguf"
    write_synthetic(tiny, "full")
    lines = [json.loads(line) for line in run(name, "--quick", "--model", str(tiny)).splitlines()]
    assert_says_where_it_was_measured(lines)
    assert {line["model"] for line in lines} == {"tiny.gguf"}


def test_a_quick_round_against_neuron_alone_needs_no_rival_and_writes_lines_and_a_table(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    shown = run("side_by_side", "--quick", "--subjects", "neuron", "--out", str(results))
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    assert [line["traffic"] for line in lines] == [
        "chat-1", "chat-4", "shared-prompt", "distinct-prompts", "second-turn",
    ]  # fmt: skip
    assert all({"bench", "date", "cpu", "kernel", "threads", "memory_mb", "cpu_s"} <= line.keys() for line in lines)
    assert results.with_suffix(".md").read_text() in shown
