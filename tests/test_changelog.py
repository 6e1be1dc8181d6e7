import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path
from typing import Any

import pytest

import neuron_lib

ROOT = Path(__file__).parents[1]
TOWNCRIER: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["towncrier"]
CHANGELOG = ROOT / TOWNCRIER["filename"]
FRAGMENTS = sorted(path for path in (ROOT / TOWNCRIER["directory"]).iterdir() if path.name not in TOWNCRIER["ignore"])

KINDS = [each["directory"] for each in TOWNCRIER["type"]]

every_fragment = pytest.mark.parametrize("fragment", FRAGMENTS, ids=lambda path: path.name)


def test_a_release_has_its_section_and_an_unreleased_version_has_none() -> None:
    version = neuron_lib.__version__
    released = version.partition(".dev")[0] == version
    assert (f"\n## [{version}] - " in CHANGELOG.read_text()) == released


def test_the_next_section_has_one_place_above_all_others() -> None:
    before, *after = CHANGELOG.read_text().split(TOWNCRIER["start_string"])
    assert len(after) == 1
    assert "\n## " not in before


def test_the_kinds_are_those_that_the_folder_explains() -> None:
    explained = (ROOT / TOWNCRIER["directory"] / "README.md").read_text()
    assert [kind for kind in KINDS if f"`{kind}`" not in explained] == []


@every_fragment
def test_a_fragment_is_named_for_its_topic_and_a_known_kind(fragment: Path) -> None:
    assert re.fullmatch(rf"\+[a-z0-9-]+\.({'|'.join(KINDS)})\.md", fragment.name)


@every_fragment
def test_a_fragment_is_one_paragraph_that_can_stand_in_a_list(fragment: Path) -> None:
    text = fragment.read_text().strip()
    assert text
    assert "\n\n" not in text, "one paragraph"
    assert not re.search(r"^\s*(#|[-*] |```)", text, re.MULTILINE), "no headings, no lists, no blocks of code"


@every_fragment
def test_the_links_of_a_fragment_are_relative_to_the_root(fragment: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", fragment.read_text())
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.process
@pytest.mark.skipif(not FRAGMENTS, reason="nothing has changed since the last release")
def test_the_next_section_has_every_fragment_once_below_the_heading_of_its_kind() -> None:
    draft = [sys.executable, "-m", "towncrier", "build", "--draft", "--version", "9.9.9"]
    section = subprocess.run(draft, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    headings = re.findall(r"[^\n]\n\n### (\w+)\n\n- ", section)
    there = {fragment.name.split(".")[1] for fragment in FRAGMENTS}
    assert headings == [each["name"] for each in TOWNCRIER["type"] if each["directory"] in there]
    for fragment in FRAGMENTS:
        text = "- " + " ".join(fragment.read_text().split())
        entry = textwrap.fill(text, 120, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        assert section.count(f"\n{entry}\n") == 1, fragment.name
