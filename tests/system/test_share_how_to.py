"""The page about sharing a model: its configurations are read, and its command answers."""

import json
import subprocess
from pathlib import Path

import pytest

from neuron_lib.admission.configured import admission_rules
from neuron_lib.config import AdmissionConfig, LlamaCppConfig, load_config
from neuron_lib.llamacpp.backend import LLAMACPP
from neuron_lib.types import ModelLoad
from tests.documents import blocks
from tests.patience import PATIENCE_S
from tests.system.daemon import ROOT, running_daemon

PAGE = "docs/how-to/share-a-model.md"
LIMITS, POOL = blocks(PAGE, "toml")
(LOOK,) = blocks(PAGE, "sh")


def admission(text: str, folder: Path) -> AdmissionConfig:
    file = folder / "neuron.toml"
    file.write_text(text)
    section = load_config(file, {}, sections=(LLAMACPP,)).harness["llamacpp"]
    assert isinstance(section, LlamaCppConfig)
    return section.admission


def test_the_numbers_that_the_page_explains_are_those_of_its_configuration(tmp_path: Path) -> None:
    rules = admission_rules(admission(LIMITS, tmp_path))
    assert (rules.most_of_one, rules.places) == (10, 40)
    assert rules.anonymous_seats(has_identified=False) == 4
    assert rules.anonymous_places(has_identified=False) == 12
    pool = admission(POOL, tmp_path)
    assert (pool.kv_reply_tokens, pool.kv_max_wait_secs) == (2048, 120)


def test_the_counts_of_the_page_are_in_health() -> None:
    rows = [line.split("`")[1] for line in (ROOT / PAGE).read_text().splitlines() if line.startswith("| `")]
    assert rows
    assert set(rows) == {name for name in ModelLoad.__struct_fields__ if name.startswith("rejected_")}


@pytest.mark.system
def test_the_command_of_the_page_answers(tmp_path: Path) -> None:
    with running_daemon(tmp_path, LIMITS) as daemon:
        command = LOOK.replace("127.0.0.1:13131", f"127.0.0.1:{daemon.port}")
        done = subprocess.run(
            ["/bin/sh", "-ec", command], check=True, capture_output=True, text=True, timeout=PATIENCE_S
        )
    assert json.loads(done.stdout)["models"] == []
