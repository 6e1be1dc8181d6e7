"""The page about other engines says what the presets and the placeholders are."""

import re
from pathlib import Path

import pytest

from neuron_lib.config import load_config
from neuron_lib.process.entry import ProcessEntry
from neuron_lib.process.placeholders import PLACEHOLDERS, names_in
from neuron_lib.process.presets import PRESETS
from neuron_lib.process.program import Program
from neuron_service.backends import BACKENDS
from tests.documents import ROOT, blocks

PAGE = "docs/how-to/use-another-engine.md"
CONFIGURATIONS = blocks(PAGE, "toml")
TEXT = (ROOT / PAGE).read_text(encoding="utf-8")


def cells(heading: str) -> list[list[str]]:
    """The rows of the table whose first column has this heading."""
    lines = TEXT[TEXT.index(f"| {heading} |") :].splitlines()
    rows = [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in lines[2:]]
    return rows[: next(number for number, line in enumerate(lines[2:]) if not line.startswith("|"))]


def test_every_preset_has_a_row_that_is_true() -> None:
    rows = {row[0].strip("`"): row for row in cells("preset")}
    assert rows.keys() == PRESETS.keys()
    for name, (_, _, _, listens, key, seats) in rows.items():
        program = Program.of(ProcessEntry(name="x", kind="process", preset=name))  # type: ignore[arg-type] # any str
        texts = [*program.preset.command, *program.preset.env.values()]
        assert listens == ("Unix socket" if program.listens_on_socket else "port")
        assert key == ("yes" if "api_key" in names_in(texts) else "no")
        assert int(seats) == program.admission.max_in_flight


def test_every_placeholder_has_a_row() -> None:
    assert sorted(re.findall(r"`\{(\w+)\}`", " ".join(row[0] for row in cells("name")))) == sorted(PLACEHOLDERS)


@pytest.mark.parametrize("text", CONFIGURATIONS)
def test_every_configuration_is_one_that_a_start_takes(text: str, tmp_path: Path) -> None:
    file = tmp_path / "neuron.toml"
    file.write_text(text, encoding="utf-8")
    load_config(file, {}, sections=BACKENDS, strict=True)
