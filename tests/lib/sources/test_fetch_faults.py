"""A hub that fails in every way it can, the real client before it, and what is in the cache afterwards.

The fetch runs in the test's own process, so that its pauses take no time; `test_fetch_end_to_end` has the process.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest

from neuron_lib.errors import NeuronError, PreflightFailed, PreflightKind, SourceUnavailable
from neuron_lib.sources import hub_client
from neuron_lib.sources.fetch_protocol import Advance, Alive, Fetched, Frame
from neuron_lib.sources.fetch_worker import fetch
from neuron_lib.sources.hub_cache import list_cached, partial_path, repository_folder
from neuron_lib.types import LoadStage
from tests.fakehub import FakeHub, fake_hub
from tests.fakes.gguf_bytes import gguf
from tests.fakes.hub_faults import (
    REFUSALS,
    BadContentRange,
    Chunked,
    Corrupt,
    Cut,
    EtagChange,
    Exchange,
    Fault,
    Gzip,
    Moves,
    NeverAnswers,
    NoRange,
    Redirect,
    Stall,
    Status,
    WrongLength,
    hostile_files,
)
from tests.fakes.model_cache import assert_sound, known_file, order_for, repository_in

MODEL = gguf() + Random(1).randbytes(100_000)  # noqa: S311 - not a secret
"""Bytes that do not become fewer when they are compressed."""
FILE = known_file(MODEL)
LISTING, BYTES = "/api/*", "*/resolve/*"
TOKEN = "hf_secret"  # noqa: S105
ALWAYS = None


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with fake_hub({"org/name": {"m.gguf": MODEL}}) as running:
        yield running


@dataclass(slots=True)
class Fetches:
    """Fetches of one hub into one cache, with the `pauses` they made."""

    hub: FakeHub
    cache: Path
    pauses: list[float] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)

    def __call__(self, **repository: Any) -> Fetched:
        order = order_for(repository_in(self.cache, endpoint=self.hub.url, **repository))
        return fetch(order, self.frames.append, pause=self.pauses.append)

    def failure(self, **repository: Any) -> NeuronError:
        with pytest.raises(NeuronError) as raised:
            self(**repository)
        assert list_cached(repository_in(self.cache)) is None
        assert raised.value.message.startswith("huggingface:org/name")
        assert raised.value.message.isprintable()
        return raised.value

    @property
    def ranges(self) -> list[str | None]:
        """What was asked for of files, request by request."""
        return [asked.range for asked in self.hub.log if "/resolve/" in asked.path]

    @property
    def partial(self) -> Path:
        return partial_path(repository_folder(repository_in(self.cache)), FILE.blob)


@pytest.fixture
def attempt(hub: FakeHub, tmp_path: Path) -> Iterator[Fetches]:
    fetches = Fetches(hub, tmp_path / "a" / "b" / "cache")
    yield fetches
    assert_sound(fetches.cache)


# ------------------------------------------------------------------------------------------------- what is got over

START = None


def at(offset: int) -> str:
    return f"bytes={offset}-"


@pytest.mark.parametrize(
    ("faults", "ranges", "pauses"),
    [
        ([(Status(503), 1)], [START, START], [1.0]),
        ([(Status(500), 4)], [START] * 5, [1.0, 2.0, 4.0, 8.0]),
        ([(Status(429, {"Retry-After": "7"}), 1)], [START, START], [7]),
        ([(Status(429, {"Retry-After": "soon"}), 1)], [START, START], [1.0]),
        ([(Cut(0), 1)], [START, START], [1.0]),
        ([(Cut(1000), 1)], [START, at(1000)], [1.0]),
        ([(Cut(40_000), ALWAYS)], [START, at(40_000), at(80_000)], [1.0, 1.0]),
        ([(Cut(1000), 1), (Status(503), 2)], [START, START, START], [1.0, 2.0]),
        ([(Cut(1000), 1), (NoRange(), ALWAYS)], [START, at(1000)], [1.0]),
        ([(Cut(1000), 1), (BadContentRange(), ALWAYS)], [START, at(1000), START], [1.0, 2.0]),
        ([(Corrupt(), 1)], [START, START], []),
        ([(Gzip(), ALWAYS)], [START], []),
        ([(Chunked(), ALWAYS)], [START], []),
        ([(EtagChange(), ALWAYS)], [START], []),
        ([(Redirect("{path}"), 3)], [START] * 4, []),
        ([(Redirect("file:///etc/passwd"), 1)], [START, START], [1.0]),
    ],
)
def test_a_fault_that_ends_is_got_over(
    attempt: Fetches, faults: list[tuple[Fault, int | None]], ranges: list[str | None], pauses: list[float]
) -> None:
    for fault, times in faults:
        attempt.hub.fail(fault, path=BYTES, times=times)
    [path] = attempt().paths
    assert path.read_bytes() == MODEL
    assert attempt.ranges == ranges
    assert attempt.pauses == pauses


def test_a_file_that_was_cut_is_sent_once(attempt: Fetches) -> None:
    attempt.hub.fail(Cut(30_000), times=2)
    attempt()
    assert sum(asked.sent_bytes for asked in attempt.hub.log if "/resolve/" in asked.path) == len(MODEL)


@pytest.mark.parametrize(
    ("fault", "times", "pauses"),
    [
        (Status(500), 1, [0.5]),
        (Status(503, {"Retry-After": "3"}), 2, [3, 3]),
        (Status(408), 2, [0.5, 1.5]),
    ],
)
def test_a_hub_with_a_hiccup_is_asked_again_for_its_listing(
    attempt: Fetches, fault: Fault, times: int, pauses: list[float]
) -> None:
    attempt.hub.fail(fault, path=LISTING, times=times)
    attempt()
    assert attempt.pauses == pauses
    assert attempt.frames.count(Alive()) == times  # a slow hub is not to be taken for a process that hangs


def test_a_hub_that_falls_silent_is_asked_for_the_rest(attempt: Fetches, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_client, "_ANSWER_LIMIT_S", 0.2)
    attempt.hub.fail(Stall(1000), times=1)
    attempt()
    assert attempt.ranges == [START, at(1000)]


def test_a_listing_that_says_too_little_is_completed(attempt: Fetches, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fakehub.sibling", lambda name, _: {"rfilename": name})
    assert attempt().paths[0].read_bytes() == MODEL
    assert attempt.hub.requests[1].startswith("HEAD ")
    assert attempt.frames[0] == Alive()


# --------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("fault", "path", "kind"),
    [
        (REFUSALS["gated"], BYTES, PreflightKind.GATED_REPO),
        (REFUSALS["no_repository"], BYTES, PreflightKind.REPO_NOT_FOUND),
        (REFUSALS["no_revision"], BYTES, PreflightKind.REVISION_NOT_FOUND),
        (REFUSALS["no_file"], BYTES, PreflightKind.FILE_NOT_FOUND),
        (Status(403), BYTES, PreflightKind.REPO_FETCH_FAILED),
        (WrongLength(1), BYTES, PreflightKind.CHECKSUM_MISMATCH),
        (WrongLength(-1), BYTES, PreflightKind.CHECKSUM_MISMATCH),
        (REFUSALS["gated"], LISTING, PreflightKind.GATED_REPO),
        (REFUSALS["no_repository"], LISTING, PreflightKind.REPO_NOT_FOUND),
    ],
)
def test_what_no_retry_helps_against_is_asked_once(
    attempt: Fetches, fault: Fault, path: str, kind: PreflightKind
) -> None:
    attempt.hub.fail(fault, path=path)
    error = attempt.failure()
    assert isinstance(error, PreflightFailed)
    assert error.kind is kind
    assert not attempt.pauses
    assert len(attempt.ranges) == (path is BYTES)


def test_bytes_that_are_always_wrong_are_asked_for_twice_and_leave_nothing(attempt: Fetches) -> None:
    attempt.hub.fail(Corrupt())
    error = attempt.failure()
    assert isinstance(error, PreflightFailed)
    assert error.kind is PreflightKind.CHECKSUM_MISMATCH
    assert error.fields["file"] == "m.gguf"
    assert attempt.ranges == [START, START]
    assert not [path for path in attempt.cache.rglob("*") if path.is_file() and path.stat().st_size]


# ---------------------------------------------------------------------------------------------- what may help later


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Status(503), "503"),
        (Cut(0), "closed connection"),
        (Redirect("{path}"), "redirects"),
        (Redirect("file:///etc/passwd"), "protocol"),
        (Redirect("http://127.0.0.1:1/{path}"), "refused"),
    ],
)
def test_a_hub_that_sends_nothing_is_asked_five_times(attempt: Fetches, fault: Fault, said: str) -> None:
    attempt.hub.fail(fault, path=BYTES)
    error = attempt.failure()
    assert isinstance(error, SourceUnavailable)
    assert said in error.message
    assert attempt.pauses == [1.0, 2.0, 4.0, 8.0]


@pytest.mark.parametrize("path", [LISTING, BYTES])
def test_a_hub_that_wants_a_day_for_itself_is_not_waited_for(attempt: Fetches, path: str) -> None:
    attempt.hub.fail(Status(429, {"Retry-After": "86400"}), path=path)
    error = attempt.failure()
    assert isinstance(error, SourceUnavailable)
    assert error.retry_after_s == 86_400
    assert not attempt.pauses


def test_a_hub_that_never_answers_is_asked_three_times(attempt: Fetches, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_client, "_ANSWER_LIMIT_S", 0.1)
    attempt.hub.fail(NeverAnswers())
    error = attempt.failure()
    assert isinstance(error, SourceUnavailable)
    assert "timed out" in error.message
    assert len(attempt.hub.log) == 3


def test_what_a_failure_has_left_is_where_the_next_fetch_goes_on(attempt: Fetches) -> None:
    def want_an_hour(asked: Exchange) -> None:
        if asked.sent_bytes == 1000:
            attempt.hub.fail(Status(429, {"Retry-After": "3600"}), path=BYTES)

    attempt.hub.fail(Cut(1000), times=1)
    attempt.hub.when_done = want_an_hour
    assert isinstance(attempt.failure(), SourceUnavailable)
    assert attempt.partial.read_bytes() == MODEL[:1000]
    attempt.hub.heal()
    attempt()
    assert attempt.ranges == [START, at(1000), at(1000)]


# ------------------------------------------------------------------------------------------------ several files, hosts

PARTS = {f"m-{i:05}-of-00003.gguf": gguf() + bytes([i]) * 50_000 for i in (1, 2, 3)}


def test_the_parts_of_a_model_are_fetched_at_the_same_time(attempt: Fetches) -> None:
    attempt.hub.repositories["org/name"] = dict(PARTS)
    attempt.hub.fail(Stall(1000))
    with ThreadPoolExecutor() as pool:
        fetched = pool.submit(attempt)
        attempt.hub.wait_held(3)
        places = {asked.path for asked in attempt.hub.log if "/resolve/" in asked.path}
        attempt.hub.release()
        paths = fetched.result().paths
    assert len(places) == 3
    assert {path.name: path.read_bytes() for path in paths} == PARTS
    total = sum(map(len, PARTS.values()))
    assert {frame.total_bytes for frame in attempt.frames if isinstance(frame, Advance)} == {total}
    last = attempt.frames[-1]
    assert isinstance(last, Advance)
    assert (last.stage, last.bytes) == (LoadStage.DOWNLOADING, total)


def test_one_part_that_cannot_be_had_fails_the_model(attempt: Fetches) -> None:
    attempt.hub.repositories["org/name"] = dict(PARTS)
    attempt.hub.fail(REFUSALS["gated"], path="*-00002-of-*")
    error = attempt.failure()
    assert isinstance(error, PreflightFailed)
    assert error.kind is PreflightKind.GATED_REPO


def test_a_branch_that_moves_meanwhile_is_read_at_the_commit_that_was_listed(attempt: Fetches) -> None:
    attempt.hub.repositories["org/name"] = dict(PARTS)
    attempt.hub.fail(Moves(), times=1)
    fetched = attempt()
    assert fetched.commit != attempt.hub.commit
    assert {path.name: path.read_bytes() for path in fetched.paths} == PARTS
    assert all(f"/resolve/{fetched.commit}/" in asked.path for asked in attempt.hub.log[1:])


def test_a_hub_that_sends_bytes_from_elsewhere_gets_the_token_alone(tmp_path: Path) -> None:
    with fake_hub({"org/name": {"m.gguf": MODEL}}, cdn=True, token=TOKEN, private=["org/name"]) as hub:
        hub.fail(Cut(1000), times=1)
        attempt = Fetches(hub, tmp_path)
        attempt(token=TOKEN)
    assert {(asked.origin, asked.authorization) for asked in hub.log} == {("hub", f"Bearer {TOKEN}"), ("cdn", None)}
    assert TOKEN not in "".join(f"{asked.target}{asked.headers}" for asked in hub.log if asked.origin == "cdn")
    assert attempt.ranges == [START, START, at(1000), at(1000)]
    assert_sound(tmp_path)


@pytest.mark.parametrize("text", [f"Bearer {TOKEN} is no good", f"see http://h/?token={TOKEN}&signature=0123456789"])
def test_a_hub_that_repeats_the_token_does_not_put_it_into_our_mouth(
    attempt: Fetches, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    attempt.hub.fail(Status(503, {"X-Error-Message": text}), path=LISTING)
    error = attempt.failure(token=TOKEN)
    assert "asked with" not in error.message
    said = f"{error.message} {error.fields} {error!r} {caplog.text} {attempt.frames}"
    assert TOKEN not in said
    assert "0123456789" not in said


def test_nothing_of_a_hostile_listing_is_written_outside_its_place(attempt: Fetches, tmp_path: Path) -> None:
    attempt.hub.repositories["org/name"] = hostile_files() | {"m.gguf": MODEL}
    [path] = attempt().paths
    assert path.read_bytes() == MODEL
    assert list(tmp_path.rglob("*.gguf")) == [path]


def test_a_listing_that_is_nothing_but_hostile_has_no_model(attempt: Fetches, tmp_path: Path) -> None:
    attempt.hub.repositories["org/name"] = hostile_files()
    assert isinstance(attempt.failure(), PreflightFailed)
    assert not list(tmp_path.rglob("*.gguf"))
