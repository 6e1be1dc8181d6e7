"""No block of code in a document is left out of the tests."""

import ast
import json
import re
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from neuron_lib.config import load_config
from neuron_service.backends import BACKENDS
from tests.documents import OUTPUT, ROOT, TAKEN, all_blocks, blocks, pages

JSON = {page: blocks(page, "json") for page in pages()}
TOML = {page: blocks(page, "toml") for page in pages()}
DIRECTIVES = {"generated", "image", "figure", "note", "warning", "tip", "toctree"}


def takers() -> list[Path]:
    """The test modules that take blocks."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [file for file in files if "from tests.documents import" in file.read_text(encoding="utf-8")]


def is_directive(language: str) -> bool:
    named = re.match(r"\{(\w+)\}", language)
    return named is not None and named[1] in DIRECTIVES


@pytest.mark.parametrize("page", pages())
def test_every_block_names_its_language(page: str) -> None:
    assert [f"{page}:{block.line}" for block in all_blocks(page) if not block.language] == []


@pytest.mark.parametrize("page", pages())
def test_a_block_of_output_has_no_command_in_it(page: str) -> None:
    """A command and its output are two blocks, or one of the language `console`, which a test runs."""
    shown = [block for block in all_blocks(page) if block.language == OUTPUT]
    assert [
        f"{page}:{block.line}" for block in shown if any(line[:2] == "$ " for line in block.text.splitlines())
    ] == []


def test_every_block_is_taken_by_a_test() -> None:
    for file in takers():
        import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))
    found = [block for page in pages() for block in all_blocks(page) if not is_directive(block.language)]
    left = [block for block in found if block.language != OUTPUT and (block.page, block.language) not in TAKEN]
    assert [f"{block.page}:{block.line}: {block.language}" for block in left] == []


@pytest.mark.parametrize("file", takers(), ids=lambda file: str(file.relative_to(ROOT)))
def test_a_test_takes_all_blocks_of_a_language(file: Path) -> None:
    """A comprehension with a condition could leave a new block out without a word."""
    nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    loops = [loop for node in nodes for loop in getattr(node, "generators", []) if loop.ifs and takes(loop.iter)]
    assert [loop.iter.lineno for loop in loops] == []


@pytest.mark.parametrize("file", takers(), ids=lambda file: str(file.relative_to(ROOT)))
def test_a_block_that_a_test_takes_is_used(file: Path) -> None:
    nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    taking = [node for node in nodes if isinstance(node, ast.Assign) and takes(node.value)]
    targets = [part for node in taking for target in node.targets for part in ast.walk(target)]
    names = {part.id for part in targets if isinstance(part, ast.Name)} - {"_"}
    read = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    assert names - read == set()


def takes(value: ast.expr) -> bool:
    """Whether the value is a call of `blocks`."""
    return isinstance(value, ast.Call) and getattr(value.func, "id", "") == "blocks"


@pytest.mark.parametrize("page", [page for page in pages() if JSON[page]])
def test_every_block_in_json_is_json(page: str) -> None:
    for text in JSON[page]:
        json.loads(text)


@pytest.mark.parametrize("page", [page for page in pages() if TOML[page]])
def test_every_block_in_toml_is_a_configuration(page: str, tmp_path: Path) -> None:
    """Each is a whole file, as it stands. Those of other programs have tables that a configuration of ours has not."""
    for text in TOML[page]:
        if {"build-system", "gateway", "project", "tool"} & set(tomllib.loads(text)):
            continue
        file = tmp_path / "neuron.toml"
        file.write_text(text, encoding="utf-8")
        load_config(file, {}, sections=BACKENDS)
