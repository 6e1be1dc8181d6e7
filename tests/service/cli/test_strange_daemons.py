"""Commands against a program that answers as no neuron does: one line and an exit status, and nothing that steers."""

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from neuron_service.cli import main
from tests.fakes.fake_daemon import Answer, FakeDaemon, events, fake_daemon

STEERING = "\x1b]0;mine\x07\x1b[2J\u202e\x9b1m"
COMMANDS = [
    ("ps",),
    ("ps", "--json"),
    ("load", "a/b"),
    ("unload", "a/b"),
    ("events",),
    ("stop",),
    ("run", "a/b", "hello"),
    ("run", "a/b", "hello", "--json"),
    ("bench", "a/b", "--streams", "1", "--tokens", "2"),
    ("batch", "in.jsonl", "out.jsonl"),
]
ODD = {
    "deep": Answer(b"[" * 100_000),
    "a page": Answer(b"<html>It works!</html>", content_type="text/html"),
    "a stream of lists": events([1], 2, None),
    "a stream of nonsense": Answer(b"data: {\n\n", content_type="text/event-stream"),
}


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDaemon]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    body = {"model": "a/b", "messages": []}
    line = {"custom_id": "r1", "method": "POST", "url": "/v1/chat/completions", "body": body}
    Path("in.jsonl").write_text(json.dumps(line) + "\n")
    with fake_daemon(tmp_path, {}) as found:
        monkeypatch.setenv("NEURON_HOST", found.host)
        yield found


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_an_answer_of_another_program_is_one_line_that_says_so(
    command: tuple[str, ...],
    odd: str,
    daemon: FakeDaemon,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(daemon, "answer", lambda _seen: ODD[odd])
    assert run(*command) == os.EX_PROTOCOL
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "not neuron" in err or "not one of a neuron" in err


@pytest.mark.parametrize(
    "values",
    [
        {"id": 7},
        {"tok_s_decode": "fast"},
        {"queue_depth": [1]},
        {"engine_rss_mb": 10**400},
        {"max_in_flight": {}, "queue_depth": True, "tok_s_decode": "1"},
    ],
    ids=str,
)
def test_ps_refuses_values_that_no_neuron_has(
    values: dict[str, Any], daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    model = {"id": "a/b", "in_flight": 0, "queue_depth": 0, "kv_budget_mb": 0} | values
    daemon.answers["GET /health"] = Answer({"models": [model], "activation": {"pending": [], "failed": []}})
    daemon.answers["GET /models"] = Answer([])
    for option in ((), ("--json",)):
        assert run("ps", *option) == os.EX_PROTOCOL
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)


@pytest.mark.parametrize("entry", [{"limit": 3}, {"devices": 5}, {"ram_used_mb": "x"}, {"tool_format": []}], ids=str)
def test_show_refuses_values_that_no_neuron_has(
    entry: dict[str, Any], daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.answers["GET /v1/models/a/b"] = Answer({"id": "a/b"})
    daemon.answers["GET /models"] = Answer([{"id": "a/b"} | entry])
    assert run("show", "a/b", "--host", daemon.host) == os.EX_PROTOCOL
    assert "its answer has another form" in capsys.readouterr().err


@pytest.mark.parametrize("at", [1e300, 1e17, "now"])
def test_events_refuses_a_time_that_is_none(at: object, daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.answers["GET /events"] = events({"type": "host", "at": at, "state": "ready"})
    assert run("events") == os.EX_PROTOCOL
    assert "its answer has another form" in capsys.readouterr().err


@pytest.mark.parametrize("since", ["€", "a\nb", "\udcff"])
def test_an_id_that_no_event_has_is_a_wrong_command_line(
    since: str, daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("events", "--since", since) == os.EX_USAGE
    assert "is the id of no event" in capsys.readouterr().err
    assert daemon.seen == []


def test_nothing_that_a_daemon_says_steers_the_terminal(daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    refusal = {"error": {"message": f"no {STEERING}", "code": "x"}}
    model = {
        "id": f"a/{STEERING}",
        "in_flight": 0,
        "queue_depth": 0,
        "engine_restarts": 1,
        "last_engine_death": STEERING,
    }
    activation = {"pending": [STEERING], "failed": [{"model_id": STEERING, "error": STEERING}]}
    device = {"index": STEERING, "vram_used_mb": 1, "vram_free_mb": 1, "utilization_pct": STEERING, "temp_c": 1}
    daemon.answers["GET /health"] = Answer({"models": [model], "activation": activation, "devices": [device]})
    daemon.answers["GET /models"] = Answer([{"id": each, "capabilities": ["text"]} for each in (STEERING, "a/b")])
    daemon.answers["POST /models/unload"] = Answer(refusal, status=400)
    daemon.answers["GET /events"] = events({"type": STEERING, "at": 1, "model_id": STEERING, "state": STEERING})
    daemon.answers["POST /v1/chat/completions"] = events({"error": {"message": STEERING}})
    for command in (*COMMANDS, ("chat",)):
        run(*command)
    out, err = capsys.readouterr()
    assert not set(out + err) & set("\x1b\x07\x9b\u202e")


def test_a_model_without_a_name_is_refused_by_the_daemon(daemon: FakeDaemon) -> None:
    daemon.answers["POST /models/load"] = Answer({"error": {"message": "the id is empty"}}, status=400)
    assert run("load", "") == 1
    assert daemon.seen[0].body == {"model_id": ""}


@pytest.mark.parametrize("command", [("load", "a/\udcff"), ("unload", "a/\udcff"), ("run", "a/b", "\udcff")], ids=str)
def test_a_text_that_is_not_utf8_is_not_sent(
    command: tuple[str, ...], daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.answers["GET /models"] = Answer([{"id": "a/b"}])
    assert run(*command) == os.EX_USAGE
    assert "is no UTF-8, so no daemon can be sent it" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", [("stop", "--timeout", "nan"), ("run", "a/b", "Hi", "--temperature", "nan")], ids=str
)
def test_a_number_is_not_nan(command: tuple[str, ...], daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*command) == os.EX_USAGE
    assert "'nan' is not a number" in capsys.readouterr().err
    assert daemon.seen == []
