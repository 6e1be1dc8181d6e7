"""The page about batches: its lines, asked by its command of a service with a real model."""

import json
from pathlib import Path

import pytest

from tests.documents import blocks
from tests.system.daemon import MODELS, run_neuron, running_daemon

pytestmark = [pytest.mark.system, pytest.mark.model]

INPUT, OUTCOME = blocks("docs/how-to/batch.md", "json")
(COMMAND,) = blocks("docs/how-to/batch.md", "sh")
DEFAULT = '[[default_models]]\nmodel_id = "acme/assistant"\n'


def test_the_lines_of_the_page_are_answered_by_its_command(tmp_path: Path) -> None:
    program, *words = COMMAND.split()
    assert program == "neuron"
    second = json.loads(INPUT) | {"custom_id": "second"}
    Path(tmp_path, "in.jsonl").write_text(f"{INPUT}\n{json.dumps(second)}\n")
    arguments = [str(tmp_path / word) if word.endswith(".jsonl") else word for word in words]
    with running_daemon(tmp_path / "daemon", DEFAULT + MODELS.replace("test/one", "acme/assistant")) as daemon:
        done = run_neuron(*arguments, "-H", daemon.url)  # also waits for the load of the model
        assert done.returncode == 0
        assert all("is asked again" in line for line in done.stderr.splitlines())  # a model that is not there yet
    outcomes = {
        each["custom_id"]: each for each in map(json.loads, Path(tmp_path, "out.jsonl").read_text().splitlines())
    }
    assert sorted(outcomes) == ["first", "second"]
    for outcome in outcomes.values():
        assert outcome.keys() == json.loads(OUTCOME).keys()
        assert outcome["response"].keys() == json.loads(OUTCOME)["response"].keys()
        assert outcome["response"]["body"]["choices"][0]["message"]["content"]
