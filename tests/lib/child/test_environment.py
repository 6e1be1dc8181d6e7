"""A child gets what it needs of the daemon's environment, and no secret."""

import subprocess
import sys
from pathlib import Path

import pytest

from neuron_lib.child.environment import chosen_variables, own_modules

ENVIRON = {
    "PATH": "/bin", "HOME": "/root", "LANG": "C", "TMPDIR": "/t", "LD_LIBRARY_PATH": "/lib", "LC_ALL": "C",
    "CUDA_VISIBLE_DEVICES": "1", "CUDA_API_KEY": "k", "LC_TOKEN": "t", "SSL_CERT_FILE": "/c", "HF_TOKEN": "hf",
    "LD_PRELOAD": "/x.so", "PYTHONSTARTUP": "/x.py",
}  # fmt: skip
EVERYBODY = {"PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "LC_ALL"}


def test_a_child_gets_what_every_program_needs() -> None:
    assert chosen_variables(ENVIRON) == {name: ENVIRON[name] for name in EVERYBODY}


def test_a_child_gets_what_its_owner_names() -> None:
    given = chosen_variables(ENVIRON, names=("SSL_CERT_FILE", "NO_PROXY"), prefixes=("CUDA_",))
    assert set(given) == EVERYBODY | {"SSL_CERT_FILE", "CUDA_VISIBLE_DEVICES"}


def test_a_variable_that_is_named_is_no_guess_and_so_may_be_a_secret() -> None:
    assert chosen_variables(ENVIRON, names=("HF_TOKEN",))["HF_TOKEN"] == "hf"  # noqa: S105 - no password


@pytest.mark.process
def test_a_python_process_of_ours_finds_this_library_wherever_it_is(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-c", "import neuron_lib; print(neuron_lib.__file__)"]
    environment = own_modules({"PYTHONPATH": "/more"})
    found = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    assert Path(found.strip()).parents[1] == Path(__file__).parents[3]
    assert environment["PYTHONPATH"].endswith(":/more")
