"""The fake hub keeps to the protocol of the real client where it is well, and fails exactly as told."""

import gzip
import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection, HTTPResponse, IncompleteRead
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.fakehub import FakeHub, fake_hub
from tests.fakes.hub_faults import (
    BadContentRange,
    Chunked,
    Corrupt,
    Cut,
    Drip,
    EtagChange,
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
    parse_fault,
)
from tests.fakes.hub_files import Content
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.process

MODEL = b"GGUF" + bytes(range(96))
FILES: dict[str, Content] = {"README.md": b"hello", "m.gguf": MODEL, "more/big.bin": bytes((1 << 20) + 1)}
LISTING = "/api/models/org/name"
PLACE = "/org/name/resolve/main/m.gguf"
TOKEN, OTHER_TOKEN = "hf_secret", "hf_other"
ROOT = Path(__file__).parents[3]


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with fake_hub({"org/name": FILES}) as running:
        yield running


@pytest.fixture
def cdn_hub() -> Iterator[FakeHub]:
    with fake_hub({"org/name": FILES}, cdn=True, token=TOKEN, private=["org/name"]) as running:
        yield running


class Asker:
    """Sends requests, each over a connection of its own that `close` ends. A URL may be the path of another."""

    def __init__(self) -> None:
        self.connections: list[HTTPConnection] = []

    def send(self, url: str, path: str, *, method: str = "GET", **headers: str) -> HTTPConnection:
        connection = HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE_S)
        self.connections.append(connection)
        target = path.removeprefix(f"http://{connection.host}:{connection.port}")
        connection.request(method, target, headers={name.replace("_", "-"): value for name, value in headers.items()})
        return connection

    def __call__(self, url: str, path: str = PLACE, *, method: str = "GET", **headers: str) -> HTTPResponse:
        return self.send(url, path, method=method, **headers).getresponse()

    def close(self) -> None:
        for connection in self.connections:
            connection.close()


@pytest.fixture
def ask() -> Iterator[Asker]:
    with closing(Asker()) as asker:
        yield asker


def siblings(answer: HTTPResponse) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(answer.read())["siblings"]
    return found


# ------------------------------------------------------------------------------------------------ the real client


def test_the_real_client_reads_sizes_and_hashes(hub: FakeHub) -> None:
    listed = HfApi(endpoint=hub.url).model_info("org/name", files_metadata=True).siblings
    assert listed
    readme, model, big = listed
    assert (readme.rfilename, readme.size, readme.lfs) == ("README.md", 5, None)
    assert readme.blob_id == "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0"  # what `git hash-object` says of "hello"
    assert model.lfs
    assert model.lfs.sha256 == hashlib.sha256(MODEL).hexdigest()
    assert model.lfs.size == model.size == 100
    assert big.rfilename == "more/big.bin"
    assert big.lfs


def test_the_real_client_reads_the_tree(hub: FakeHub) -> None:
    entries = {entry.path: entry for entry in HfApi(endpoint=hub.url).list_repo_tree("org/name", recursive=True)}
    assert entries.keys() == FILES.keys()
    assert getattr(entries["m.gguf"], "lfs").sha256 == hashlib.sha256(MODEL).hexdigest()  # noqa: B009 - or a folder


def test_the_real_client_downloads_what_is_there(hub: FakeHub, tmp_path: Path) -> None:
    for name, content in FILES.items():
        path = hf_hub_download("org/name", name, endpoint=hub.url, cache_dir=tmp_path)
        assert Path(path).read_bytes() == content
    assert hub.requests[:2] == ["HEAD /org/name/resolve/main/README.md", "GET /org/name/resolve/main/README.md"]


def test_the_real_client_takes_a_snapshot_of_a_branch(hub: FakeHub, tmp_path: Path) -> None:
    commit = hub.push("org/name", {"m.gguf": b"GGUF of a branch"}, branch="refs/pr/1")
    folder = snapshot_download("org/name", revision="refs/pr/1", endpoint=hub.url, cache_dir=tmp_path)
    assert Path(folder).name == commit
    assert Path(folder, "m.gguf").read_bytes() == b"GGUF of a branch"


def test_the_token_of_the_real_client_opens_the_hub_and_never_reaches_the_cdn(cdn_hub: FakeHub, tmp_path: Path) -> None:
    path = hf_hub_download("org/name", "m.gguf", endpoint=cdn_hub.url, cache_dir=tmp_path, token=TOKEN)
    assert Path(path).read_bytes() == MODEL
    assert [(asked.origin, asked.method, asked.status, asked.authorization) for asked in cdn_hub.log] == [
        ("hub", "HEAD", 302, f"Bearer {TOKEN}"),
        ("cdn", "GET", 200, None),
    ]


@pytest.mark.parametrize(
    ("repository", "file", "revision", "error"),
    [
        ("org/private", "m.gguf", "main", RepositoryNotFoundError),
        ("org/gated", "m.gguf", "main", GatedRepoError),
        ("org/absent", "m.gguf", "main", RepositoryNotFoundError),
        ("org/gated", "m.gguf", "absent", RevisionNotFoundError),
        ("org/open", "absent.gguf", "main", RemoteEntryNotFoundError),
    ],
)
def test_a_refusal_is_what_the_real_client_takes_it_for(
    repository: str, file: str, revision: str, error: type[Exception], tmp_path: Path
) -> None:
    names = ("org/open", "org/private", "org/gated")
    repositories = dict.fromkeys(names, FILES)
    with (
        fake_hub(repositories, token=TOKEN, private=["org/private"], gated=["org/gated"]) as hub,
        pytest.raises(error),
    ):
        hf_hub_download(repository, file, revision=revision, endpoint=hub.url, cache_dir=tmp_path, token=OTHER_TOKEN)


def test_only_the_right_token_opens_gated_files_and_anyone_may_list_them(ask: Asker) -> None:
    with fake_hub({"org/name": FILES}, token=TOKEN, gated=["org/name"]) as hub:
        assert ask(hub.url, LISTING).status == 200
        assert ask(hub.url).status == 403
        assert ask(hub.url, Authorization=f"Bearer {TOKEN}").read() == MODEL


# --------------------------------------------------------------------------------------------------- the protocol


def test_a_listing_says_more_than_names_only_when_asked(hub: FakeHub, ask: Asker) -> None:
    assert siblings(ask(hub.url, LISTING)) == [{"rfilename": name} for name in FILES]
    assert siblings(ask(hub.url, f"{LISTING}/revision/main?blobs=True"))[0]["size"] == 5


def test_a_commit_stays_what_it_was_when_its_branch_moves(hub: FakeHub, ask: Asker) -> None:
    first, second = hub.commit, hub.push("org/name", {"m.gguf": b"GGUF later"})
    assert ask(hub.url, f"/org/name/resolve/{first}/m.gguf").read() == MODEL
    for revision in (second, "main"):
        answer = ask(hub.url, f"/org/name/resolve/{revision}/m.gguf")
        assert (answer.headers["X-Repo-Commit"], answer.read()) == (second, b"GGUF later")


def test_head_says_what_get_would_send(hub: FakeHub, ask: Asker) -> None:
    head, got = ask(hub.url, method="HEAD"), ask(hub.url)
    assert head.headers.items() == got.headers.items()
    assert (head.read(), got.read()) == (b"", MODEL)
    assert got.headers["X-Linked-Etag"] == got.headers["ETag"] == f'"{hashlib.sha256(MODEL).hexdigest()}"'
    assert got.headers["X-Linked-Size"] == got.headers["Content-Length"] == "100"


@pytest.mark.parametrize(
    ("wanted", "status", "told", "body"),
    [
        ("bytes=0-", 206, "bytes 0-99/100", MODEL),
        ("bytes=4-", 206, "bytes 4-99/100", MODEL[4:]),
        ("bytes=4-7", 206, "bytes 4-7/100", MODEL[4:8]),
        ("bytes=99-500", 206, "bytes 99-99/100", MODEL[99:]),
        ("bytes=100-", 416, "bytes */100", b""),
        ("bytes=7-4", 416, "bytes */100", b""),
        ("lines=1-", 200, None, MODEL),
    ],
)
def test_a_range_is_served_as_asked_from_memory_and_from_disk(
    wanted: str, status: int, told: str | None, body: bytes, tmp_path: Path
) -> None:
    (tmp_path / "m.gguf").write_bytes(MODEL)
    with (
        fake_hub({"org/name": {"m.gguf": MODEL}, "org/disk": {"m.gguf": tmp_path / "m.gguf"}}) as hub,
        closing(Asker()) as ask,
    ):
        for repository in ("org/name", "org/disk"):
            answer = ask(hub.url, f"/{repository}/resolve/main/m.gguf", Range=wanted)
            assert (answer.status, answer.headers["Content-Range"], answer.read()) == (status, told, body)
            assert (hub.log[-1].range, hub.log[-1].status, hub.log[-1].sent_bytes) == (wanted, status, len(body))


def test_a_range_of_another_version_is_answered_with_all_of_this_one(hub: FakeHub, ask: Asker) -> None:
    etag = ask(hub.url, method="HEAD").headers["ETag"]
    assert ask(hub.url, Range="bytes=4-", If_Range=etag).status == 206
    assert ask(hub.url, Range="bytes=4-", If_Range='"other"').status == 200


def test_the_cdn_sends_large_files_and_their_ranges_and_the_hub_small_ones(cdn_hub: FakeHub, ask: Asker) -> None:
    small = ask(cdn_hub.url, "/org/name/resolve/main/README.md", Authorization=f"Bearer {TOKEN}")
    assert (small.status, small.read()) == (200, b"hello")
    location = ask(cdn_hub.url, Authorization=f"Bearer {TOKEN}").headers["Location"]
    assert location.startswith(f"{cdn_hub.cdn_url}/cdn/org/name/resolve/{cdn_hub.commit}/m.gguf?")
    assert ask(location, location, Range="bytes=90-").read() == MODEL[90:]


def test_hostile_files_are_listed_and_served(ask: Asker) -> None:
    with fake_hub({"org/name": FILES | hostile_files()}) as hub:
        names = {sibling["rfilename"] for sibling in siblings(ask(hub.url, LISTING))}
        assert {"m.gguf", "../../x.gguf", "/x.gguf"} < names
        assert len(names) > 5000
        assert max(map(len, names)) > 300
        assert ask(hub.url, "/org/name/resolve/main/../../x.gguf").read() == b"hostile"


# ----------------------------------------------------------------------------------------------------- the faults


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("503", {}),
        ("429:86400", {"Retry-After": "86400"}),
        ("gated", {"X-Error-Code": "GatedRepo"}),
    ],
)
def test_a_status_comes_with_its_headers(hub: FakeHub, ask: Asker, fault: str, told: dict[str, str]) -> None:
    status = parse_fault(fault)
    assert isinstance(status, Status)
    hub.fail(status)
    for path in (LISTING, PLACE):
        answer = ask(hub.url, path)
        assert answer.status == status.status
        assert told.items() <= dict(answer.headers).items()
        answer.read()


def test_a_cut_ends_the_body_and_the_rest_can_be_asked_for(hub: FakeHub, ask: Asker) -> None:
    hub.fail(Cut(30), times=1)
    with pytest.raises(IncompleteRead) as cut:
        ask(hub.url).read()
    assert cut.value.partial + ask(hub.url, Range="bytes=30-").read() == MODEL
    assert [asked.sent_bytes for asked in hub.log] == [30, 70]


def test_a_stall_sends_so_much_and_the_rest_when_released(hub: FakeHub, ask: Asker) -> None:
    hub.fail(Stall(30))
    answer = ask(hub.url)
    hub.wait_held()
    assert hub.log[0].sent_bytes == 30
    hub.release()
    assert answer.read() == MODEL


def test_a_hub_that_never_answers_does_when_released(hub: FakeHub, ask: Asker) -> None:
    hub.fail(NeverAnswers(), path="/api/*")
    waiting = ask.send(hub.url, LISTING)
    hub.wait_held()
    assert ask(hub.url).read() == MODEL
    hub.release()
    assert len(siblings(waiting.getresponse())) == len(FILES)


def test_a_drip_sends_all_of_it_in_small_pieces(hub: FakeHub, ask: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses_s: list[float] = []
    monkeypatch.setattr("tests.fakehub.time.sleep", pauses_s.append)
    hub.fail(Drip(200))
    assert ask(hub.url).read() == MODEL
    assert set(pauses_s) == {0.05}


@pytest.mark.parametrize(
    ("fault", "length", "body"),
    [
        (Corrupt(), "100", MODEL[:-1] + bytes([MODEL[-1] ^ 0xFF])),
        (WrongLength(), "101", MODEL + b"\0"),
        (WrongLength(-3), "97", MODEL[:-3]),
        (Chunked(), None, MODEL),
    ],
)
def test_wrong_bytes_come_as_told(hub: FakeHub, ask: Asker, fault: Fault, length: str | None, body: bytes) -> None:
    hub.fail(fault)
    answer = ask(hub.url)
    assert (answer.status, answer.headers["Content-Length"], answer.read()) == (200, length, body)
    assert ask(hub.url, method="HEAD").headers["Content-Length"] == "100"


def test_a_compressed_body_comes_unasked(hub: FakeHub, ask: Asker) -> None:
    hub.fail(Gzip())
    answer = ask(hub.url, Accept_Encoding="identity")
    assert answer.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(answer.read()) == MODEL


def test_an_etag_changes_between_head_and_get(hub: FakeHub, ask: Asker) -> None:
    hub.fail(EtagChange())
    assert ask(hub.url, method="HEAD").headers["ETag"] != ask(hub.url).headers["ETag"] == f'"{"e" * 64}"'


@pytest.mark.parametrize("wanted", ["bytes=4-", "bytes=100-"])
def test_a_hub_without_ranges_sends_everything(hub: FakeHub, ask: Asker, wanted: str) -> None:
    hub.fail(NoRange())
    answer = ask(hub.url, Range=wanted)
    assert (answer.status, answer.headers["Content-Range"], answer.read()) == (200, None, MODEL)


def test_a_wrong_content_range_comes_with_the_part_asked_for(hub: FakeHub, ask: Asker) -> None:
    hub.fail(BadContentRange())
    answer = ask(hub.url, Range="bytes=4-")
    assert (answer.status, answer.headers["Content-Range"], answer.read()) == (206, "bytes 5-99/100", MODEL[4:])


def test_main_moves_once_it_is_listed(hub: FakeHub, ask: Asker) -> None:
    hub.fail(Moves(), times=1)
    first = json.loads(ask(hub.url, LISTING).read())["sha"]
    assert ask(hub.url).read() != MODEL
    assert ask(hub.url, f"/org/name/resolve/{first}/m.gguf").read() == MODEL


@pytest.mark.parametrize("location", ["http://localhost:9/x", "file:///etc/hostname", "{path}"])
def test_a_redirect_leads_where_told(hub: FakeHub, ask: Asker, location: str) -> None:
    hub.fail(Redirect(location))
    answer = ask(hub.url, method="HEAD")
    assert (answer.status, answer.headers["Location"]) == (302, location.replace("{path}", PLACE))


def test_faults_strike_as_often_and_where_they_should_and_together(hub: FakeHub, ask: Asker) -> None:
    hub.fail(Status(503), path="*.md", times=2)
    hub.fail(Corrupt(), path="*.gguf", times=1)
    hub.fail(WrongLength(-1))
    assert [ask(hub.url, "/org/name/resolve/main/README.md").status for _ in range(3)] == [503, 503, 200]
    assert ask(hub.url, method="HEAD").status == 200  # has no bytes to spoil, so it uses nothing up
    assert [ask(hub.url).read() for _ in range(2)] == [MODEL[:-1]] * 2
    hub.heal()
    assert ask(hub.url).read() == MODEL


def test_the_bytes_of_the_cdn_can_be_spoiled_too(cdn_hub: FakeHub, ask: Asker) -> None:
    cdn_hub.fail(Cut(30), times=1)
    location = ask(cdn_hub.url, Authorization=f"Bearer {TOKEN}").headers["Location"]
    with pytest.raises(IncompleteRead):
        ask(location, location).read()


def test_a_hub_that_is_down_cuts_everyone_off_and_comes_back_at_the_same_place(hub: FakeHub, ask: Asker) -> None:
    idle = ask.send(hub.url, LISTING)
    idle.getresponse().read()
    hub.down()
    assert idle.sock.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        ask(hub.url)
    hub.up()
    assert ask(hub.url).read() == MODEL


@pytest.mark.parametrize("text", ["", "nonsense", "cut", "cut:many", "drip:1.5"])
def test_what_is_no_fault_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"Invalid|Expected"):
        parse_fault(text)


# -------------------------------------------------------------------------------------------------------- by hand


@pytest.mark.system
def test_the_hub_runs_by_hand_shows_its_log_without_secrets_and_ends_on_ctrl_c(tmp_path: Path, ask: Asker) -> None:
    folder = tmp_path / "org" / "name"
    folder.mkdir(parents=True)
    (folder / "m.gguf").write_bytes(MODEL)
    arguments = (tmp_path, f"org/other={folder / 'm.gguf'}", "--token", TOKEN, "--fault", "503@1")
    with subprocess.Popen(
        [sys.executable, "-m", "tests.fakehub", *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        url = process.stdout.readline().strip()
        statuses = [ask(url, place, Authorization=f"Bearer {TOKEN}").status for place in (LISTING, LISTING, PLACE)]
        statuses += [ask(url, "/org/other/resolve/main/m.gguf").status]
        lines = [process.stdout.readline() for _ in statuses]
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert statuses == [503, 200, 200, 401]
    assert f"hub GET {PLACE} with a token -> 200, 100 bytes\n" in lines
    assert TOKEN not in "".join(lines)
    assert (process.returncode, rest) == (0, "")
