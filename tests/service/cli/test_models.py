"""`neuron pull`, `ls` and `rm` as a person types them. What they decide is in `tests/lib/sources/test_inventory.py`.

Only `pull` needs a hub, which listens on loopback. For the others the cache is filled by hand.
"""

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

from neuron_lib.config import Config
from neuron_service.cli import main, models
from neuron_service.cli.running_service import ServiceSilent, loaded_ids
from tests.fakehub import FakeHub, fake_hub
from tests.fakes.fetch_in_thread import fetch_in_thread
from tests.fakes.gguf_bytes import gguf
from tests.fakes.hub_faults import Status
from tests.fakes.model_cache import put

GGUF = gguf()
FILES = {"m-Q4_K_M.gguf": GGUF, "m-Q8_0.gguf": GGUF + b"\0" * 8}
DEAD_HUB = "http://127.0.0.1:9"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a `neuron.toml` for a hub that is never asked, a cache beside it, and no service."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models, "loaded_ids", lambda *_: frozenset())
    configure(tmp_path, DEAD_HUB)
    return tmp_path


@pytest.fixture
def hub(place: Path, process: None) -> Iterator[FakeHub]:
    """A hub that the configuration of `place` names."""
    with fake_hub({"org/name": FILES}) as running:
        configure(place, running.url)
        yield running


@pytest.fixture
def quick_hub(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """The same hub, and models are fetched in a thread of this process, which is quicker."""
    monkeypatch.setattr("neuron_lib.sources.fetch_process.run_fetch", fetch_in_thread)
    return hub


def configure(place: Path, endpoint: str) -> None:
    Path(place, "neuron.toml").write_text(f"""
        default_models = [{{ model_id = "my/alias", harness = "llamacpp" }}]
        models = [{{ id = "my/alias", repo = "org/name", quant = "q8_0" }}, {{ id = "my/file", path = "/m.gguf" }}]
        harness.llamacpp.sources.huggingface = {{ endpoint = "{endpoint}", cache_dir = "{place}/cache" }}
    """)


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


# ------------------------------------------------------------------------------------------------------------- pull


def test_a_pulled_model_is_printed_as_a_path_and_then_listed(
    hub: FakeHub, place: Path, capsys: pytest.CaptureFixture[str]
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


def test_for_programs_each_pulled_model_is_a_line_of_json(
    quick_hub: FakeHub, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("pull", "org/name", "my/alias", "--json") == 0
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (first["id"], second["id"]) == ("org/name", "my/alias")
    assert Path(first["path"]).read_bytes() == GGUF


def test_a_quant_and_the_entry_of_an_id_are_used(
    quick_hub: FakeHub, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("pull", "my/alias") == 0
    assert [model["quant"] for model in cached_models(capsys)] == ["Q8_0"]
    assert run("pull", "huggingface:org/name", "--quant", "q4km") == 0
    assert [model["quant"] for model in cached_models(capsys)] == ["Q4_K_M", "Q8_0"]


def test_an_id_may_name_its_quant(quick_hub: FakeHub, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("pull", "hf.co/org/name:Q8_0", "my/alias:q4km") == 0
    assert [model["quant"] for model in cached_models(capsys)] == ["Q4_K_M", "Q8_0"]
    assert run("rm", "org/name:q8-0", "--yes") == 0
    assert [model["quant"] for model in cached_models(capsys)] == ["Q4_K_M"]
    assert run("pull", "my/alias:Q8_0", "--revision", "main") == 0
    assert [model["quant"] for model in cached_models(capsys)] == ["Q4_K_M", "Q8_0"]
    for command in ("pull", "rm"):
        assert run(command, "org/name:Q8_0", "--quant", "Q4_K_M") == 1
        assert "names a quant, and the request another" in capsys.readouterr().err


def test_a_pull_asks_for_the_newest_commit(quick_hub: FakeHub, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("pull", "org/name") == 0
    newer = quick_hub.push("org/name", {"m-Q4_K_M.gguf": GGUF + b"\0" * 16})
    assert run("pull", "org/name") == 0
    assert {model["commit"] for model in cached_models(capsys)} == {"a" * 40, newer}


def test_a_revision_overrides_that_of_the_entry(
    quick_hub: FakeHub, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tagged = quick_hub.push("org/name", {"m-Q8_0.gguf": GGUF + b"\0" * 16}, branch="v1")
    assert run("pull", "my/alias", "--revision", "v1") == 0
    assert [model["commit"] for model in cached_models(capsys)] == [tagged]


def test_a_hub_that_fails_has_an_exit_status_of_its_own_so_that_scripts_can_try_again(
    quick_hub: FakeHub, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick_hub.fail(Status(429, {"Retry-After": "3600"}))
    assert run("pull", "org/name") == os.EX_TEMPFAIL
    sentence = capsys.readouterr().err
    assert "429" in sentence
    assert "; try again later" in sentence


def test_an_interrupted_pull_says_that_nothing_is_lost(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("anyio.run", interrupt)
    assert run("pull", "org/name") == 130
    assert "the next pull goes on there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("org/none",), "no token"),
        (("org/name", "--quant", "f16"), "nearest"),
        (("org/name", "--revision", "v9"), "v9"),
    ],
)
def test_what_a_hub_does_not_have_is_one_line_that_says_why(
    quick_hub: FakeHub, arguments: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("pull", *arguments) == 1
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("neuron: ")
    assert expected in last


# ------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("arguments", "status", "expected"),
    [
        (("pull", "nonsense"), 1, "has no slash"),
        (("pull", "other:org/name"), 1, "configured: huggingface"),
        (("pull", "my/file", "--revision", "v9"), 1, "means nothing beside `path`"),
        (("pull", "org/name:Q8_0", "--quant", "Q4_K_M"), 1, "names a quant, and the request another"),
        (("pull", "org/name", "--revision", "../x"), os.EX_USAGE, "is no branch, tag or commit"),
        (("rm", "org/other", "--yes"), 1, "; there is org/name"),
        (("rm", "org/name", "--quant", "q2_k", "--yes"), 1, "available: m-q4_k_m.gguf"),
        (("rm", "org/name:Q8_0", "--quant", "Q4_K_M"), 1, "names a quant, and the request another"),
        (("rm", "my/file", "--yes"), 1, "not ours to delete"),
    ],
)
def test_a_refusal_is_one_line_that_says_why(
    place: Path, arguments: tuple[str, ...], status: int, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    put(place / "cache", FILES)
    assert run(*arguments) == status
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith(("neuron: ", "neuron pull: "))
    assert expected in last


# --------------------------------------------------------------------------------------------------------------- ls


def test_the_table_has_a_line_for_each_model_and_unfinished_download(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(place / "cache", {"m-Q4_K_M.gguf": GGUF})
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


def test_without_models_the_places_that_were_searched_are_named(
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


def test_a_broken_configuration_is_reported_as_by_serve(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "neuron.toml").write_text("prot = 1")
    assert run("ls") == os.EX_CONFIG
    assert "did you mean `port`?" in capsys.readouterr().err


def test_a_cache_that_two_sources_share_is_listed_once(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Path("neuron.toml").open("a") as config:
        config.write(f'\nharness.llamacpp.sources.a = {{ endpoint = "{DEAD_HUB}", cache_dir = "{place}/cache" }}\n')
    put(place / "cache", {"m-Q4_K_M.gguf": GGUF})
    assert [model["id"] for model in cached_models(capsys)] == ["huggingface:org/name"]


def test_a_file_that_was_not_hashed_since_it_was_written_is_not_verified(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(place / "cache", {"m-Q4_K_M.gguf": GGUF})
    put(place / "cache", {"m-Q8_0.gguf": GGUF + b"\0"}, is_hashed=False)
    assert [(model["quant"], model["is_verified"]) for model in cached_models(capsys)] == [
        ("Q4_K_M", True),
        ("Q8_0", False),
    ]


# --------------------------------------------------------------------------------------------------------------- rm


def test_a_removed_model_is_gone_with_its_content(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(place / "cache", FILES)
    assert run("rm", "my/alias", "--yes") == 0  # whose entry has a quant
    assert [model["quant"] for model in cached_models(capsys)] == ["Q4_K_M"]
    put(place / "cache", FILES)
    assert run("rm", "org/name", "--quant", "q4_k_m", "--yes") == 0
    assert [model["quant"] for model in cached_models(capsys)] == ["Q8_0"]
    assert run("rm", "org/name", "--yes") == 0
    assert not (place / "cache" / "models--org--name").exists()


def test_a_file_that_cannot_be_deleted_is_named(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put(place / "cache", FILES)

    def refuse(path: Path, **_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)  # root may delete everything, whatever the mode
    assert run("rm", "org/name", "--yes") == 1
    assert "m-Q4_K_M.gguf: Permission denied" in capsys.readouterr().err


def test_a_model_that_is_loaded_while_the_command_asks_is_kept(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put(place / "cache", FILES)
    answers = iter([frozenset[str](), frozenset({"my/alias"})])
    monkeypatch.setattr("sys.stdin", _Terminal("y\n"))
    with monkeypatch.context() as patch:
        patch.setattr(models, "loaded_ids", lambda *_: next(answers))
        assert run("rm", "org/name") == 1
    assert "my/alias is loaded" in capsys.readouterr().err
    assert len(cached_models(capsys)) == 2


def test_content_that_another_commit_uses_is_kept(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(place / "cache", FILES)
    put(place / "cache", {"renamed-Q4_K_M.gguf": GGUF}, commit="d" * 40)
    assert run("rm", "org/name", "--quant", "m-q4_k_m", "--yes") == 0
    left = {model["files"][0]: model["is_verified"] for model in cached_models(capsys)}
    assert left == {"renamed-Q4_K_M.gguf": True, "m-Q8_0.gguf": True}


def test_without_a_terminal_nothing_is_deleted_unless_an_option_says_so(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(place / "cache", FILES)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert run("rm", "org/name") == os.EX_USAGE
    assert "--yes" in capsys.readouterr().err
    assert len(cached_models(capsys)) == 2


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "left"), [("y", 0), ("YES ", 0), ("n", 2), ("", 2)])
def test_on_a_terminal_it_asks(
    place: Path, answer: str, left: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(place / "cache", FILES)
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
def test_a_model_that_the_service_has_loaded_is_not_deleted(
    process: None, tmp_path: Path, body: object, expected: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    service = type("Service", (_Service,), {"body": json.dumps(body).encode()})
    with HTTPServer(("127.0.0.1", 0), service) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        config = tmp_path / "c.toml"
        config.write_text(f"""
            port = {server.server_port}
            models = [{{ id = "my/alias", repo = "org/name" }}]
            harness.llamacpp.sources.huggingface = {{ endpoint = "{DEAD_HUB}", cache_dir = "{tmp_path}/cache" }}
        """)
        try:
            put(tmp_path / "cache", FILES)
            assert run("rm", "org/name", "--yes", "-c", str(config)) == (1 if expected else 0)
        finally:
            server.shutdown()
            thread.join()
    if expected:
        assert expected in capsys.readouterr().err


class _LockedService(BaseHTTPRequestHandler):
    """A service whose only key is `good`."""

    def do_GET(self) -> None:
        is_known = self.headers.get("x-api-key") == "good"
        body = b'{"models":[]}' if is_known else b'{"error":{}}'
        self.send_response(200 if is_known else 401)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (None, "wants a key: set NEURON_API_KEY"),
        ("bad", "does not know the key in NEURON_API_KEY"),
        ("b\u00e4d", "NEURON_API_KEY is no API key"),
        ("good\n", ""),
    ],
)
def test_a_service_that_wants_a_key_is_asked_with_the_one_of_the_environment(
    process: None, key: str | None, said: str
) -> None:
    with HTTPServer(("127.0.0.1", 0), _LockedService) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            config = Config(port=server.server_port)
            environ = {} if key is None else {"NEURON_API_KEY": key}
            if not said:
                assert loaded_ids(config, environ) == frozenset()
                return
            with pytest.raises(ServiceSilent, match=said) as caught:
                loaded_ids(config, environ)
            assert "bad" not in str(caught.value)
        finally:
            server.shutdown()
            thread.join()
