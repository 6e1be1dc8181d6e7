"""The reference pages name what there is."""

import re
from pathlib import Path

import msgspec
import pytest

from neuron_lib import Registry
from neuron_lib.text.formats import FORMATS
from neuron_lib.types import (
    AccessState,
    ActivationSnapshot,
    DeviceHealth,
    Discovery,
    Health,
    LoadingModel,
    LoadProgress,
    ModelInfo,
    ModelLoad,
    ModelSpec,
    Reload,
    UnloadingModel,
)
from neuron_service.cli import command_line

ROOT = Path(__file__).parents[1]
SHAPES = (ActivationSnapshot, DeviceHealth, Health, LoadProgress, LoadingModel, ModelInfo, ModelLoad, ModelSpec)


def words(*documents: str) -> set[str]:
    return {word for document in documents for word in re.findall(r"[\w-]+", (ROOT / document).read_text())}


@pytest.mark.parametrize("shape", [*SHAPES, AccessState, Discovery, Reload, UnloadingModel])
def test_every_key_of_an_answer_is_named_in_the_http_api(shape: type[msgspec.Struct]) -> None:
    assert {field.name for field in msgspec.structs.fields(shape)} - words("docs/reference/http-api.md") == set()


@pytest.mark.parametrize("header", ["x-helexa-account-id", "x-helexa-key-id", "x-include-thinking"])
def test_every_header_that_is_read_is_named_in_the_http_api(header: str) -> None:
    assert header in words("docs/reference/http-api.md")


def test_every_option_of_a_command_is_named_in_the_reference_of_the_command() -> None:
    top = command_line._top_parser(lambda: None)
    assert top.option_names - {"-y"} <= words("docs/reference/cli.md")


def test_every_method_of_a_registry_is_named_in_the_how_to_or_the_architecture() -> None:
    methods = {name for name in vars(Registry) if not name.startswith("_")}
    assert methods <= words("docs/how-to/embed.md")


def anchors(document: Path) -> set[str]:
    """The anchors that GitHub and most renderers give to the headings of a document."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", sorted(ROOT.glob("docs/**/*.md")), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_anchor_in_a_link_is_a_heading_of_the_document_it_leads_to(document: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", document.read_text())
    assert [
        f"{target}#{anchor}"
        for target, anchor in links
        if anchor not in anchors((document.parent / target) if target else document)
    ] == []


def test_every_place_in_the_code_that_names_a_section_of_the_wire_contract_names_one_that_there_is() -> None:
    known = anchors(ROOT / "docs/reference/wire-contract.md")
    named = {
        (str(file.relative_to(ROOT)), anchor)
        for folder in ("neuron_lib", "neuron_service", "tests", "benchmarks")
        for file in (ROOT / folder).rglob("*.py")
        for anchor in re.findall(r"wire-contract\.md#([\w-]+)", file.read_text())
    }
    assert {place for place in named if place[1] not in known} == set()


def test_no_module_cites_the_wire_contract_by_the_number_of_a_section() -> None:
    citing = [
        str(file.relative_to(ROOT))
        for folder in ("neuron_lib", "neuron_service", "tests", "benchmarks")
        for file in (ROOT / folder).rglob("*.py")
        if re.search(r"contract,? \(?(section|\u00a7)|\u00a7 ?\d", file.read_text(encoding="utf-8"))
    ]
    assert set(citing) <= {"tests/test_reference.py"}


def test_every_tool_format_has_a_row() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/reference/tool-formats.md").read_text(), re.MULTILINE)
    assert rows == sorted(FORMATS)
