"""The reference pages name what there is."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from neuron_lib import Registry
from neuron_lib.config import Config, LlamaCppConfig
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
from tests.command_tree import EVERY_COMMAND
from tests.documents import pages

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


SHARED = {"--config", "--log-level", "--host"}
"""Options of many commands. The reference describes them once for all."""


@pytest.mark.parametrize("command", sorted(EVERY_COMMAND.keys() - {"help"}))
def test_every_command_has_a_section_in_the_reference_that_names_its_options(command: str) -> None:
    sections = re.split(r"^#+ ", (ROOT / "docs/reference/cli.md").read_text(), flags=re.MULTILINE)
    of_command = [each for each in sections if re.search(rf"`neuron {command}[` ]", each.partition("\n")[0])]
    assert of_command, "no heading names the command"
    options = {name for each in EVERY_COMMAND[command].params for name in each.opts if name.startswith("--")}
    assert {name for name in options - SHARED if not re.search(rf"{name}\b", "".join(of_command))} == set()


def test_the_reference_describes_the_options_that_many_commands_have() -> None:
    assert words("docs/reference/cli.md") >= SHARED


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


def test_the_index_links_each_page_once() -> None:
    links = re.findall(r"^- \[[^]]+\]\((?!\.\./)([^)#]+\.md)\)", (ROOT / "docs/index.md").read_text(), re.MULTILINE)
    folders = [str(page.relative_to(ROOT / "docs")) for page in ROOT.glob("docs/*/*.md")]
    pages = [page for page in folders if not page.startswith("adr/0")]  # adr/index.md lists them
    assert sorted(links) == sorted(pages)


_GIVEN = object()
"""A key that every entry must have."""


def defaults_of(struct: type[msgspec.Struct], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The default of each key, by its dotted name without the name of the backend's table."""
    for field in msgspec.structs.fields(struct):
        name = prefix + ("sources.NAME" if field.name == "sources" else field.name)
        tables = [
            each
            for each in (field.type, *get_args(field.type))
            if isinstance(each, type) and issubclass(each, msgspec.Struct)
        ]
        for table in tables:
            yield from defaults_of(table, f"{name}.")
        if not tables and name != "harness":
            default = field.default
            if field.default_factory is not msgspec.NODEFAULT:
                default = field.default_factory()
            yield name, _GIVEN if default is msgspec.NODEFAULT else default


def documented_defaults(document: str) -> Iterator[tuple[str, str]]:
    """The key and the text of its default in each row of the tables that have a column of defaults."""
    for table in re.findall(r"(?:^\|.*\n)+", (ROOT / document).read_text(), re.MULTILINE):
        head, _, *rows = ([cell.strip() for cell in line.strip("|\n").split("|")] for line in table.splitlines())
        if "default" in head:
            for row in rows:
                for key in re.findall(r"`([\w.]+)`", row[0]):
                    yield key, row[head.index("default")]


def test_the_configuration_page_has_every_key_with_its_default() -> None:
    known = {**dict(defaults_of(Config)), **dict(defaults_of(LlamaCppConfig))}
    known |= {"harnesses.name": "llamacpp", "local_roots": ()}  # as the service has them without a file
    missing = set(known)
    for key, text in documented_defaults("docs/reference/config.md"):
        names = {name for name in missing if name == key or name.endswith(f".{key}")}
        # `idle_ttl_secs` of the table [residency] is not that of a model, which has its own row.
        (name,) = names if len(names) == 1 else names & {f"residency.{key}"}
        missing.remove(name)
        match known[name]:
            case None:
                assert not re.fullmatch(r"`.*`|[\d.]+", text), name
            case default if default is _GIVEN:
                assert text == "must be given", name
            case default:
                shown = tomllib.loads(f"value = {text.strip('`')}")["value"]
                assert shown == (list(default) if isinstance(default, tuple) else default), name
    assert missing == set()


def test_the_numbers_in_the_readme_are_those_of_the_benchmarks() -> None:
    """Each row names the same measurement, and each of its cells is one of the row there."""
    measured = (ROOT / "benchmarks/README.md").read_text().splitlines()
    table = (ROOT / "README.md").read_text().partition("## How fast it is")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:2] == "| "]
    assert len(rows) > 2
    for name, *cells in rows[1:]:
        there = [line for line in measured if line.startswith(f"| {name} |")]
        assert any(all(not cell or f"| {cell} |" in line for cell in cells) for line in there), name


def test_every_picture_is_shown_on_a_page_and_described_in_words() -> None:
    shown = [match for page in pages() for match in re.findall(r"!\[([^]]*)\]\(([^)]+)\)", (ROOT / page).read_text())]
    assert [path for words, path in shown if not words] == []
    names = {path.rpartition("/")[2] for _, path in shown}
    assert {file.name for file in (ROOT / "docs/images").iterdir()} - names == set()
