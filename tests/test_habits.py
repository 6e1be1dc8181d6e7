"""What CONTRIBUTING promises about the repository itself."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text()
DECISIONS = sorted((ROOT / "docs/adr").glob("0*.md"))
HEADINGS = ["Situation", "Decision", "Price", "Not chosen", "Where"]


def targets_with_help() -> set[str]:
    return set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE))


def test_the_hook_of_a_commit_is_make_check_fast_and_nothing_else() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    (repository,) = config["repos"]
    (hook,) = repository["hooks"]
    assert (repository["repo"], hook["language"], hook["pass_filenames"]) == ("local", "system", False)
    assert hook["entry"] == "make check-fast"


def test_every_target_for_people_is_phony_and_in_a_group_of_the_help() -> None:
    phony = " ".join(re.findall(r"^\.PHONY:(.*)$", MAKEFILE, re.MULTILINE)).split()
    assert targets_with_help() <= set(phony)
    first_group = MAKEFILE.index("\n##@ ")
    assert re.findall(r"^([a-z-]+):.*## ", MAKEFILE[:first_group], re.MULTILINE) == ["help"]


@pytest.mark.parametrize("document", ["CONTRIBUTING.md", ".github/PULL_REQUEST_TEMPLATE.md", "changes/README.md"])
def test_every_target_that_a_document_names_is_there(document: str) -> None:
    named = re.findall(r"`make\s+([a-z-]+)[^`]*`|^make ([a-z-]+)", (ROOT / document).read_text(), re.MULTILINE)
    assert {first or second for first, second in named} <= targets_with_help()


def test_the_decisions_are_numbered_without_gaps_and_all_in_the_list() -> None:
    index = (ROOT / "docs/adr/index.md").read_text()
    rows = re.findall(r"^\| (\d+) \| \[(.+)\]\((.+)\) \|$", index, re.MULTILINE)
    titles = [path.read_text().partition("\n")[0].removeprefix("# ") for path in DECISIONS]
    assert [(f"{number}. {title}", name) for number, title, name in rows] == [
        (title, path.name) for title, path in zip(titles, DECISIONS, strict=True)
    ]
    assert [int(number) for number, _, _ in rows] == list(range(1, len(DECISIONS) + 1))


@pytest.mark.parametrize("decision", DECISIONS, ids=lambda path: path.stem)
def test_a_decision_says_why_at_what_price_and_where(decision: Path) -> None:
    text = decision.read_text()
    assert re.findall(r"^\*\*(.+?)\.\*\*", text, re.MULTILINE) == HEADINGS


@pytest.mark.parametrize("decision", DECISIONS, ids=lambda path: path.stem)
def test_the_modules_tests_and_contracts_that_a_decision_names_are_there(decision: Path) -> None:
    where = decision.read_text().partition("**Where.**")[2]
    for module in re.findall(r"`(neuron_(?:lib|service)(?:\.[a-z_]+)*)", where):
        path = ROOT / module.replace(".", "/")
        assert path.is_dir() or path.with_suffix(".py").is_file(), module
    for test in re.findall(r"`(tests/[\w/.]+)`", where):
        assert (ROOT / test).exists(), test
    if "contract" in where:
        contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
        known = {contract["id"] for contract in contracts}
        assert set(re.findall(r"`([a-z]+(?:-[a-z]+)+)`", where)) <= known
