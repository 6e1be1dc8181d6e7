"""A hub that fails in every way it can, the real client before it, and what is in the cache afterwards.

The fetch runs in the test's own process, so that its pauses take no time; `test_fetch_end_to_end` has the process.
"""

from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote

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
    Endless,
    EtagChange,
    Exchange,
    Fault,
    Gzip,
    GzipBomb,
    Moves,
    NeverAnswers,
    NoRange,
    Page,
    Redirect,
    Says,
    Stall,
    Status,
    WrongLength,
    hostile_files,
)
from tests.fakes.model_cache import assert_sound, known_file, order_for, repository_in

pytestmark = pytest.mark.process

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


@pytest.mark.parametrize(
    "text",
    [
        f"Bearer {TOKEN} is no good",
        f"see http://h/?token={TOKEN}&signature=0123456789",
        f"see http://user:{TOKEN}@h/",
        f"header {TOKEN.encode()!r}",
        f"header {quote(TOKEN)}",
        f"Basic {b64encode(f'user:{TOKEN}'.encode()).decode()}",
        *("x" * length + TOKEN for length in range(188, 200)),
    ],
)
def test_a_hub_that_repeats_the_token_does_not_put_it_into_our_mouth(
    attempt: Fetches, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    attempt.hub.fail(Status(503, {"X-Error-Message": text}), path=LISTING)
    error = attempt.failure(token=TOKEN)
    assert "asked with" not in error.message
    said = f"{error.message} {error.fields} {error!r} {caplog.text} {attempt.frames}"
    assert TOKEN[:6] not in said
    assert b64encode(TOKEN.encode()).decode()[:8] not in said
    assert "0123456789" not in said


@pytest.mark.parametrize("path", [LISTING, BYTES])
@pytest.mark.parametrize("status", [500, 403, 404])
def test_a_page_of_an_error_is_not_repeated(
    attempt: Fetches, status: int, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    attempt.hub.fail(Page(status, 5_000_000), path=path)
    error = attempt.failure(token=TOKEN)
    assert f"status {status}" in error.message
    assert "html" not in error.message
    assert len(error.message) < 400
    assert len(str(error.fields)) < 600
    assert all(len(message) < 500 for message in caplog.messages)
    assert max(asked.sent_bytes for asked in attempt.hub.log) <= 5_000_000


def test_what_a_hub_says_of_an_error_is_one_short_line(attempt: Fetches) -> None:
    attempt.hub.fail(Status(503, {"X-Error-Message": "a \x1b[2J  b" + " words" * 5000}), path=LISTING)
    message = attempt.failure().message
    assert "503 Service Unavailable: a \N{REPLACEMENT CHARACTER}[2J b words words" in message
    assert len(message) < 400


@pytest.mark.parametrize("fault", [Endless(), GzipBomb(200 << 20)])
def test_a_listing_without_an_end_is_refused_and_not_asked_for_again(attempt: Fetches, fault: Fault) -> None:
    attempt.hub.fail(fault)
    error = attempt.failure()
    assert isinstance(error, PreflightFailed)
    assert error.kind is PreflightKind.REPO_FETCH_FAILED
    assert "the hub's listing is malformed: it is longer than 33554432 bytes" in error.message
    assert len(attempt.hub.log) == 1
    assert attempt.hub.log[0].sent_bytes < 64 << 20


def test_a_listing_that_never_comes_to_its_end_is_given_up(attempt: Fetches, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_client, "_LISTING_LIMIT_S", 0.0)
    error = attempt.failure()
    assert isinstance(error, SourceUnavailable)
    assert "has not ended after 0 s" in error.message


def test_a_compressed_listing_is_read(attempt: Fetches) -> None:
    attempt.hub.fail(Gzip(), path=LISTING)
    assert attempt().paths[0].read_bytes() == MODEL


@pytest.mark.parametrize("coding", ["br", "zstd", "deflate", "gzip, gzip"])
def test_a_coding_that_was_not_asked_for_is_refused_by_name(attempt: Fetches, coding: str) -> None:
    attempt.hub.fail(Status(200, {"Content-Encoding": coding}), path=LISTING)
    assert coding in attempt.failure().message


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ('{"sha":"%s","siblings":[{"rfilename":"m.gguf","size":"12"}]}', "`size` of 'm.gguf'"),
        ('{"sha":"%s","siblings":[{"rfilename":"m.gguf","size":-1}]}', "`size` of 'm.gguf'"),
        ('{"sha":"%s","siblings":[{"rfilename":7}]}', "`rfilename` of entry 1"),
        ('{"sha":"%s","siblings":"many"}', "`siblings`"),
        ('{"sha":"%.5s"}', "names no commit"),
        ("[]", "expected"),
    ],
)
def test_a_malformed_listing_is_refused_with_what_is_wrong_and_no_bug(
    attempt: Fetches, document: str, words: str
) -> None:
    attempt.hub.fail(Says(document % ("c" * 40) if "%" in document else document))
    error = attempt.failure()
    assert isinstance(error, PreflightFailed)
    assert error.kind is PreflightKind.REPO_FETCH_FAILED
    assert "the hub's listing is malformed: " in error.message
    assert words in error.message
    assert "bug" not in error.message
    assert len(attempt.hub.log) == 1


def test_a_listing_that_is_no_json_may_be_one_the_next_time(attempt: Fetches) -> None:
    attempt.hub.fail(Says("<html>please log in"), times=1)
    attempt()
    assert attempt.pauses == [0.5]


@pytest.mark.parametrize("target", ["{path}", "/elsewhere"])
def test_a_listing_that_goes_round_in_circles_is_worth_a_retry(attempt: Fetches, target: str) -> None:
    attempt.hub.fail(Redirect(target), path="*")
    error = attempt.failure()
    assert isinstance(error, SourceUnavailable)
    assert "redirects" in error.message
    assert len(attempt.hub.log) < 100


@pytest.mark.parametrize(
    "token",
    [
        "Bearer hf_SECRET",
        "hf_SEC\nRET",
        "hf_SEC\rRET",
        "hf_SEC\x00RET",
        "abc\u00e9\u201c",
        "hf_\ud800SECRET",
        "x" * 10_000,
    ],
)
def test_a_token_that_no_header_can_hold_is_refused_by_its_place_and_sent_nowhere(
    attempt: Fetches, token: str, caplog: pytest.LogCaptureFixture
) -> None:
    error = attempt.failure(token=token)
    assert isinstance(error, PreflightFailed)
    assert "the token in HUB_TOKEN cannot be sent" in error.message
    assert not attempt.hub.log
    assert not attempt.pauses
    said = f"{error.message} {error.fields} {caplog.text}"
    for part in ("SEC", "RET", "abc", "\u201c", "xxxx"):
        assert part not in said


def test_a_token_is_sent_without_the_white_space_around_it(attempt: Fetches) -> None:
    attempt(token=f" {TOKEN}\r\n")
    assert set(attempt.hub.tokens) == {f"Bearer {TOKEN}"}


def test_the_token_of_a_listing_that_says_too_little_goes_to_no_other_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.fakehub.sibling", lambda name, _: {"rfilename": name})
    with fake_hub({"org/name": {"m.gguf": MODEL}}, cdn=True, token=TOKEN, private=["org/name"]) as hub:
        attempt = Fetches(hub, tmp_path)
        assert attempt(token=TOKEN).paths[0].read_bytes() == MODEL
        with fake_hub({"org/name": {"m.gguf": MODEL}}) as other:
            hub.fail(Redirect(f"{other.url}{{path}}"))
            Fetches(hub, tmp_path / "anew")(token=TOKEN)
    assert {(asked.origin, asked.authorization) for asked in hub.log} == {("hub", f"Bearer {TOKEN}"), ("cdn", None)}
    assert set(other.tokens) == {None}


@pytest.mark.parametrize(
    ("headers", "kind"),
    [
        ({"X-Error-Message": "Invalid username or password."}, PreflightKind.REPO_NOT_FOUND),
        ({"X-Error-Message": "Invalid credentials in Authorization header"}, PreflightKind.REPO_FETCH_FAILED),
        ({}, PreflightKind.REPO_FETCH_FAILED),
    ],
)
def test_a_401_of_the_public_hub_says_whether_the_repository_or_the_token_is_meant(
    attempt: Fetches, headers: dict[str, str], kind: PreflightKind
) -> None:
    attempt.hub.fail(Status(401, headers), path=LISTING)
    error = attempt.failure(token=TOKEN)
    assert isinstance(error, PreflightFailed)
    assert error.kind is kind
    assert "asked with the token in HUB_TOKEN" in error.message


def test_a_listing_that_is_elsewhere_is_asked_for_there_without_the_token(attempt: Fetches) -> None:
    with fake_hub({"org/name": {"m.gguf": MODEL}}) as other:
        attempt.hub.fail(Redirect(f"{other.url}{{path}}?blobs=true"), path=LISTING)
        attempt(token=TOKEN)
    assert other.tokens == [None]
    assert set(attempt.hub.tokens) == {f"Bearer {TOKEN}"}


def test_a_file_that_is_asked_about_elsewhere_is_not_asked_about_with_the_token(
    attempt: Fetches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.fakehub.sibling", lambda name, _: {"rfilename": name})
    with fake_hub({"org/name": {"m.gguf": MODEL}}) as other:
        place = f"{other.url}/org/name/resolve/main/m.gguf"
        attempt.hub.fail(Status(307, {"Location": place}), path=BYTES)
        assert "tells neither ETag nor size of m.gguf" in attempt.failure(token=TOKEN).message
    assert not other.log


def test_a_file_of_a_repository_that_was_renamed_is_asked_about_at_its_new_place(
    attempt: Fetches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.fakehub.sibling", lambda name, _: {"rfilename": name})
    place = f"/org/name/resolve/{attempt.hub.commit}/m.gguf"
    attempt.hub.fail(Status(307, {"Location": place}), path=BYTES, times=1)
    assert attempt(token=TOKEN).paths[0].read_bytes() == MODEL


def test_a_name_that_no_repository_can_have_is_not_asked_for(attempt: Fetches) -> None:
    error = attempt.failure(repo_id="org/name/with/more")
    assert error.message.endswith(": its name cannot be that of a repository on a hub")
    assert not attempt.hub.log


def test_nothing_of_a_hostile_listing_is_written_outside_its_place(attempt: Fetches, tmp_path: Path) -> None:
    attempt.hub.repositories["org/name"] = hostile_files() | {"m.gguf": MODEL}
    [path] = attempt().paths
    assert path.read_bytes() == MODEL
    assert list(tmp_path.rglob("*.gguf")) == [path]


def test_a_listing_that_is_nothing_but_hostile_has_no_model(attempt: Fetches, tmp_path: Path) -> None:
    attempt.hub.repositories["org/name"] = hostile_files()
    assert isinstance(attempt.failure(), PreflightFailed)
    assert not list(tmp_path.rglob("*.gguf"))
