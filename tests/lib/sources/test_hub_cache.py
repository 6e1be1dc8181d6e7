"""The shared cache as files: what counts as here, what is linked, marked, deleted and swept, and what is left alone."""

import errno
import fcntl
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.sources.hub_cache import (
    blob_path,
    discard_blob,
    forget_snapshot_file,
    is_verified,
    link_snapshot,
    list_cached,
    list_partials,
    list_repositories,
    list_snapshots,
    lock_path,
    mark_verified,
    partial_path,
    partials_of,
    remember_commit,
    repository_folder,
    snapshot_path,
    sweep_partials,
)
from neuron_lib.sources.repository import KnownFile, Listing, RepoFile, is_safe_path, known
from tests.fakes.model_cache import COMMIT, REPOSITORY, known_file, put, repository_in

CONTENT = b"GGUF and so on"
FILE = known_file(CONTENT)
OLDER = "0" * 40
DAY_S = 24 * 3600.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return repository_folder(repository_in(tmp_path))


def put_blob(folder: Path, content: bytes = CONTENT) -> Path:
    blob = blob_path(folder, known_file(content).blob)
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(content)
    return blob


def listed(content: bytes, path: str) -> RepoFile:
    return RepoFile(path, len(content), known_file(content).blob)


def refuse_links(monkeypatch: pytest.MonkeyPatch, number: int = errno.EPERM) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "symlink_to", refuse)


# ------------------------------------------------------------------------------------------------------ what is here


def test_a_repository_is_where_every_tool_looks_for_it(tmp_path: Path, folder: Path) -> None:
    assert folder == tmp_path / "models--org--name"
    assert lock_path(folder, "b") == tmp_path / ".locks" / "models--org--name" / "b.lock"


def test_a_branch_is_listed_at_the_commit_it_was_last_known_to_mean(tmp_path: Path) -> None:
    put(tmp_path, {"old.gguf": b"old"}, commit=OLDER)
    put(tmp_path, {"a/m.gguf": CONTENT, "README.md": b"read"})
    new, old = repository_in(tmp_path), repository_in(tmp_path, revision=OLDER)
    assert list_cached(new) == Listing(COMMIT, (listed(b"read", "README.md"), listed(CONTENT, "a/m.gguf")))
    assert list_cached(old) == Listing(OLDER, (listed(b"old", "old.gguf"),))


@pytest.mark.parametrize("revision", ["v2", "1" * 40, "../main", "/etc/passwd", "x" * 300, "\0"])
def test_a_revision_that_is_not_here_has_no_listing(tmp_path: Path, revision: str) -> None:
    put(tmp_path, {"m.gguf": CONTENT})
    assert list_cached(repository_in(tmp_path, revision=revision)) is None


@pytest.mark.parametrize("said", ["", "main", "../../x", COMMIT[:-1], "ü", "\0"])
def test_a_branch_that_means_no_commit_has_no_listing(tmp_path: Path, folder: Path, said: str) -> None:
    put(tmp_path, {"m.gguf": CONTENT})
    (folder / "refs" / "main").write_text(said, "utf-8")
    assert list_cached(repository_in(tmp_path)) is None


def test_a_link_without_its_blob_is_not_here(tmp_path: Path, folder: Path) -> None:
    put(tmp_path, {"m.gguf": CONTENT, "n.gguf": b"other"})
    blob_path(folder, FILE.blob).unlink()
    listing = list_cached(repository_in(tmp_path))
    assert listing is not None
    assert [file.path for file in listing.files] == ["n.gguf"]


def test_a_file_that_is_no_link_has_no_name_for_its_content(tmp_path: Path, folder: Path) -> None:
    place = snapshot_path(folder, COMMIT, "m.gguf")
    place.parent.mkdir(parents=True)
    place.write_bytes(CONTENT)
    assert list_cached(repository_in(tmp_path, revision=COMMIT)) == Listing(COMMIT, (RepoFile("m.gguf", FILE.size),))


def test_the_commit_that_was_written_last_comes_first(tmp_path: Path, folder: Path) -> None:
    for age_s, commit in enumerate(["b" * 40, "a" * 40, "c" * 40]):
        put(tmp_path, {"m.gguf": CONTENT}, commit=commit)
        os.utime(folder / "snapshots" / commit, (1e9 - age_s, 1e9 - age_s))
    (folder / "snapshots" / "no-commit").mkdir()
    (folder / "snapshots" / ("d" * 40)).mkdir()
    assert [listing.commit for listing in list_snapshots(folder)] == ["b" * 40, "a" * 40, "c" * 40]


def test_a_cache_names_its_repositories(tmp_path: Path) -> None:
    for name in ("datasets--org--x", ".locks", "models--a--b--c", "models--gpt2"):
        (tmp_path / name).mkdir()
    put(tmp_path, {"m.gguf": CONTENT})
    found = list(list_repositories(tmp_path))
    assert [(repository.repo_id, len(repository.listings)) for repository in found] == [
        ("a/b--c", 0), ("gpt2", 0), (REPOSITORY, 1),
    ]  # fmt: skip


def test_a_cache_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert not list(list_repositories(tmp_path / "none"))
    assert not list(list_partials(tmp_path / "none", now_s=0.0))
    assert not sweep_partials(tmp_path / "none", now_s=0.0)


# ---------------------------------------------------------------------------------------------------------- linking


@pytest.mark.parametrize("path", ["m.gguf", "a/m.gguf", "a/b/c/m.gguf"])
def test_a_blob_gets_its_name_by_a_link_that_survives_a_move_of_the_cache(tmp_path: Path, path: str) -> None:
    [link] = put(tmp_path / "here", {path: CONTENT})
    assert link.is_symlink()
    (tmp_path / "here").rename(tmp_path / "there")
    assert snapshot_path(repository_folder(repository_in(tmp_path / "there")), COMMIT, path).read_bytes() == CONTENT


def test_linking_again_changes_nothing(folder: Path) -> None:
    put_blob(folder)
    link = link_snapshot(folder, COMMIT, FILE)
    made_ns = link.lstat().st_mtime_ns
    assert link_snapshot(folder, COMMIT, FILE) == link
    assert link.lstat().st_mtime_ns == made_ns


def test_a_link_to_something_else_is_replaced(folder: Path) -> None:
    put_blob(folder)
    put_blob(folder, b"wrong")
    link = link_snapshot(folder, COMMIT, known_file(b"wrong"))
    for _ in ("to another blob", "to none"):
        link_snapshot(folder, COMMIT, FILE)
        assert link.read_bytes() == CONTENT
        link.unlink()
        link.symlink_to("nowhere")


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_where_there_are_no_links_the_file_itself_gets_the_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    refuse_links(monkeypatch, number)
    blob = put_blob(folder)
    path = link_snapshot(folder, COMMIT, FILE)
    assert path.read_bytes() == CONTENT
    assert not path.is_symlink()
    assert not blob.exists()
    assert link_snapshot(folder, COMMIT, FILE) == path


def test_a_disk_that_is_full_is_not_a_file_system_without_links(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_links(monkeypatch, errno.ENOSPC)
    blob = put_blob(folder)
    with pytest.raises(OSError, match="No space"):
        link_snapshot(folder, COMMIT, FILE)
    assert blob.exists()


def test_another_process_may_be_quicker_with_the_link(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_blob(folder)
    link = Path.symlink_to

    def link_twice(self: Path, target: str) -> None:
        link(self, target)
        link(self, target)

    monkeypatch.setattr(Path, "symlink_to", link_twice)
    assert link_snapshot(folder, COMMIT, FILE).read_bytes() == CONTENT


@pytest.mark.parametrize("revision", ["main", "refs/pr/1"])
def test_a_branch_is_remembered_in_one_piece(tmp_path: Path, folder: Path, revision: str) -> None:
    repository = repository_in(tmp_path, revision=revision)
    for commit in (OLDER, COMMIT):
        remember_commit(repository, commit)
        assert (folder / "refs" / revision).read_text() == commit
    assert len(list((folder / "refs" / revision).parent.iterdir())) == 1


def test_a_commit_needs_no_remembering(tmp_path: Path, folder: Path) -> None:
    remember_commit(repository_in(tmp_path, revision=COMMIT), COMMIT)
    assert not folder.exists()


# ----------------------------------------------------------------------------------------------------- what is hashed


def test_a_content_that_changes_after_it_was_hashed_is_in_doubt_again(folder: Path) -> None:
    blob = put_blob(folder)
    assert not is_verified(folder, FILE)
    mark_verified(folder, FILE.blob)
    assert is_verified(folder, FILE)
    status = blob.stat()
    for touch in (
        lambda: os.utime(blob, ns=(status.st_atime_ns, status.st_mtime_ns + 1)),
        lambda: blob.write_bytes(CONTENT + b"?"),
        blob.unlink,
    ):
        touch()
        assert not is_verified(folder, FILE)
        if blob.exists():
            mark_verified(folder, FILE.blob)
            assert is_verified(folder, FILE)


def test_a_file_outside_large_file_storage_has_nothing_to_be_hashed_to(folder: Path) -> None:
    assert is_verified(folder, RepoFile("README.md", 5, "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0"))
    assert is_verified(folder, RepoFile("README.md"))


def test_marks_that_cannot_be_written_are_done_without(folder: Path) -> None:
    mark_verified(folder, FILE.blob)
    put_blob(folder)
    (folder / "verified").write_text("a file where a directory should be")
    mark_verified(folder, FILE.blob)
    assert not is_verified(folder, FILE)


def test_a_wrong_content_goes_with_its_mark_and_its_beginning(tmp_path: Path, folder: Path) -> None:
    [link] = put(tmp_path, {"m.gguf": CONTENT, "n.gguf": b"other"})[:1]
    partial_path(folder, FILE.blob).write_bytes(b"GG")
    for _ in range(2):
        discard_blob(folder, FILE.blob)
    assert not link.exists()
    assert [path.name for path in (folder / "blobs").iterdir()] == [known_file(b"other").blob]
    assert [path.name for path in (folder / "verified").iterdir()] == [known_file(b"other").blob]


# -------------------------------------------------------------------------------------------------------- forgetting


def test_a_content_is_forgotten_with_its_last_name(tmp_path: Path, folder: Path) -> None:
    put(tmp_path, {"m.gguf": CONTENT, "n.gguf": CONTENT})
    put(tmp_path, {"m.gguf": CONTENT}, commit=OLDER)
    names = [(COMMIT, "m.gguf"), (OLDER, "m.gguf"), (COMMIT, "n.gguf")]
    freed = []
    for commit, name in names:
        assert blob_path(folder, FILE.blob).exists()
        freed.append(forget_snapshot_file(folder, commit, known_file(CONTENT, name)))
    assert freed == [0, 0, len(CONTENT)]
    assert not blob_path(folder, FILE.blob).exists()


def test_a_file_that_is_no_link_is_forgotten_itself(folder: Path) -> None:
    place = snapshot_path(folder, COMMIT, "m.gguf")
    place.parent.mkdir(parents=True)
    place.write_bytes(CONTENT)
    assert forget_snapshot_file(folder, COMMIT, RepoFile("m.gguf", len(CONTENT))) == len(CONTENT)
    assert not place.exists()


# ---------------------------------------------------------------------------------------------------------- partials


def begin(folder: Path, name: str, *, age_s: float, now_s: float = 1e9) -> Path:
    path = folder / "blobs" / f"{name}.incomplete"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"GG")
    os.utime(path, (now_s - age_s, now_s - age_s))
    return path


def test_what_was_begun_is_listed_with_its_age(tmp_path: Path, folder: Path) -> None:
    put_blob(folder)
    ours, theirs = begin(folder, "a", age_s=5), begin(folder, "b.1f2e", age_s=7)
    found = [(partial.path, partial.size, partial.age_s) for partial in list_partials(tmp_path, now_s=1e9)]
    assert found == [(ours, 2, 5.0), (theirs, 2, 7.0)]


def test_only_what_nobody_goes_on_with_is_swept(tmp_path: Path, folder: Path) -> None:
    put_blob(folder)
    young, old, locked, other = (
        begin(folder, "a", age_s=DAY_S - 1),
        begin(folder, "b", age_s=DAY_S + 1),
        begin(folder, "c", age_s=10 * DAY_S),
        begin(folder, "d.1f2e", age_s=10 * DAY_S),
    )
    lock = lock_path(folder, "c")
    lock.parent.mkdir(parents=True)
    lock_path(folder, "d").touch()
    with lock.open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert [swept.path for swept in sweep_partials(tmp_path, now_s=1e9)] == [old, other]
    assert [path.exists() for path in (young, old, locked, other)] == [True, False, True, False]
    assert [swept.path for swept in sweep_partials(tmp_path, now_s=1e9)] == [locked]
    assert blob_path(folder, FILE.blob).exists()


def test_what_cannot_be_swept_stays(tmp_path: Path, folder: Path) -> None:
    directory = folder / "blobs" / "a.incomplete"
    directory.mkdir(parents=True)
    assert not sweep_partials(tmp_path, now_s=1e12)
    assert directory.exists()


def test_the_partials_of_a_blob_are_those_of_all_who_fetch_it(folder: Path) -> None:
    assert partials_of(folder, "a") == []
    for name in ("a", "a.1f2e", "b", "b.a"):
        begin(folder, name, age_s=0)
    assert partials_of(folder, "a") == [2, 2]


# ------------------------------------------------------------------------------------------------------- any of them

PARTS = st.text(st.characters(exclude_characters="/\\", exclude_categories=["C"]), min_size=1, max_size=20).filter(
    lambda part: part not in {".", ".."}
)
SAFE_PATHS = st.lists(PARTS, min_size=1, max_size=3).map("/".join).filter(is_safe_path)


@given(st.lists(st.tuples(SAFE_PATHS, st.binary(max_size=8)), min_size=1, max_size=4))
def test_what_is_linked_is_listed_whatever_it_is_called(contents: list[tuple[str, bytes]]) -> None:
    files = {f"{number}/{path}": content for number, (path, content) in enumerate(contents)}
    with TemporaryDirectory() as directory:
        put(Path(directory), files)
        listing = list_cached(repository_in(Path(directory)))
        assert listing is not None
        assert set(listing.files) == {listed(content, path) for path, content in files.items()}


@given(st.text(max_size=60) | st.lists(st.sampled_from(["..", ".", "", "a", "/", "\\", "C:"])).map("/".join))
def test_a_safe_path_stays_below(path: str) -> None:
    if is_safe_path(path):
        root = "/cache/models--org--name/snapshots/c"
        assert os.path.normpath(os.path.join(root, path)) == f"{root}/{path}"  # noqa: PTH118 - as text


@given(st.text(max_size=140) | st.from_regex(r"[0-9a-f]{40,64}", fullmatch=True), st.none() | st.integers(-5, 5))
def test_a_file_is_known_when_its_blob_can_be_a_file_name(blob: str, size: int | None) -> None:
    file = known(RepoFile("m.gguf", size, blob))
    if file is not None:
        assert file == KnownFile("m.gguf", size or 0, blob)
        assert Path("blobs", blob).name == blob
        assert not blob.startswith(".")
        assert blob.isascii()
    elif blob and blob.isascii() and blob.isalnum() and len(blob) <= 128:
        assert size is None or size < 0
