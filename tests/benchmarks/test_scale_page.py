"""The page about scale: its commands, its small tables, its results and the defaults that it names."""

import json
import re
import shlex
import subprocess
import sys

import pytest

from benchmarks.fleet_sim.__main__ import main
from benchmarks.fleet_sim.report import markdown
from neuron_lib.config import AdmissionConfig, Config
from tests.documents import ROOT, blocks
from tests.patience import PATIENCE_S

PAGE = "docs/explanation/scale.md"
RESULTS = ROOT / "benchmarks/results/2026-12-01-fleet-sim.jsonl"
COLD_MODEL, POLLS, AGAIN = blocks(PAGE, "sh")
TEXT = (ROOT / PAGE).read_text(encoding="utf-8")


def command(line: str) -> list[str]:
    """What the Python of the environment is given."""
    program, *arguments = shlex.split(line, comments=True)
    assert program == ".venv/bin/python"
    return arguments


@pytest.mark.parametrize("block", [COLD_MODEL, POLLS])
def test_a_table_below_its_command_is_what_the_command_prints(block: str, capsys: pytest.CaptureFixture[str]) -> None:
    option, module, *arguments = command(block)
    assert [option, module] == ["-m", "benchmarks.fleet_sim"]
    main(arguments)
    assert TEXT.partition(block)[2].partition("\n\n")[2].startswith(capsys.readouterr().out)


@pytest.mark.parametrize("study", ["cold-model", "polls"])
def test_the_lines_of_the_results_come_from_the_same_seed_again(study: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([study])
    kept = [line for line in RESULTS.read_text(encoding="utf-8").splitlines() if json.loads(line)["study"] == study]
    assert capsys.readouterr().out.splitlines() == kept


def test_the_tables_of_the_results_are_those_of_their_lines() -> None:
    lines = [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]
    assert RESULTS.with_suffix(".md").read_text(encoding="utf-8") == markdown(lines)


@pytest.mark.process
@pytest.mark.parametrize("line", AGAIN.splitlines())
def test_every_command_of_the_page_is_understood(line: str) -> None:
    done = subprocess.run(
        [sys.executable, *command(line), "--help"],
        check=True,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        cwd=ROOT,
    )
    assert done.stdout.startswith("usage: ")


def test_the_defaults_on_the_page_are_those_of_the_configuration() -> None:
    admission = AdmissionConfig()
    defaults = {
        "max_in_flight": admission.max_in_flight,
        "max_queue_depth": admission.max_queue_depth,
        "max_wait_secs": admission.max_wait_secs,
        "drain_notice_secs": Config().drain_notice_secs,
    }
    shown = dict(re.findall(r"^\| `([a-z_.]+)` \| (\d+)", TEXT, re.MULTILINE))
    assert {name: float(number) for name, number in shown.items()} == defaults
