"""`neuron pull`, `ls` and `rm` as somebody types them, against a hub and a service on loopback."""

import errno
import io
import json
import logging
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from neuron_lib.sources import ModelStore
from neuron_lib.types import LoadProgress, LoadStage
from neuron_service import models_cli
from neuron_service.cli import main
from neuron_service.models_cli import ProgressLine, render_bar
from tests.fakehub import FakeHub, fake_hub
from tests.fakes.fetch_in_thread import fetch_in_thread
from tests.fakes.gguf_bytes import gguf
from tests.fakes.hub_faults import Status

GGUF = gguf()
FILES = {"m-Q4_K_M.gguf": GGUF, "m-Q8_0.gguf": GGUF + b"\0" * 8}


@pytest.fixture
def hub(process: None) -> Iterator[FakeHub]:
    with fake_hub({"org/name": FILES}) as running:
        yield running


@pytest.fixture
def directory(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a `neuron.toml` for that hub, a cache beside it, and no service."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models_cli, "_loaded_ids", lambda _config: frozenset())
    Path("neuron.toml").write_text(f"""
        default_models = [{{ model_id = "my/alias", harness = "llamacpp" }}]
        models = [{{ id = "my/alias", repo = "org/name", quant = "q8_0" }}, {{ id = "my/file", path = "/m.gguf" }}]
        harness.llamacpp.sources.huggingface = {{ endpoint = "{hub.url}", cache_dir = "{tmp_path}/cache" }}
    """)
    return tmp_path


@pytest.fixture
def _no_fetch_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{ModelStore.__module__}.run_fetch", fetch_in_thread)


@pytest.fixture
def place(directory: Path, _no_fetch_process: None) -> Path:
    """The same directory, and models are fetched in a thread of this process, which is quicker."""
    return directory


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    logging.shutdown()  # as the interpreter does at its end
    assert isinstance(ended.value.code, int)
    return ended.value.code


def cached_models(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert run("ls", "--json") == 0
    return [model for model in json.loads(capsys.readouterr().out)["models"] if model["commit"] is not None]


def test_a_pulled_model_is_printed_as_a_path_and_then_listed(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("pull", "org/name") == 0
    out, err = capsys.readouterr()
    assert Path(out.strip()).read_bytes() == GGUF
    assert err.startswith("org/name: resolving\norg/name: downloading")
    assert cached_models(capsys) == [
        {
            "id": "huggingface:org/name",
            "quant": "Q4_K_M",
            "size_bytes": len(GGUF),
            "files": ["m-Q4_K_M.gguf"],
            "commit": "a" * 40,
            "is_verified": True,
            "missing": None,
            "used_by": ["my/alias", "default"],
        }
    ]


def test_a_quant_and_the_entry_of_an_id_are_heeded(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("pull", "my/alias") == 0
    assert [model["quant"] for model in cached_models(capsys)] == ["Q8_0"]
    assert run("pull", "huggingface:org/name", "--quant", "q4km") == 0
    assert [model["quant"] for model in cached_models(capsys)] == ["Q4_K_M", "Q8_0"]


def test_an_id_may_name_its_quant(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("pull", "hf.co/org/name:Q8_0", "my/alias:q4km") == 0
    assert [model["quant"] for model in cached_models(capsys)] == ["Q4_K_M", "Q8_0"]
    assert run("rm", "org/name:q8-0", "--yes") == 0
    assert [model["quant"] for model in cached_models(capsys)] == ["Q4_K_M"]
    assert run("pull", "my/alias:Q8_0", "--revision", "main") == 0
    assert [model["quant"] for model in cached_models(capsys)] == ["Q4_K_M", "Q8_0"]
    for command in ("pull", "rm"):
        assert run(command, "org/name:Q8_0", "--quant", "Q4_K_M") == 1
        assert "names a quant, and the request another" in capsys.readouterr().err


def test_a_pull_asks_for_the_newest_commit(hub: FakeHub, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("pull", "org/name") == 0
    newer = hub.push("org/name", {"m-Q4_K_M.gguf": GGUF + b"\0" * 16})
    assert run("pull", "org/name") == 0
    assert {model["commit"] for model in cached_models(capsys)} == {"a" * 40, newer}


@pytest.mark.parametrize(
    ("arguments", "status", "expected"),
    [
        (("pull", "org/none"), 1, "no token"),
        (("pull", "org/name", "--quant", "f16"), 1, "nearest"),
        (("pull", "nonsense"), 1, "has no slash"),
        (("pull", "other:org/name"), 1, "configured: huggingface"),
        (("pull", "org/name", "--revision", "v9"), 1, "v9"),
        (("pull", "my/file", "--revision", "v9"), 1, "means nothing beside `path`"),
        (("rm", "org/name", "--yes"), 1, "; there is no model in it"),
        (("rm", "my/file", "--yes"), 1, "not ours to delete"),
        (("pull", "org/name", "--revision", "../x"), 2, "is no branch, tag or commit"),
    ],
)
def test_a_refusal_is_one_line_that_says_why(
    place: Path, arguments: tuple[str, ...], status: int, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == status
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith(("neuron: ", "neuron pull: "))
    assert expected in last


def test_a_hub_in_trouble_is_a_status_of_its_own_so_that_scripts_can_try_again(
    hub: FakeHub, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.fail(Status(429, {"Retry-After": "3600"}))
    assert run("pull", "org/name") == os.EX_TEMPFAIL
    assert "429" in capsys.readouterr().err


def test_an_interrupted_pull_says_that_nothing_is_lost(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("anyio.run", interrupt)
    assert run("pull", "org/name") == 130
    assert "the next pull goes on there" in capsys.readouterr().err


def test_a_broken_configuration_is_told_as_for_serve(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "neuron.toml").write_text("prot = 1")
    assert run("ls") == os.EX_CONFIG
    assert "did you mean `port`?" in capsys.readouterr().err


def test_the_table_has_a_line_for_each_model_and_unfinished_download(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("pull", "org/name")
    partial = place / "cache" / "models--org--name" / "blobs" / f"{'f' * 64}.incomplete"
    partial.write_bytes(b"half")
    capsys.readouterr()
    assert run("ls") == 0
    head, file, row, unfinished, incomplete = capsys.readouterr().out.splitlines()
    assert head.split() == ["MODEL", "QUANT", "SIZE", "FILES", "COMMIT", "VERIFIED", "USED", "BY"]
    assert file.split() == ["my/file", "-", "missing", "0", "-", "-", "-"]
    assert row.split()[:2] == ["huggingface:org/name", "Q4_K_M"]
    assert incomplete == "incomplete: my/file has no /m.gguf"
    assert unfinished.startswith("unfinished: 0.0 MB")
    assert run("rm", "--partials") == 0
    assert not partial.exists()


def test_a_host_without_models_is_told_where_they_were_looked_for(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Path("neuron.toml").open("w") as config:
        config.write(f"""harness.llamacpp.hf_cache = "{place}/a"
            harness.llamacpp.sources.mirror = {{ endpoint = "http://127.0.0.1:9", cache_dir = "{place}/b" }}""")
    assert run("ls") == 0
    out = capsys.readouterr().out
    assert out == f"no models in {place}/a (the cache of huggingface)\nno models in {place}/b (the cache of mirror)\n"
    assert run("ls", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"models": [], "unfinished": []}


def test_a_removed_model_is_gone_with_its_content(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("pull", "org/name", "my/alias")
    assert run("rm", "my/alias", "--yes") == 0  # whose entry has a quant
    assert [model["quant"] for model in cached_models(capsys)] == ["Q4_K_M"]
    run("pull", "my/alias")
    assert run("rm", "org/name", "--quant", "q4_k_m", "--yes") == 0
    assert [model["quant"] for model in cached_models(capsys)] == ["Q8_0"]
    assert run("rm", "org/name", "--yes") == 0
    assert not (place / "cache" / "models--org--name").exists()


def test_what_is_there_is_said_when_nothing_matches(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("pull", "org/name")
    assert run("rm", "org/other", "--yes") == 1
    assert "; there is org/name\n" in capsys.readouterr().err
    assert run("rm", "org/name", "--quant", "q2_k", "--yes") == 1
    assert "available: m-q4_k_m.gguf" in capsys.readouterr().err


def test_a_revision_goes_before_that_of_the_entry(
    hub: FakeHub, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tagged = hub.push("org/name", {"m-Q8_0.gguf": GGUF + b"\0" * 16}, branch="v1")
    assert run("pull", "my/alias", "--revision", "v1") == 0
    assert [model["commit"] for model in cached_models(capsys)] == [tagged]


def test_a_split_model_that_lost_a_part_is_told_and_can_be_deleted(
    hub: FakeHub, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.push("org/name", {f"m-Q4_K_M-0000{n}-of-00002.gguf": GGUF + bytes(n) for n in (1, 2)})
    run("pull", "org/name")
    [lost] = (place / "cache").rglob("snapshots/*/*00002-of*")
    lost.unlink()
    assert [model["missing"] for model in cached_models(capsys)] == [lost.name]
    assert run("rm", "org/name", "--yes") == 0
    assert cached_models(capsys) == []


def test_a_cache_that_two_sources_share_is_listed_once(
    hub: FakeHub, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Path("neuron.toml").open("a") as config:
        config.write(f'\nharness.llamacpp.sources.a = {{ endpoint = "{hub.url}", cache_dir = "{place}/cache" }}\n')
    run("pull", "a:org/name")
    assert [model["id"] for model in cached_models(capsys)] == ["huggingface:org/name"]


def test_a_file_that_cannot_be_deleted_is_named(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("pull", "org/name")

    def refuse(path: Path, **_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)  # root may delete everything, whatever the mode
    assert run("rm", "org/name", "--yes") == 1
    assert "m-Q4_K_M.gguf: Permission denied" in capsys.readouterr().err


def test_a_model_that_was_loaded_while_we_asked_stays(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("pull", "org/name")
    answers = iter([frozenset[str](), frozenset({"my/alias"})])
    monkeypatch.setattr("sys.stdin", _Terminal("y\n"))
    with monkeypatch.context() as patch:
        patch.setattr(models_cli, "_loaded_ids", lambda _config: next(answers))
        assert run("rm", "org/name") == 1
    assert "my/alias is loaded" in capsys.readouterr().err
    assert len(cached_models(capsys)) == 1


def test_content_that_another_commit_uses_stays(hub: FakeHub, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("pull", "org/name")
    hub.push("org/name", {"renamed-Q4_K_M.gguf": GGUF, "m-Q8_0.gguf": GGUF + b"\0" * 8})
    run("pull", "org/name")
    assert run("rm", "org/name", "--quant", "m-q4_k_m", "--yes") == 0
    [left] = cached_models(capsys)
    assert left["files"] == ["renamed-Q4_K_M.gguf"]
    assert left["is_verified"]


def test_without_a_terminal_nothing_is_deleted_unless_that_is_said(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run("pull", "org/name")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert run("rm", "org/name") == os.EX_USAGE
    assert "--yes" in capsys.readouterr().err
    assert len(cached_models(capsys)) == 1


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "left"), [("y", 0), ("YES ", 0), ("n", 1), ("", 1)])
def test_on_a_terminal_it_asks(
    place: Path, answer: str, left: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run("pull", "org/name")
    monkeypatch.setattr("sys.stdin", _Terminal(f"{answer}\n"))
    assert run("rm", "org/name") == (1 if left else 0)
    assert len(cached_models(capsys)) == left


# --------------------------------------------------------------------------------------------- beside a running service


class _Service(BaseHTTPRequestHandler):
    """Answers every request with `body`."""

    body = b""

    def do_GET(self) -> None:
        if self.body == b"null":
            self.wfile.write(b"SSH-2.0\r\n")
            return
        self.send_response(200)
        self.send_header("content-length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.usefixtures("_no_fetch_process")
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"models": [{"id": "my/alias"}], "loading": []}, "my/alias is loaded"),
        ({"models": [], "loading": [{"model_id": "org/name"}]}, "org/name is loaded"),
        ({"models": [{"id": "other/model"}]}, None),
        ("somebody else", "is not neuron"),
        (None, "does not answer"),
    ],
)
def test_a_model_that_the_service_has_is_not_deleted(
    hub: FakeHub, tmp_path: Path, body: object, expected: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    service = type("Service", (_Service,), {"body": json.dumps(body).encode()})
    with HTTPServer(("127.0.0.1", 0), service) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        config = tmp_path / "c.toml"
        config.write_text(f"""
            port = {server.server_port}
            models = [{{ id = "my/alias", repo = "org/name" }}]
            harness.llamacpp.sources.huggingface = {{ endpoint = "{hub.url}", cache_dir = "{tmp_path}/cache" }}
        """)
        try:
            assert run("pull", "org/name", "-c", str(config)) == 0
            capsys.readouterr()
            assert run("rm", "org/name", "--yes", "-c", str(config)) == (1 if expected else 0)
        finally:
            server.shutdown()
            thread.join()
    if expected:
        assert expected in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------------------- progress

HALF = LoadProgress(
    stage=LoadStage.DOWNLOADING, fraction=0.5, bytes=5 * 10**8, total_bytes=10**9, bytes_per_s=10**6, eta_s=500
)


def test_a_bar_shows_how_much_is_done_and_never_wraps() -> None:
    words = "downloading 50 %, 0.5 of 1.0 GB, 1.0 MB/s, 8 min left"
    assert render_bar("o/m", HALF, width=90) == f"o/m  {'█' * 14}{'░' * 15}  {words}"
    assert render_bar("o/m", HALF, width=70) == f"o/m  {'█' * 4}{'░' * 5}  {words}"
    assert render_bar("o/m", HALF, width=60) == f"o/m  {words}"[:59]
    for width in range(200):
        assert len(render_bar("org/model", HALF, width=width)) <= max(0, width - 1)


def test_a_log_record_begins_on_a_line_of_its_own_and_the_bar_comes_back_below() -> None:
    terminal = _Terminal()
    handler = logging.StreamHandler(terminal)
    logging.getLogger().handlers = [handler]  # put back by the fixture of all service tests
    now = [1.0]
    with ProgressLine(terminal, label="o/m", clock=lambda: now[0]) as line:
        line.report(HALF)
        logging.getLogger("x").warning("look")
        line.report(HALF)  # too early
        now[0] = 2.0
        line.report(HALF)
    bar = terminal.getvalue().partition("\r\033[K")[2].partition("\r")[0]
    assert terminal.getvalue() == f"\r\033[K{bar}\r\033[Klook\n\r\033[K{bar}\r\033[K"
    assert not handler.filters


def test_on_a_terminal_one_line_is_redrawn_and_cleared_elsewhere_lines_come_now_and_then() -> None:
    terminal, now = _Terminal(), [0.0]
    line = ProgressLine(terminal, label="o/m", clock=lambda: now[0])
    with line:
        for step in range(100):
            now[0] = step / 100
            line.report(HALF)
    assert terminal.getvalue().count("\r") == 11
    assert terminal.getvalue().endswith("\r\033[K")
    pipe = io.StringIO()
    line = ProgressLine(pipe, label="o/m", clock=lambda: now[0])
    with line:
        for _ in range(100):
            line.report(HALF)
    assert pipe.getvalue() == "o/m: downloading 50 %, 0.5 of 1.0 GB, 1.0 MB/s, 8 min left\n"
