"""The tables of the pages about other servers have everything that is translated."""

import re

import pytest

pytest.importorskip("sphinx", reason="the packages of the extra docs are not installed")

from neuron_docs import migrations

from neuron_service.migration.llama_server_options import OPTIONS
from neuron_service.migration.llama_swap import OF_A_MODEL, OF_THE_HOST
from neuron_service.migration.modelfile import INSTRUCTIONS, LOST_PARAMETERS, OTHER_PARAMETERS, SAMPLING_KEYS
from neuron_service.migration.ollama_settings import KEYS, LOST, NEEDLESS, SPECIALS


def first_cells(table: str) -> list[str]:
    return [name for line in table.splitlines()[2:] for name in re.findall(r"`([^`]+)`", line.split(" | ")[0])]


def test_every_option_of_llama_server_is_in_one_row() -> None:
    assert sorted(first_cells(migrations.llama_server())) == sorted(OPTIONS)


def test_every_word_of_a_modelfile_and_every_variable_of_ollama_is_in_one_row() -> None:
    parameters = [f"PARAMETER {name}" for name in (*SAMPLING_KEYS, *OTHER_PARAMETERS, *LOST_PARAMETERS)]
    assert sorted(first_cells(migrations.modelfile())) == sorted(["FROM", *INSTRUCTIONS, *parameters])
    assert sorted(first_cells(migrations.ollama())) == sorted([*KEYS, *LOST, *NEEDLESS, *SPECIALS])


def test_every_key_of_llama_swap_is_in_one_row() -> None:
    cells = first_cells(migrations.llama_swap())
    assert len(cells) == len(set(cells))
    assert {*OF_THE_HOST, *(f"models.*.{name}" for name in OF_A_MODEL)} <= set(cells)


def test_every_row_says_what_is_here() -> None:
    tables = (migrations.llama_server(), migrations.llama_swap(), migrations.modelfile(), migrations.ollama())
    for line in (line for table in tables for line in table.splitlines()[2:]):
        _, here, remark = line.removeprefix("| ").removesuffix(" |").split(" | ")
        assert here.startswith("`") or (here in {"no", "nearly", "by itself", "as above"} and remark.strip())
