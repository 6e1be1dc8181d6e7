"""What an operator says about a program, and the command that it becomes for one model."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from neuron_lib.config import ModelEntry
from neuron_lib.errors import LoadFailed
from neuron_lib.process.entry import ProcessEntry, ProcessModel
from neuron_lib.process.family import Usage
from neuron_lib.process.output import LineBudget
from neuron_lib.process.placeholders import fill, names_in
from neuron_lib.process.presets import PRESETS
from neuron_lib.process.program import Program, Where
from neuron_lib.process.server_facts import context_in, limit_of
from neuron_lib.process.server_watchdog import ServerWatchdog

MODEL_ID = "org/model"
ON_PORT, ON_SOCKET = Where(api_key="secret", port=4711), Where(api_key="secret", socket=Path("/run/api.sock"))


def program(**keys: Any) -> Program:
    return Program.of(msgspec.convert({"name": "x", "kind": "process", **keys}, ProcessEntry))


def command(of: Program, model: ModelEntry | None = None, *, devices: tuple[int, ...] = ()) -> tuple[str, ...]:
    values = of.values(
        model_id=MODEL_ID,
        model=model or ModelEntry(id=MODEL_ID),
        repository=MODEL_ID,
        path=Path("/models/m"),
        devices=devices,
    )
    return of.command(MODEL_ID, values, ON_SOCKET if of.listens_on_socket else ON_PORT)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_becomes_a_command_that_names_the_model_and_where_to_listen(name: str) -> None:
    told = " ".join(command(program(preset=name)))
    assert "/models" in told
    assert "4711" in told or "/run/api.sock" in told
    assert "{" not in told


def test_a_preset_tells_what_the_models_entry_says_and_nothing_else() -> None:
    of = program(preset="vllm", args=["--more"])
    assert command(of)[-2:] == ("64", "--more")
    told = command(of, ModelEntry(id=MODEL_ID, n_ctx=2048), devices=(0, 2))
    assert told[-5:] == ("--max-model-len", "2048", "--tensor-parallel-size", "2", "--more")


def test_llama_server_divides_its_context_so_it_is_told_of_that_of_all_requests() -> None:
    assert command(program(preset="llama-server"), ModelEntry(id=MODEL_ID, n_ctx=100))[-2:] == ("--ctx-size", "400")


def test_what_is_said_of_one_model_comes_last() -> None:
    models = {MODEL_ID: ProcessModel(args=("--b", "{model_id}"), env={"A": "2"}, context=77, memory={"gpu0": 3})}
    of = program(
        command=["run", "{port}"], args=["--a"], env={"A": "1", "K": "{api_key}"}, context=5, memory={"cpu": 1},
        models=msgspec.to_builtins(models),
    )  # fmt: skip
    assert command(of) == ("run", "4711", "--a", "--b", MODEL_ID)
    assert of.environment(MODEL_ID, {}, ON_PORT) == {"A": "2", "K": "secret"}
    assert of.context(MODEL_ID, ModelEntry(id=MODEL_ID, n_ctx=9)) == 77
    assert of.context("org/other", ModelEntry(id="org/other", n_ctx=9)) == 9
    assert of.context("org/other", ModelEntry(id="org/other")) == 5
    assert of.memory_bytes(MODEL_ID) == {"gpu0": 3 << 20}
    assert of.memory_bytes("org/other") == {"cpu": 1 << 20}


@pytest.mark.parametrize(
    ("key", "model"),
    [
        ("n_ctx", ModelEntry(id=MODEL_ID, n_ctx=5)),
        ("chat_template", ModelEntry(id=MODEL_ID, chat_template=Path("/t.jinja"))),
        ("tool_format", ModelEntry(id=MODEL_ID, tool_format="hermes")),
    ],
)
def test_a_key_of_the_model_that_the_program_is_not_told_of_is_refused(key: str, model: ModelEntry) -> None:
    with pytest.raises(LoadFailed, match=f"has `{key}`"):
        program(command=["run", "{port}"]).require_settings(MODEL_ID, model)


def test_a_value_that_nobody_knows_is_named() -> None:
    with pytest.raises(LoadFailed, match=r"the harness x needs \{n_ctx\}, of which nothing is known for org/model"):
        command(program(command=["run", "{port}", "{n_ctx}"]))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({}, "needs a `command`, or the `preset`"),
        ({"command": ["run"]}, "says nowhere where to listen"),
        ({"command": ["run", "{port}", "{prt}"]}, r"unknown placeholder \{prt\}"),
        ({"command": ["run", "{port}", "{"]}, "single brace"),
        ({"command": ["run", "{port:d}"]}, "is no placeholder"),
        ({"command": ["run", "{port}"], "env": {"A": "{pid}"}}, r"unknown placeholder \{pid\}"),
        ({"command": ["run", "{port}"], "parameters": ["top_kk"]}, "expected a parameter|does not match|Expected"),
        ({"command": ["run", "{port}"], "memory": {"gpu": 1}}, "Expected|expected|match"),
        ({"command": ["run", "{port}"], "admission": {"kv_max_wait_secs": 1}}, "means nothing here"),
    ],
)
def test_an_entry_that_cannot_work_is_refused_with_the_reason(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=said):
        program(**keys)


def test_a_program_runs_in_an_absolute_directory() -> None:
    with pytest.raises(ValueError, match="the relative path 'here' must be absolute"):
        ProcessEntry(name="x", kind="process", command=("run", "{port}"), directory=Path("here"))


def test_braces_are_doubled_where_they_mean_themselves() -> None:
    assert fill('{{"a": {port}}}', {"port": "1"}) == '{"a": 1}'
    assert names_in(["{{x}} {port}"]) == {"port"}


@pytest.mark.parametrize(
    ("body", "context"),
    [
        (b'{"data": [{"id": "m", "max_model_len": 4096}]}', 4096),
        (b'{"data": [{"id": "m", "meta": {"n_ctx": 512}}]}', 512),
        (b'{"data": [{"id": "m", "max_model_len": true}]}', None),
        (b'{"data": [{"max_model_len": -1}]}', None),
        (b'{"data": {}}', None),
        (b"[" * 9000, None),
        (b"\xff", None),
        (b"", None),
    ],
)
def test_the_context_is_read_where_programs_write_it_and_nothing_else_is_believed(
    body: bytes, context: int | None
) -> None:
    assert context_in(body) == context


def test_the_longest_prompt_of_the_host_bounds_that_of_the_program() -> None:
    limit = limit_of(4096, max_prompt_tokens=1000)
    assert limit is not None
    assert (limit.context, limit.input, limit.output) == (4096, 1000, 4096)
    assert limit_of(None, max_prompt_tokens=1000) is None


def test_a_start_gets_on_by_memory_and_processor_time_and_other_processes() -> None:
    watchdog = ServerWatchdog(stall_limit_s=10, silence_limit_s=10)
    signs = [Usage(cpu_s=1.0), Usage(cpu_s=1.0, rss_bytes=2 << 20), Usage(cpu_s=1.0, rss_bytes=2 << 20, pids=(1,))]
    for usage in signs:
        for _ in range(9):
            watchdog.look()
        watchdog.hear_usage(usage)
    assert watchdog.verdict is None
    for _ in range(10):
        watchdog.look()
        watchdog.hear_usage(signs[-1])
    assert watchdog.verdict == "no progress for 10 s"


def test_a_program_that_serves_is_judged_by_its_health_and_its_replies_and_not_by_its_lines() -> None:
    watchdog = ServerWatchdog(stall_limit_s=10, silence_limit_s=10)
    watchdog.begin_serving()
    for _ in range(9):
        watchdog.look()
    watchdog.hear_line()
    watchdog.hear_health(is_busy=True)  # it lives, and its requests wait
    watchdog.look()
    assert watchdog.verdict == "no progress for 10 s"
    watchdog.hear_health(is_busy=False)
    assert watchdog.verdict is None


def test_a_program_that_writes_without_end_fills_no_log() -> None:
    now_s = 0.0
    budget = LineBudget(lambda: now_s, most=3, per_s=1)
    assert [budget.admits() for _ in range(5)] == [True, True, True, False, False]
    now_s = 2.0
    assert [budget.admits() for _ in range(3)] == [True, True, False]
    assert budget.dropped == 3
