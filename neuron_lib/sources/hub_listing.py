"""Reads what a hub says about the files of a repository. Pure: bytes in, a `Listing` or a `MalformedListing` out.

A hub is not trusted: its numbers may be texts, its names may be anything, and its lists may be long.
"""

import re
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Raw, Struct, field

from neuron_lib.sources.foreign_text import one_line
from neuron_lib.sources.repository import Listing, RepoFile, is_commit

__all__ = ("LONGEST_LISTING_BYTES", "MalformedListing", "parse_listing")

LONGEST_LISTING_BYTES: Final = 32 << 20
"""A listing of 100,000 files is smaller."""
_MOST_FILES: Final = 100_000
_MOST_OBJECTS: Final = 4 * _MOST_FILES
"""A file has at most two JSON objects. The rest is for other facts of the hub about a model."""
_SHOWN_NAME: Final = 100
_PLACE: Final = re.compile(r" - at `\$(?:\.siblings\[(?P<index>\d+)\])?\.?(?P<key>[^`]*)`$")

_Size = Annotated[int, Meta(ge=0, le=1 << 60)]


class MalformedListing(ValueError):
    """The hub's listing cannot be read. The message says what is wrong and quotes only a little."""


class _LargeFile(Struct):
    sha256: str | None = None
    size: _Size | None = None


class _File(Struct):
    rfilename: str
    size: _Size | None = None
    blob_id: str | None = field(default=None, name="blobId")
    lfs: _LargeFile | None = None


class _Repository(Struct):
    sha: str | None = None
    siblings: list[_File] | None = None


class _Entries(Struct):
    siblings: list[Raw]


class _Name(Struct):
    rfilename: str


_repositories: Final = msgspec.json.Decoder(_Repository)


def parse_listing(document: bytes) -> Listing:
    """Read the answer to `/api/models/…?blobs=true`.

    Raises `MalformedListing` for JSON that is not a listing, and `msgspec.DecodeError` for text that is not JSON.
    """
    if document.count(b"{") > _MOST_OBJECTS:
        raise MalformedListing("it has too many entries")
    try:
        repository = _repositories.decode(document)
    except msgspec.ValidationError as error:
        raise MalformedListing(_in_words(error, document)) from error
    except RecursionError as error:
        raise MalformedListing("it is nested too deeply") from error
    except UnicodeDecodeError as error:
        raise MalformedListing("it is not UTF-8") from error
    if repository.sha is None or not is_commit(repository.sha):
        raise MalformedListing(f"it names no commit but {_shown(repository.sha)}")
    files: dict[str, RepoFile] = {}
    for entry in repository.siblings or ():
        file = _repo_file(entry)
        if files.setdefault(file.path, file) != file:
            raise MalformedListing(f"it has {_shown(file.path)} twice, with different contents")
    if len(files) > _MOST_FILES:
        raise MalformedListing("it has too many entries")
    return Listing(repository.sha, tuple(files.values()))


def _repo_file(entry: _File) -> RepoFile:
    large = entry.lfs
    if large is None:
        return RepoFile(entry.rfilename, entry.size, entry.blob_id)
    return RepoFile(entry.rfilename, entry.size if large.size is None else large.size, large.sha256)


def _in_words(error: msgspec.ValidationError, document: bytes) -> str:
    """A text that says what is wrong, and with which file, if it is one."""
    text = str(error)
    match = _PLACE.search(text)
    if match is None:
        return one_line(f"{text[:1].lower()}{text[1:]}")
    problem = one_line(f"{text[:1].lower()}{text[1 : match.start()]}")
    key = f"`{one_line(match['key'], limit=_SHOWN_NAME)}` " if match["key"] else ""
    if match["index"] is None:
        return f"{key}is wrong: {problem}"
    index = int(match["index"])
    try:
        name = _shown(
            msgspec.json.decode(msgspec.json.decode(document, type=_Entries).siblings[index], type=_Name).rfilename
        )
    except msgspec.DecodeError:
        name = f"entry {index + 1}"
    return f"{key}of {name} is wrong: {problem}" if key else f"{name} is wrong: {problem}"


def _shown(name: str | None) -> str:
    return "nothing" if name is None else repr(one_line(name, limit=_SHOWN_NAME))
