"""What is on a machine, who uses it and what a removal deletes, from structs alone."""

from pathlib import Path

import pytest

from neuron_lib.config import ModelEntry
from neuron_lib.errors import LoadFailed
from neuron_lib.sources.hub_cache import CachedRepository
from neuron_lib.sources.inventory import (
    Claim,
    Doomed,
    FoundFile,
    FoundRepository,
    content_bytes,
    list_claims,
    list_models_here,
    plan_removal,
    require_unloaded,
    shown_sources,
)
from neuron_lib.sources.repository import HubRepository, Listing, RepoFile
from neuron_lib.types import ModelSpec

CACHE = Path("/cache")
FOLDER = CACHE / "models--org--name"
OLD, NEW = "a" * 40, "b" * 40
Q4 = RepoFile("m-Q4_K_M.gguf", 4, "4" * 64)
Q8 = RepoFile("m-Q8_0.gguf", 8, "8" * 64)
README = RepoFile("README.md", 1, "c" * 40)
PARTS = tuple(RepoFile(f"m-Q4_K_M-0000{number}-of-00003.gguf", 3, str(number) * 64) for number in (1, 2, 3))


def cached(*listings: Listing, name: str = "name") -> CachedRepository:
    return CachedRepository(repo_id=f"org/{name}", folder=CACHE / f"models--org--{name}", listings=listings)


def found(*listings: Listing, unverified: frozenset[RepoFile] = frozenset()) -> FoundRepository:
    return FoundRepository(source="huggingface", cached=cached(*listings), unverified=unverified)


def repository(name: str = "name") -> HubRepository:
    return HubRepository(
        endpoint="http://hub", repo_id=f"org/{name}", model_id=f"huggingface:org/{name}", cache_dir=CACHE
    )


def claim(model_id: str, user: str, folder: Path | None = FOLDER) -> Claim:
    return Claim(model_id=model_id, user=user, folder=folder)


# ------------------------------------------------------------------------------------------------------------ claims


def test_entries_default_models_and_loaded_ones_are_the_users_of_models() -> None:
    folders = {"my/alias": FOLDER, "org/name": FOLDER, "my/file": None}
    claims = list_claims(
        [ModelEntry(id="my/alias", repo="org/name"), ModelEntry(id="my/file", path=Path("/m.gguf"))],
        [ModelSpec(model_id="my/alias", harness="llamacpp")],
        {"org/name", "my/file"},
        folder_of=folders.__getitem__,
    )
    assert claims == [
        claim("my/alias", "my/alias"),
        claim("my/file", "my/file", None),
        claim("my/alias", "default"),
        claim("my/file", "loaded", None),
        claim("org/name", "loaded"),
    ]


# ------------------------------------------------------------------------------------------------------------ caches


@pytest.mark.parametrize(
    ("cache_dirs", "default_source", "shown"),
    [
        ({"huggingface": "/a"}, "huggingface", {"/a": "huggingface"}),
        ({"mirror": "/a", "huggingface": "/a"}, "huggingface", {"/a": "huggingface"}),
        ({"huggingface": "/a", "mirror": "/a"}, "mirror", {"/a": "mirror"}),
        ({"x": "/b", "y": "/b", "huggingface": "/a"}, "huggingface", {"/a": "huggingface", "/b": "x"}),
        ({"x": "/b", "y": "/b"}, "elsewhere", {"/b": "x"}),
    ],
)
def test_a_cache_that_sources_share_is_shown_once(
    cache_dirs: dict[str, str], default_source: str, shown: dict[str, str]
) -> None:
    paths = {name: Path(cache) for name, cache in cache_dirs.items()}
    sources = shown_sources(paths, default_source=default_source)
    assert list(sources.items()) == [(Path(cache), source) for cache, source in shown.items()]


# ------------------------------------------------------------------------------------------------------------ models


def test_a_repository_has_a_model_for_each_gguf_of_each_commit() -> None:
    here = list_models_here([], [found(Listing(NEW, (Q4, Q8, README)), Listing(OLD, (Q8,)))], [])
    assert [(model.id, model.commit, model.quant, model.files, model.size_bytes) for model in here] == [
        ("huggingface:org/name", NEW, "Q4_K_M", (Q4.path,), 4),
        ("huggingface:org/name", NEW, "Q8_0", (Q8.path,), 8),
        ("huggingface:org/name", OLD, "Q8_0", (Q8.path,), 8),
    ]


def test_a_model_is_verified_if_each_of_its_files_is() -> None:
    (split, whole) = list_models_here([], [found(Listing(NEW, (*PARTS, Q8)), unverified=frozenset({PARTS[1]}))], [])
    assert (split.files, split.is_verified) == (tuple(part.path for part in PARTS), False)
    assert (whole.files, whole.is_verified) == ((Q8.path,), True)


def test_a_split_model_that_lost_a_part_names_it() -> None:
    (model,) = list_models_here([], [found(Listing(NEW, (PARTS[0], PARTS[2])))], [])
    assert (model.missing, model.size_bytes) == (PARTS[1].path, 6)


def test_a_repository_is_used_by_all_whose_ids_mean_it_each_named_once() -> None:
    claims = [
        claim("my/alias", "my/alias"),
        claim("my/alias", "default"),
        claim("org/name", "default"),
        claim("other/model", "loaded", CACHE / "models--other--model"),
        claim("my/file", "my/file", None),
    ]
    (model,) = list_models_here([], [found(Listing(NEW, (Q4,)))], claims)
    assert model.used_by == ("my/alias", "default")


@pytest.mark.parametrize(
    ("place", "size_bytes", "expected"),
    [
        ("/m/x-Q4_K_M.gguf", 7, ("Q4_K_M", 7, ("/m/x-Q4_K_M.gguf",), None)),
        ("/m.gguf", 0, (None, 0, ("/m.gguf",), None)),
        ("package/x-Q8_0.gguf", None, ("Q8_0", 0, (), "package/x-Q8_0.gguf")),
    ],
)
def test_a_file_of_an_entry_is_a_model_that_has_no_commit_and_is_not_hashed(
    place: str, size_bytes: int | None, expected: tuple[object, ...]
) -> None:
    (model,) = list_models_here([FoundFile(entry_id="my/file", place=place, size_bytes=size_bytes)], [], [])
    assert (model.quant, model.size_bytes, model.files, model.missing) == expected
    assert (model.id, model.commit, model.is_verified, model.used_by) == ("my/file", None, None, ())


def test_a_file_of_an_entry_is_used_by_those_that_ask_for_the_entry() -> None:
    file = FoundFile(entry_id="my/file", place="/m.gguf", size_bytes=1)
    claims = [
        claim("my/file", "my/file", None),
        claim("my/file", "default", None),
        claim("huggingface:my/file", "loaded", None),
        claim("my/other", "default", None),
    ]
    assert [model.used_by for model in list_models_here([file], [], claims)] == [("default", "loaded")]


def test_files_come_before_repositories() -> None:
    here = list_models_here(
        [FoundFile(entry_id="my/file", place="/m.gguf", size_bytes=1)], [found(Listing(NEW, (Q4,)))], []
    )
    assert [model.id for model in here] == ["my/file", "huggingface:org/name"]


# ----------------------------------------------------------------------------------------------------------- removal


@pytest.mark.parametrize(
    ("quant", "listings", "expected"),
    [
        pytest.param(None, [(NEW, (Q4, Q8))], [(NEW, Q4), (NEW, Q8)], id="every model"),
        pytest.param("q4_k_m", [(NEW, (Q4, Q8))], [(NEW, Q4)], id="one quant"),
        pytest.param("q4km", [(NEW, (Q4, Q8)), (OLD, (Q4,))], [(NEW, Q4), (OLD, Q4)], id="one quant in each commit"),
        pytest.param("q8_0", [(NEW, (Q4,)), (OLD, (Q8,))], [(OLD, Q8)], id="a quant that only an older commit has"),
        pytest.param(None, [(NEW, PARTS[:2])], [(NEW, PARTS[0]), (NEW, PARTS[1])], id="what is left of a split model"),
        pytest.param(None, [(NEW, (Q4, README))], [(NEW, Q4)], id="only files of models"),
    ],
)
def test_a_removal_deletes(
    quant: str | None, listings: list[tuple[str, tuple[RepoFile, ...]]], expected: list[tuple[str, RepoFile]]
) -> None:
    here = [cached(Listing(OLD, (Q8,)), name="other"), cached(*(Listing(*each) for each in listings))]
    doomed = plan_removal(repository(), here, quant=quant)
    assert doomed == tuple(Doomed(commit, file) for commit, file in expected)


@pytest.mark.parametrize(
    ("quant", "here", "said"),
    [
        (None, [], "huggingface:org/name is not in /cache; there is no model in it"),
        (
            None,
            [cached(Listing(NEW, (Q4,)), name="other")],
            "org/name is not in /cache; there is org/other",
        ),
        (None, [cached(name="name")], "; there is no model in it"),
        (
            None,
            [cached(Listing(NEW, (Q4,)), name=f"n{number}") for number in range(15)],
            "org/n10, org/n11 and 3 more",
        ),
        ("q2_k", [cached(Listing(NEW, (Q4,)))], "available: m-q4_k_m.gguf"),
    ],
)
def test_a_removal_of_what_is_not_there_says_what_is(
    quant: str | None, here: list[CachedRepository], said: str
) -> None:
    with pytest.raises(LoadFailed) as refused:
        plan_removal(repository(), here, quant=quant)
    assert said in refused.value.message


def test_content_that_several_commits_share_counts_once() -> None:
    nameless = RepoFile("copy-Q8_0.gguf", 5)
    doomed = [Doomed(NEW, Q4), Doomed(OLD, Q4), Doomed(NEW, nameless), Doomed(OLD, nameless), Doomed(OLD, Q8)]
    assert content_bytes(doomed) == 4 + 5 + 5 + 8


@pytest.mark.parametrize(
    ("claims", "user"),
    [
        ([claim("my/alias", "loaded")], "my/alias"),
        ([claim("other/model", "loaded", CACHE / "models--other--model"), claim("org/name", "loaded")], "org/name"),
        ([claim("my/alias", "my/alias"), claim("my/alias", "default")], None),
        ([claim("my/file", "loaded", None)], None),
        ([], None),
    ],
)
def test_a_repository_that_a_loaded_model_comes_from_stays(claims: list[Claim], user: str | None) -> None:
    if user is None:
        require_unloaded(repository(), claims)
    else:
        with pytest.raises(LoadFailed, match=f"{user} is loaded from huggingface:org/name: unload it first"):
            require_unloaded(repository(), claims)
