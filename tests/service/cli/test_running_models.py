"""`neuron ps`, `load`, `unload` and `events` against a daemon that answers as a test says."""

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from neuron_service.cli import daemon_load, main
from neuron_service.cli.long_call import run_beside
from tests.fakes.fake_daemon import Answer, FakeDaemon, Seen, events, fake_daemon

LOADING = [{"model_id": "a/b", "progress": {"stage": "loading", "fraction": 0.5}, "elapsed_ms": 5}]
HEALTH: dict[str, Any] = {
    "models": [{"id": "a/b", "in_flight": 0, "queue_depth": 0}],
    "activation": {"pending": [], "failed": []},
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDaemon]:
    monkeypatch.chdir(tmp_path)
    answers = {"GET /health": Answer(HEALTH), "GET /models": Answer([{"id": "a/b", "status": "loaded"}])}
    with fake_daemon(tmp_path, answers) as found:
        monkeypatch.setenv("NEURON_HOST", found.host)
        yield found


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_ps_prints_a_table_for_people_and_json_for_programs(
    daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("ps") == 0
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines() if line] == [
        ["MODEL", "STATE"],
        ["a/b", "loaded"],
    ]
    assert run("ps", "--json") == 0
    models = json.loads(capsys.readouterr().out)
    assert models == {"models": [{"id": "a/b", "state": "loaded", "running": 0, "waiting": 0}]}


def test_ps_of_a_host_without_models_says_how_to_load_one(
    daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.answers["GET /health"] = Answer(HEALTH | {"models": []})
    assert run("ps") == 0
    assert "`neuron load MODEL` loads one" in capsys.readouterr().out


def test_ps_goes_on_to_show_the_models_until_it_is_interrupted(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    asked = 0

    def health(_request: Seen) -> Answer:
        nonlocal asked
        asked += 1
        return Answer(HEALTH)

    def pause(_seconds: float) -> None:
        if asked == 3:
            raise KeyboardInterrupt

    daemon.answers["GET /health"] = health
    monkeypatch.setattr("neuron_service.cli.resident_table.time.sleep", pause)
    assert run("ps", "--watch") == 0
    assert terminal.getvalue().count("a/b") == 3


@pytest.mark.parametrize("options", [["--watch"], ["--watch", "--json"]])
def test_ps_watches_for_a_person_only(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("ps", *options) == os.EX_USAGE
    assert "`neuron events --json`" in capsys.readouterr().err


def test_ps_of_another_program_is_one_sentence_and_exit_76(
    daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.answers["GET /health"] = Answer({"status": "ok"})
    assert run("ps") == os.EX_PROTOCOL
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "is not neuron" in err


def test_load_asks_for_exactly_what_was_said_and_shows_the_progress(
    daemon: FakeDaemon, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    was_asked = Event()

    def loading(_request: Seen) -> Answer:
        was_asked.set()
        return Answer(LOADING)

    def load(_request: Seen) -> Answer:
        assert was_asked.wait(30)
        return Answer({"status": "loaded"})

    daemon.answers |= {"GET /models/loading": loading, "POST /models/load": load}
    monkeypatch.setattr(daemon_load, "run_beside", lambda call, watch: run_beside(call, watch, pause_s=0.01))
    assert run("load", "a/b", "--quant", "Q8_0", "--device", "1") == 0
    out, err = capsys.readouterr()
    assert out == "a/b is loaded\n"
    assert err.startswith("a/b: loading 50 %\n")
    (asked,) = [each.body for each in daemon.seen if each.method == "POST"]
    assert asked == {"model_id": "a/b", "quant": "Q8_0", "devices": [1]}


def test_a_load_goes_on_where_the_daemon_does_not_say_how_far_it_is(
    daemon: FakeDaemon, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    was_asked = Event()

    def loading(_request: Seen) -> Answer:
        was_asked.set()
        return Answer({"error": "busy"}, 503)

    def load(_request: Seen) -> Answer:
        assert was_asked.wait(30)
        return Answer({"status": "loaded"})

    daemon.answers |= {"GET /models/loading": loading, "POST /models/load": load}
    monkeypatch.setattr(daemon_load, "run_beside", lambda call, watch: run_beside(call, watch, pause_s=0.01))
    assert run("load", "a/b") == 0
    assert capsys.readouterr().out == "a/b is loaded\n"


def test_a_load_of_a_model_that_is_loaded_is_done(daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.answers["POST /models/load"] = Answer({"error": "already loaded"}, 400)
    daemon.answers["GET /v1/models/short"] = Answer({"id": "a/b"})
    assert run("load", "short", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"model_id": "short", "status": "loaded"}
    daemon.answers["GET /models"] = Answer([])
    assert run("load", "short") == 1
    assert capsys.readouterr().err == "neuron: already loaded\n"


def test_unload_ends_when_the_daemon_says_so(daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.answers["POST /models/unload"] = Answer({"status": "unloaded"})
    assert run("unload", "a/b") == 0
    assert capsys.readouterr().out == "a/b is unloaded\n"
    daemon.answers["POST /models/unload"] = Answer({"error": "no model a/b here"}, 404)
    assert run("unload", "a/b") == 1
    assert capsys.readouterr().err == "neuron: no model a/b here\n"


def test_where_no_daemon_runs_every_client_command_says_how_to_start_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["ps"], ["load", "a/b"], ["unload", "a/b"], ["events"], ["stop"]):
        assert run(*command, "--host", f"unix:{tmp_path}/none") == os.EX_UNAVAILABLE
        assert "start one with `neuron serve`" in capsys.readouterr().err


def test_a_call_ends_with_what_it_raises_also_if_that_is_a_timeout() -> None:
    def late() -> None:
        raise TimeoutError("late")

    with pytest.raises(TimeoutError, match="late"):
        run_beside(late, lambda: None, pause_s=0.01)


def test_what_the_watch_raises_ends_the_wait() -> None:
    forever = Event()

    def watch() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_beside(lambda: forever.wait(30), watch, pause_s=0.01)
    forever.set()


EVENTS = (
    ({"type": "host", "state": "ready"}, "-  ready"),
    ({"type": "model", "model_id": "a/b", "phase": "gone", "reason": "no room"}, "a/b  gone: no room"),
    (
        {"type": "progress", "model_id": "a/b", "progress": {"stage": "downloading", "fraction": 0.5}},
        "a/b  downloading 50 %",
    ),
    ({"type": "restart", "model_id": "a/b", "restarts": 2, "death": "SIGKILL"}, "a/b  restart 2: SIGKILL"),
    (
        {"type": "rejection", "model_id": "a/b", "what": "request", "code": "busy", "reason": "full"},
        "a/b  request refused, busy: full",
    ),
    (
        {
            "type": "reply",
            "model_id": "a/b",
            "outcome": "whole",
            "prompt_tokens": 3,
            "completion_tokens": 4,
            "ttft_ms": 20,
            "total_ms": 90,
        },
        "a/b  whole, 3 + 4 tokens, first after 20 ms, 90 ms",
    ),
    ({"type": "gap"}, "-  events were missed"),
    ({"type": "new", "model_id": "a/b", "x": "\x1b[2J"}, 'a/b  {"x": "\\u001b[2J"}'),
)


def test_each_event_is_a_line_and_the_end_of_the_stream_is_said(
    daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = [event | {"id": "1", "at": 0.0} for event, _ in EVENTS]
    daemon.answers["GET /events"] = events(*stream)
    assert run("events", "--since", "7") == 0
    out, err = capsys.readouterr()
    assert [line.split(maxsplit=2)[2] for line in out.splitlines()] == [text for _, text in EVENTS]
    assert out.isascii()
    assert "has ended the stream" in err
    assert daemon.seen[-1].headers["last-event-id"] == "7"
    assert run("events", "--json") == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == stream


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("neuron unload ", ["plain,a/b"]),
        ("neuron unload x", []),
        ("neuron load a/", ["plain,a/b", "plain,a/on-demand"]),
    ],
)
def test_a_shell_is_offered_the_models_of_the_daemon(
    words: str,
    offered: list[str],
    daemon: FakeDaemon,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    daemon.answers["GET /v1/models"] = Answer({"data": [{"id": "a/on-demand"}, {"id": "a/b"}, {"id": "a/\n"}]})
    monkeypatch.setenv("_NEURON_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", "2")
    assert run() == 0
    assert capsys.readouterr().out.split() == offered


def test_a_shell_is_offered_nothing_where_no_daemon_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEURON_HOST", f"unix:{tmp_path}/none")
    monkeypatch.setenv("_NEURON_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "neuron load ")
    monkeypatch.setenv("COMP_CWORD", "2")
    assert run() == 0
    out, err = capsys.readouterr()
    assert (out.split(), err) == ([], "")
