"""`neuron batch` against a daemon that answers as a test says."""

import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from neuron_service.cli import batch, main
from tests.fakes.fake_daemon import Answer, FakeDaemon, Seen, fake_daemon

URL = "/v1/chat/completions"
REPLY = {"choices": [{"message": {"content": "Hello"}}]}
HEALTH = {"models": [{"id": "a/b", "max_in_flight": 3}]}


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDaemon]:
    monkeypatch.chdir(tmp_path)
    with fake_daemon(tmp_path, {"GET /health": Answer(HEALTH), f"POST {URL}": Answer(REPLY)}) as found:
        monkeypatch.setenv("NEURON_HOST", found.host)
        yield found


def line(number: int, **changes: Any) -> str:
    body = {"model": "a/b", "messages": [{"role": "user", "content": f"question {number}"}]}
    return json.dumps({"custom_id": f"r{number}", "method": "POST", "url": URL, "body": body} | changes) + "\n"


def write_input(*lines: str) -> None:
    Path("in.jsonl").write_text("".join(lines))


def run(*options: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["batch", "in.jsonl", "out.jsonl", *options])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def outcomes() -> dict[str, Any]:
    return {found["custom_id"]: found for found in map(json.loads, Path("out.jsonl").read_text().splitlines())}


def asked(daemon: FakeDaemon) -> list[str]:
    bodies = [seen.body for seen in daemon.seen if seen.path == URL]
    return sorted(body["messages"][0]["content"] for body in bodies)


def test_each_line_is_asked_once_and_its_answer_is_a_line(daemon: FakeDaemon) -> None:
    write_input(line(1), "\n", line(2), line(3))
    assert run() == 0
    assert asked(daemon) == ["question 1", "question 2", "question 3"]
    found = outcomes()
    assert sorted(found) == ["r1", "r2", "r3"]
    assert found["r2"]["response"]["status_code"] == 200
    assert found["r2"]["response"]["body"] == REPLY
    assert found["r2"]["error"] is None
    assert len({each["id"] for each in found.values()}) == 3


def test_what_has_an_outcome_is_not_asked_again(daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    write_input(line(1))
    run()
    write_input(line(1), line(2))
    capsys.readouterr()
    assert run("--json") == 0
    assert json.loads(capsys.readouterr().out) == {"total": 2, "already": 1, "succeeded": 1, "refused": 0}
    assert asked(daemon) == ["question 1", "question 2"]
    assert run() == 0
    assert asked(daemon) == ["question 1", "question 2"]
    assert "2 of 2 requests have an outcome in out.jsonl, 2 were there before" in capsys.readouterr().out


def test_a_torn_last_line_is_asked_again(daemon: FakeDaemon) -> None:
    write_input(line(1), line(2))
    run()
    whole = Path("out.jsonl").read_bytes()
    Path("out.jsonl").write_bytes(whole[:-20])
    assert run() == 0
    assert sorted(outcomes()) == ["r1", "r2"]
    assert len(asked(daemon)) == 3


def test_a_request_that_is_refused_has_its_refusal_as_outcome_and_the_others_go_on(daemon: FakeDaemon) -> None:
    refusal = {"error": {"message": "too long", "code": "context_length_exceeded"}}
    daemon.answers[f"POST {URL}"] = lambda seen: (
        Answer(refusal, status=400) if "question 1" in json.dumps(seen.body) else Answer(REPLY)
    )
    write_input(line(1), line(2))
    assert run() == 1
    found = outcomes()
    assert found["r1"]["response"]["status_code"] == 400
    assert found["r1"]["response"]["body"] == refusal
    assert found["r2"]["response"]["status_code"] == 200


def test_a_busy_daemon_is_asked_again(daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "_AGAIN_S", 0.0)
    busy = [Answer({"error": {"message": "busy"}}, status=503), Answer(REPLY, cut=True), Answer(REPLY)]

    def answer(_seen: Seen) -> Answer:
        return busy.pop(0)

    daemon.answers[f"POST {URL}"] = answer
    write_input(line(1))
    assert run() == 0
    assert (list(outcomes()), busy) == (["r1"], [])


def test_a_daemon_that_stays_busy_ends_the_job_which_can_go_on_later(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(batch, "_PATIENCE_S", 0.0)
    daemon.answers[f"POST {URL}"] = Answer({"error": {"message": "the line is full"}}, status=503)
    write_input(line(1))
    assert run() == os.EX_TEMPFAIL
    assert "the line is full. 0 answers were written; the same command goes on with the rest" in capsys.readouterr().err
    assert outcomes() == {}
    daemon.answers[f"POST {URL}"] = Answer(REPLY)
    assert run() == 0
    assert list(outcomes()) == ["r1"]


def test_a_key_that_is_missing_ends_the_job_at_once(daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.answers[f"POST {URL}"] = Answer({"error": {"message": "no"}}, status=401)
    write_input(line(1), line(2))
    assert run("--streams", "1") == os.EX_NOPERM
    assert "wants an API key; put one into NEURON_API_KEY" in capsys.readouterr().err
    assert outcomes() == {}
    assert len(asked(daemon)) == 1


def test_an_option_names_the_model_of_all_lines(daemon: FakeDaemon) -> None:
    write_input(line(1))
    assert run("--model", "c/d") == 0
    assert [seen.body["model"] for seen in daemon.seen if seen.path == URL] == ["c/d"]


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([line(1), "nonsense\n"], "in.jsonl: line 2: "),
        ([line(1), line(1)], "line 2: `custom_id` 'r1' is that of line 1 too"),
        ([line(1, method="GET")], "line 1: `method` is 'GET'"),
        ([line(1, url="/v1/files")], "line 1: `url` is '/v1/files'"),
        ([line(1, body={"stream": True})], "line 1: `body.stream` is set"),
        ([line(1, body=[])], "line 1: Expected `object`, got `array` - at `$.body`"),
    ],
)
def test_a_wrong_input_is_refused_by_its_line_before_anything_is_asked(
    daemon: FakeDaemon, capsys: pytest.CaptureFixture[str], lines: list[str], says: str
) -> None:
    write_input(*lines)
    assert run() == os.EX_DATAERR
    assert says in capsys.readouterr().err
    assert daemon.seen == []
    assert not Path("out.jsonl").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('notes\n{"custom_id":"r1"}\n', "line 1 is no outcome of a batch"),
        (line(1), "line 1 is no outcome of a batch"),
        (
            '{"custom_id":"other","response":null}\n',
            "line 1 has an outcome of 'other', which the input does not ask for",
        ),
    ],
)
def test_a_file_that_is_no_output_of_this_input_is_left_as_it_is(
    daemon: FakeDaemon, capsys: pytest.CaptureFixture[str], text: str, says: str
) -> None:
    write_input(line(1))
    Path("out.jsonl").write_text(text)
    assert run() == os.EX_DATAERR
    assert f"out.jsonl: {says}" in capsys.readouterr().err
    assert Path("out.jsonl").read_text() == text


@pytest.mark.parametrize(
    "text",
    [b"one line of notes", b"\x89PNG\x1a", line(1).strip().encode(), b'{"id":"chatcmpl-1","custom_id":"r1"'],
    ids=str,
)
def test_a_file_of_one_line_without_an_end_is_left_as_it_is(
    daemon: FakeDaemon, capsys: pytest.CaptureFixture[str], text: bytes
) -> None:
    write_input(line(1))
    Path("out.jsonl").write_bytes(text)
    assert run() == os.EX_DATAERR
    assert "out.jsonl: line 1 is no outcome of a batch; name another file" in capsys.readouterr().err
    assert Path("out.jsonl").read_bytes() == text


@pytest.mark.parametrize("length", [1, 9, 20])
def test_an_outcome_may_be_torn_anywhere(daemon: FakeDaemon, length: int) -> None:
    write_input(line(1))
    run()
    Path("out.jsonl").write_bytes(Path("out.jsonl").read_bytes()[:length])
    assert run() == 0
    assert sorted(outcomes()) == ["r1"]


def test_an_outcome_of_no_id_is_no_outcome(daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    write_input(line(1))
    Path("out.jsonl").write_text('{"custom_id":[],"response":null}\n')
    assert run() == os.EX_DATAERR
    assert "line 1 has an outcome of '[]'" in capsys.readouterr().err


def test_an_input_may_come_from_an_editor_of_another_system(daemon: FakeDaemon) -> None:
    Path("in.jsonl").write_bytes(b"\xef\xbb\xbf" + (line(1) + line(2)).replace("\n", "\r\n").encode())
    assert run() == 0
    assert sorted(outcomes()) == ["r1", "r2"]


def test_a_proxy_without_its_daemon_is_asked_again_and_the_person_is_told(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(batch, "_AGAIN_S", 0.0)
    page = Answer(b"<html>Bad Gateway</html>", status=502, content_type="text/html")
    answers = [page, page, Answer(REPLY)]
    daemon.answers[f"POST {URL}"] = lambda _seen: answers.pop(0)
    write_input(line(1))
    assert run() == 0
    assert list(outcomes()) == ["r1"]
    err = capsys.readouterr().err
    assert (err.count("\n"), "answered with status 502" in err, "asked again for up to 30 minutes" in err) == (
        1,
        True,
        True,
    )


def test_a_page_as_refusal_is_an_outcome_without_a_body(daemon: FakeDaemon) -> None:
    daemon.answers[f"POST {URL}"] = Answer(b"<html>", status=413, content_type="text/html")
    write_input(line(1))
    assert run() == 1
    response = outcomes()["r1"]["response"]
    assert (response["status_code"], response["body"]) == (413, None)


def test_an_input_that_is_not_there_is_told(daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == os.EX_NOINPUT
    assert "in.jsonl: No such file" in capsys.readouterr().err
    assert not Path("out.jsonl").exists()


def test_two_jobs_do_not_write_into_one_file(daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    write_input(line(1))
    with Path("out.jsonl").open("wb") as output:
        fcntl.flock(output, fcntl.LOCK_EX)
        assert run() == os.EX_USAGE
    assert "another batch writes into this file now" in capsys.readouterr().err
    assert daemon.seen == []


def test_an_interrupt_leaves_whole_lines_and_says_how_to_go_on(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    took = batch._next

    def interrupted(answers: Any) -> Any:
        if Path("out.jsonl").read_text():
            raise KeyboardInterrupt
        return took(answers)

    monkeypatch.setattr(batch, "_next", interrupted)
    write_input(line(1), line(2), line(3))
    assert run() == 130
    assert "interrupted; 1 answer was written" in capsys.readouterr().err
    monkeypatch.setattr(batch, "_next", took)
    assert run() == 0
    assert sorted(outcomes()) == ["r1", "r2", "r3"]
