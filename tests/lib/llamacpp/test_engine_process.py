import contextlib
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import psutil
import pytest

from neuron_lib.child.process import Child
from neuron_lib.config import AdmissionConfig, LlamaCppConfig
from neuron_lib.engine.protocol import Began, ChatTask, Delta, Done, Limits, Prepared, Submit
from neuron_lib.errors import (
    EngineDead,
    EngineFailed,
    InvalidGrammar,
    InvalidRequest,
    LoadFailed,
    NeuronError,
    TemplateFailed,
    UnloadFailed,
)
from neuron_lib.llamacpp.engine_client import News
from neuron_lib.llamacpp.engine_environment import engine_environment
from neuron_lib.llamacpp.engine_process import EngineProcess, open_engine
from neuron_lib.llamacpp.harness import load_command
from neuron_lib.llamacpp.mailbox import Mailbox
from neuron_lib.sources.store import LocalModel
from neuron_lib.supervision.death import Death
from neuron_lib.types import Sampling
from tests.fakes.cancelled_spawn import cancel_in_the_spawn
from tests.fakes.log_lines import said
from tests.fakes.model_cache import children
from tests.fakes.turns import let_others_run

pytestmark = [pytest.mark.anyio, pytest.mark.process]

ENGINE_LOG = "neuron_lib.engine"
FAKE_ENGINE = Path(__file__).parents[2] / "fakes" / "fake_engine.py"
LOAD = load_command(
    LlamaCppConfig(n_ctx=64, n_batch=64, n_ubatch=64, threads=1, admission=AdmissionConfig(max_in_flight=2)),
    LocalModel(path=Path("/nowhere.gguf")),
    environ={},
)


@asynccontextmanager
async def fake_engine(
    mode: str,
    *,
    progress: list[float] | None = None,
    close_limit_s: float = 5.0,
    stall_limit_s: float = 300.0,
    silence_limit_s: float = 300.0,
    abort_limit_s: float = 5.0,
    kill_limit_s: float = 10.0,
) -> AsyncIterator[EngineProcess]:
    pid = None
    try:
        async with open_engine(
            LOAD,
            model_id="org/fake",
            environment=engine_environment(os.environ),
            on_progress=(progress if progress is not None else list[float]()).append,
            command=(sys.executable, str(FAKE_ENGINE), mode),
            close_limit_s=close_limit_s,
            stall_limit_s=stall_limit_s,
            silence_limit_s=silence_limit_s,
            abort_limit_s=abort_limit_s,
            kill_limit_s=kill_limit_s,
        ) as engine:
            pid = engine.pid
            yield engine
    except UnloadFailed:
        pid = None  # which says that it is still there
        raise
    finally:
        assert pid is None or not psutil.pid_exists(pid)  # reaped, whatever happened


def submit(text: str, *, request: int = 1, **fields: object) -> Submit:
    return Submit(
        request=request,
        task=ChatTask(messages=({"role": "user", "content": text},), template_kwargs=fields),
        sampling=Sampling(temperature=0, seed=0),
        limits=Limits(prompt_tokens=9, reply_tokens=9),
    )


async def say(engine: EngineProcess, text: str, *, request: int = 1) -> Mailbox:
    """Submit a chat; returns what the engine says once it has begun."""
    mailbox = Mailbox()
    engine.submit(submit(text, request=request), mailbox)
    assert isinstance(await mailbox.get(), Prepared)
    assert await mailbox.get() == Began(request, cached_tokens=1)
    return mailbox


async def read_all(mailbox: Mailbox) -> list[News]:
    news: list[News] = []
    with contextlib.suppress(NeuronError):
        while not news or not isinstance(news[-1], Done):
            news.append(await mailbox.get())
    return news


@pytest.mark.both_loops
async def test_a_reply_travels_from_submit_to_done() -> None:
    progress: list[float] = []
    async with fake_engine("normal", progress=progress) as engine:
        facts = await engine.wait_ready()
        mailbox = await say(engine, "one two")
        *deltas, done = await read_all(mailbox)
    assert facts.n_ctx == 64
    assert progress == [0.5]
    assert deltas == [Delta(1, "one "), Delta(1, "two ")]
    assert isinstance(done, Done)


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("segv-at-load", "killed by SIGSEGV"),
        ("exit-0-at-load", "exit status 0"),
        ("fatal-at-load", "not a model (magic is missing)"),
        ("assert-at-load", "killed by SIGABRT (ggml.c:7: GGML_ASSERT(a < b) failed)"),
        ("garbage-at-load", "a frame of 5 bytes does not decode"),
        ("oversize-at-load", "a frame of 4294967295 bytes exceeds 16777216"),
        ("hang-up-at-load", "killed by SIGKILL"),
    ],
)
async def test_a_load_that_ends_badly_says_how(mode: str, reason: str) -> None:
    async with fake_engine(mode) as engine:
        with pytest.raises(LoadFailed) as caught:
            await engine.wait_ready()
    assert caught.value.message == f"the engine could not load the model: {reason}"


BROKEN_INSTALLATIONS = {
    "a package that is missing": ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'"),
    "a library that is missing": (
        "import ctypes; ctypes.CDLL('libllama_absent.so')",
        "OSError: libllama_absent.so: cannot open shared object file: No such file or directory",
    ),
    "a long story": (
        "raise ImportError('READ THIS\\n\\n  * the Python version\\nOriginal error was: no x.so')",
        "ImportError: READ THIS Original error was: no x.so",
    ),
    "an error that follows from another": (
        "try:\n    import no_such_package\nexcept ImportError as error:\n    raise RuntimeError('broken') from error",
        "RuntimeError: broken",
    ),
    "a Python that is too old": ("import sys; sys.exit('neuron needs Python 3.11')", "neuron needs Python 3.11"),
}


@pytest.mark.parametrize(("program", "words"), BROKEN_INSTALLATIONS.values(), ids=BROKEN_INSTALLATIONS)
async def test_an_engine_that_cannot_be_imported_says_why(program: str, words: str) -> None:
    async with open_engine(
        LOAD,
        model_id="org/fake",
        environment=engine_environment(os.environ),
        on_progress=lambda _fraction: None,
        command=(sys.executable, "-c", program),
    ) as engine:
        with pytest.raises(LoadFailed) as caught:
            await engine.wait_ready()
    assert caught.value.message == f"the engine could not load the model: exit status 1 ({words})"


@pytest.mark.both_loops
async def test_a_load_that_hangs_can_be_given_up_and_the_process_is_killed() -> None:
    async with fake_engine("hang-at-load", close_limit_s=0.1) as engine:
        with anyio.move_on_after(0.1):
            await engine.wait_ready()


@pytest.mark.both_loops
async def test_cancelling_the_block_ends_the_process() -> None:
    with anyio.CancelScope() as scope:
        async with fake_engine("normal") as engine:
            await engine.wait_ready()
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught


@pytest.mark.both_loops
async def test_cancelling_in_the_middle_of_the_spawn_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    with anyio.CancelScope() as scope:
        cancel_in_the_spawn(monkeypatch, scope)
        async with fake_engine("normal"):
            pytest.fail("nobody wants this engine any more")
    assert scope.cancelled_caught
    assert not children()


@pytest.mark.both_loops
async def test_an_error_in_the_block_arrives_as_it_is() -> None:
    with pytest.raises(KeyError, match="mine"):  # noqa: PT012 - the block is what is tested
        async with fake_engine("normal") as engine:
            await engine.wait_ready()
            raise KeyError("mine")


@pytest.mark.parametrize(
    ("mode", "reason"), [("segv-after-delta", "killed by SIGSEGV"), ("exit-0-after-delta", "exit status 0")]
)
async def test_an_engine_that_dies_gives_up_what_it_said_then_the_death(mode: str, reason: str) -> None:
    async with fake_engine(mode) as engine:
        await engine.wait_ready()
        mailbox = await say(engine, "one two")
        assert await mailbox.get() == Delta(1, "one ")
        with pytest.raises(EngineDead) as caught:
            await mailbox.get()
        assert caught.value.reason == reason
        assert await engine.wait_dead() == Death(reason, frozenset({1}))
        with pytest.raises(EngineDead):
            engine.submit(submit("too late", request=2), Mailbox())
        engine.leave(1)  # too late, and no error


async def test_an_engine_that_beats_without_getting_on_is_told_to_abort() -> None:
    async with fake_engine("stuck-after-delta", stall_limit_s=2, abort_limit_s=60) as engine:
        await engine.wait_ready()
        await say(engine, "one two")
        assert (await engine.wait_dead()).reason == "no progress for 2 s"
        assert engine.exit_status == 3


async def test_an_engine_that_does_not_abort_shows_where_it_is(caplog: pytest.LogCaptureFixture) -> None:
    async with fake_engine("deaf-after-delta", stall_limit_s=2, abort_limit_s=0.05) as engine:
        await engine.wait_ready()
        await say(engine, "one two")
        assert (await engine.wait_dead()).reason.startswith("no progress for 2 s")
        assert engine.exit_status == -signal.SIGABRT
    assert any("fake_engine.py" in said(record) for record in caplog.records if record.name == ENGINE_LOG)


async def test_an_engine_that_is_stopped_is_killed_for_its_silence() -> None:
    async with fake_engine("beating", silence_limit_s=2, abort_limit_s=0.05) as engine:
        await engine.wait_ready()
        while engine.last_beat is None:
            await let_others_run()
        assert engine.standstill is None
        os.kill(engine.pid, signal.SIGSTOP)
        assert (await engine.wait_dead()).reason == "silent for 2 s"
        assert engine.exit_status == -signal.SIGKILL


@asynccontextmanager
async def undead_engine(mode: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[EngineProcess]:
    """One that no signal ends, as if it hung in a driver; it stands still from its first delta on."""
    for method in ("send_signal", "kill"):
        monkeypatch.setattr(Child, method, lambda *_: None)
    engine = None
    try:
        async with fake_engine(
            mode, close_limit_s=0.05, stall_limit_s=1, abort_limit_s=0.05, kill_limit_s=0.05
        ) as engine:
            yield engine
    finally:
        assert engine is not None
        os.kill(engine.pid, signal.SIGKILL)
        with anyio.CancelScope(shield=True):
            await engine._process.wait()
            await engine._process.close()


@pytest.mark.both_loops
async def test_an_engine_that_cannot_be_killed_is_told_as_that_even_to_a_cancelled_unload(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = "cannot be killed and keeps its memory"
    with pytest.raises(UnloadFailed, match=words), anyio.CancelScope() as scope:  # noqa: PT012 - the end of the block
        async with undead_engine("silent", monkeypatch) as engine:
            await engine.wait_ready()
            scope.cancel()


async def test_nobody_waits_for_the_reply_of_an_engine_that_cannot_be_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnloadFailed, match="cannot be killed"):  # noqa: PT012 - the end of the block raises it
        async with undead_engine("deaf-after-delta", monkeypatch) as engine:
            await engine.wait_ready()
            mailbox = await say(engine, "one two")
            with pytest.raises(EngineDead, match="no progress for 1 s, and cannot be killed"):
                await read_all(mailbox)


async def test_nobody_waits_for_the_load_of_one_that_hung_up_and_cannot_be_killed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(UnloadFailed, match="cannot be killed"):  # noqa: PT012 - the end of the block raises it
        async with undead_engine("hang-up-at-load", monkeypatch) as engine:
            with pytest.raises(LoadFailed, match="hung up, and cannot be killed"):
                await engine.wait_ready()


async def test_an_engine_that_never_beats_has_the_longer_limit() -> None:
    async with fake_engine("silent", stall_limit_s=2, silence_limit_s=1, abort_limit_s=0.05) as engine:
        assert (await engine.wait_dead()).reason == "no progress for 2 s"


async def test_a_request_that_fails_alone_leaves_the_engine_alive() -> None:
    async with fake_engine("broken-after-delta") as engine:
        await engine.wait_ready()
        mailbox = await say(engine, "one two")
        await mailbox.get()
        with pytest.raises(EngineFailed, match="no cells left"):
            await mailbox.get()
        await say(engine, "again", request=2)


async def test_a_reply_that_its_grammar_ends_is_the_request_s_fault() -> None:
    async with fake_engine("too-complex-after-delta") as engine:
        await engine.wait_ready()
        mailbox = await say(engine, "one two")
        await mailbox.get()
        with pytest.raises(InvalidGrammar, match="too complex") as caught:
            await mailbox.get()
        assert caught.value.param == "regex"
        await say(engine, "again", request=2)


async def test_a_prompt_that_is_refused_raises_the_error_it_was() -> None:
    async with fake_engine("normal") as engine:
        await engine.wait_ready()
        mailbox = Mailbox()
        engine.submit(submit("refuse"), mailbox)
        with pytest.raises(TemplateFailed, match="the template said no"):
            await mailbox.get()


@pytest.mark.parametrize("unsendable", [1 << 70, "\ud800", "x" * (17 << 20)])
async def test_what_no_frame_can_hold_is_an_invalid_request(unsendable: object) -> None:
    async with fake_engine("normal") as engine:
        await engine.wait_ready()
        with pytest.raises(InvalidRequest):
            engine.submit(submit("one", x=unsendable), Mailbox())
        mailbox = await say(engine, "still here", request=2)
        assert len(await read_all(mailbox)) == 3


async def test_a_program_that_does_not_exist_is_a_failed_load() -> None:
    with pytest.raises(LoadFailed, match="cannot be started"):
        async with open_engine(
            LOAD,
            model_id="org/fake",
            environment={},
            on_progress=lambda _fraction: None,
            command=("/nonexistent/engine",),
        ):
            pytest.fail("it cannot have started")


async def test_lines_of_the_engine_become_log_records(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "neuron_lib.engine"):
        async with fake_engine("fatal-at-load") as engine:
            with pytest.raises(LoadFailed):
                await engine.wait_ready()
    lines = [(record.levelname, said(record)) for record in caplog.records if record.name == "neuron_lib.engine"]
    assert lines == [
        ("INFO", "reading weights"),
        ("ERROR", "magic is missing"),
        ("ERROR", "failed to load model"),
    ]


def test_an_engine_gets_no_secret_and_no_stray_variable() -> None:
    environment = engine_environment(
        {
            "PATH": "/bin",
            "LC_ALL": "C.UTF-8",
            "CUDA_VISIBLE_DEVICES": "1",
            "GGML_CUDA_FORCE_MMQ": "1",
            "HF_TOKEN": "hf_x",
            "OPENAI_API_KEY": "sk-x",
            "NVIDIA_API_KEY": "nvapi-x",
            "LLAMA_API_KEY": "x",
            "LLAMA_ARG_HF_TOKEN": "hf_x",
            "NOTIFY_SOCKET": "/run/notify",
            "PYTHONSTARTUP": "/tmp/x.py",  # noqa: S108 - only a name
        }
    )
    assert sorted(environment) == [
        "CUDA_VISIBLE_DEVICES", "GGML_CUDA_FORCE_MMQ", "GGML_NO_BACKTRACE", "LC_ALL", "OPENBLAS_NUM_THREADS", "PATH",
        "PYTHONPATH",
    ]  # fmt: skip


@pytest.mark.parametrize(("environ", "threads"), [({}, "1"), ({"OPENBLAS_NUM_THREADS": "3"}, "3")])
def test_an_engine_has_no_threads_for_matrices_unless_the_operator_wants_them(
    environ: dict[str, str], threads: str
) -> None:
    assert engine_environment(environ)["OPENBLAS_NUM_THREADS"] == threads
