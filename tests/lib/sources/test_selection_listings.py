"""What a quant means in repositories as their publishers name the files, with a table of answers for each.

`repo_listings.json` has them from memory, shortened, with the sizes in MB where a test needs them, and one name with
`*` for all parts of a split model.
"""

import json
import re
from pathlib import Path
from typing import Any, Final

import pytest

from neuron_lib.errors import PreflightFailed, PreflightKind
from neuron_lib.sources.repository import RepoFile
from neuron_lib.sources.selection import Selection, quant_of, select_gguf

LISTINGS: Final[list[dict[str, Any]]] = json.loads(Path(__file__).with_name("repo_listings.json").read_text("utf-8"))
MB: Final = 1_000_000


def expand(name: str, size_mb: int | None = None) -> list[RepoFile]:
    """Write out the parts of a split model, each with its share of the size."""
    split = re.search(r"\*-of-(\d+)", name)
    count = int(split[1]) if split else 1
    size = None if size_mb is None else size_mb * MB // count
    return [RepoFile(name.replace("*", f"{number:05}"), size) for number in range(1, count + 1)]


def listing(repo: dict[str, Any]) -> list[RepoFile]:
    names = repo["files"] if isinstance(repo["files"], dict) else dict.fromkeys(repo["files"])
    return [file for name, size_mb in names.items() for file in expand(name, size_mb)]


def outcome(files: list[RepoFile], quant: str | None, *, room_mb: int | None = None) -> list[str] | PreflightKind:
    room_bytes = None if room_mb is None else room_mb * MB
    try:
        selection = select_gguf(files, quant=quant, model_id="huggingface:org/name", room_bytes=room_bytes)
    except PreflightFailed as error:
        return error.kind
    assert selection == Selection(selection.files, quant_of(selection.files[0].path))
    return [file.path for file in selection.files]


def expected(answer: str) -> list[str] | PreflightKind:
    return [file.path for file in expand(answer)] if answer.endswith(".gguf") else PreflightKind(answer)


@pytest.mark.parametrize(
    ("repo", "quant", "answer"),
    [
        pytest.param(repo, quant, answer, id=f"{repo['repo']}:{quant}")
        for repo in LISTINGS
        for quant, answer in repo["asks"].items()
    ],
)
def test_a_quant_means_these_files_of_a_repository(repo: dict[str, Any], quant: str, answer: str) -> None:
    files = listing(repo)
    assert outcome(files, quant) == expected(answer)
    assert outcome(files[::-1], quant.upper()) == expected(answer)


@pytest.mark.parametrize(
    ("repo", "room_mb", "answer"),
    [
        pytest.param(repo, int(room_mb), answer, id=f"{repo['repo']}:{room_mb}")
        for repo in LISTINGS
        for room_mb, answer in repo.get("rooms_mb", {}).items()
    ],
)
def test_without_a_quant_the_best_is_taken_that_fits_into_the_room(
    repo: dict[str, Any], room_mb: int, answer: str
) -> None:
    assert outcome(listing(repo), None, room_mb=room_mb) == expected(answer)


@pytest.mark.parametrize("repo", [pytest.param(repo, id=repo["repo"]) for repo in LISTINGS])
def test_every_file_that_can_be_chosen_is_chosen_by_its_own_name(repo: dict[str, Any]) -> None:
    files = listing(repo)
    with pytest.raises(PreflightFailed) as refused:
        select_gguf(files, quant="no such quant", model_id="org/name")
    for available in refused.value.fields.get("available", ()):
        chosen = outcome(files, available)
        assert isinstance(chosen, list)
        assert chosen[0].lower() == available
