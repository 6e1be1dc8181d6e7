"""`python -m neuron_lib.engine --fd N`: one model behind one socket.

| thread | what it does |
|---|---|
| main | renders prompts and tokenizes short ones (`intake`) |
| long prompts, grammars | the other lanes of `intake` |
| commands | reads commands and beats once a second, whatever the other threads do |
| engine | loads the model, then steps (`loop`) |
| daemon watch | waits for the daemon's death |

The process ends on `Close`, when the socket closes (the daemon is gone), on a broken protocol, or when one of its
threads fails. It never tries to go on, and never ends by way of the interpreter's shutdown, because another thread may
be inside native code.
"""

import argparse
import array
import contextlib
import faulthandler
import fcntl
import gc
import logging
import os
import select
import socket
import sys
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn, assert_never

from neuron_lib.child.parent_death import (
    add_parent_option,
    end_with_parent,
    end_without_parent,
    leave_signals_to_parent,
)
from neuron_lib.engine.build import (
    build_preparer,
    build_runner,
    build_scheduler,
    build_vector_preparer,
    build_vector_scheduler,
    model_facts,
    open_context,
    open_vector_context,
    show_markers,
    templates_of,
    tool_template,
)
from neuron_lib.engine.intake import Intake, message_of
from neuron_lib.engine.loop import EngineLoop
from neuron_lib.engine.memory_planner import plan_load, require_servable
from neuron_lib.engine.prepare import Preparer
from neuron_lib.engine.process import clear_signals, deepen_stack, log_to_stderr, shield_the_daemon
from neuron_lib.engine.process_stats import bytes_read, bytes_resident
from neuron_lib.engine.protocol import (
    Abort,
    Beat,
    Cancel,
    Close,
    Command,
    Fatal,
    Load,
    ModelFacts,
    Planned,
    Progress,
    Ready,
    Report,
    Submit,
    command_decoder,
    encode_frame,
)
from neuron_lib.engine.runner import Runner, VectorRunner
from neuron_lib.engine.scheduler import Scheduler
from neuron_lib.engine.vector_scheduler import VectorScheduler
from neuron_lib.errors import (
    LoadFailed,
    NeuronError,
)
from neuron_lib.llama.bindings import init_backend
from neuron_lib.llama.context import Context
from neuron_lib.llama.devices import use_rpc
from neuron_lib.llama.grammar import GrammarCompiler
from neuron_lib.llama.model import Model
from neuron_lib.llama.vector_context import VectorContext
from neuron_lib.os_errors import is_exhausted
from neuron_lib.types import MemoryPlan

logger: logging.Logger = logging.getLogger("neuron_lib.engine")

_BEAT_S: Final = 1.0
_READ_BYTES: Final = 1 << 20
_SWITCH_INTERVAL_S: Final = 0.0005
"""How long the main thread, say in a template, may keep the engine thread from the interpreter, several times a step.
Python's own 5 ms made steps of running replies twice as long while a prompt was rendered (measured)."""
_STACK_BYTES: Final = 8 << 20
"""Of every thread, whatever the shell's limit: `GrammarCompiler` needs it. Tokenizing takes 2 MiB, see `text_cuts`."""


class Engine:
    """The process's state. Everything native but `Context.abort` and the vocabulary belongs to the engine thread."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket: Final = sock
        self._send_lock: Final = threading.Lock()
        self._intake: Final = Intake(self.send)
        self._context: Context | VectorContext | None = None
        self._loop: EngineLoop | None = None

    def send(self, report: Report) -> None:
        """Write one frame whole; all threads do. A daemon that is gone ends the process."""
        frame = encode_frame(report)
        with self._send_lock:
            try:
                self._socket.sendall(frame)
            except OSError:
                os._exit(0)

    def _is_read(self) -> bool:
        """Whether the daemon has read all that was sent. The kernel says so, thus the daemon need not answer."""
        unread = array.array("i", [0])
        fcntl.ioctl(self._socket, termios.TIOCOUTQ, unread)
        return not unread[0]

    def serve(self, daemon: int) -> None:
        """The main thread's life, which ends no later than that of the process `daemon`."""
        self._live(self._serve_as_main, daemon)

    def _serve_as_main(self, daemon: int) -> NoReturn:
        self._start_thread("daemon watch", end_without_parent, daemon, self._socket.fileno())
        self._start_thread("long prompts", self._intake.read_forever)
        self._start_thread("commands", self._serve)
        self._intake.render_forever()

    def _start_thread(self, name: str, life: Callable[..., None], *arguments: Any) -> None:
        threading.Thread(target=self._live, args=(life, *arguments), name=name, daemon=True).start()

    def _live(self, life: Callable[..., None], *arguments: Any) -> None:
        """A thread's life. No thread goes on without the others."""
        try:
            life(*arguments)
        except BaseException as error:  # noqa: BLE001 - the last handler of this thread; a panic is no Exception
            self._die(error)

    def _serve(self) -> NoReturn:
        decoder = command_decoder()
        readable = select.poll()
        readable.register(self._socket, select.POLLIN)
        next_beat = time.monotonic() + _BEAT_S
        while True:
            has_data = readable.poll(max(0.0, next_beat - time.monotonic()) * 1000)
            if time.monotonic() >= next_beat:
                self._beat()
                next_beat = time.monotonic() + _BEAT_S
            if has_data:
                for command in decoder.feed(self._receive()):
                    self._obey(command)

    def _receive(self) -> bytes:
        try:
            data = self._socket.recv(_READ_BYTES)
        except ConnectionResetError:  # the daemon died with reports unread
            data = b""
        return data or os._exit(0)

    def _obey(self, command: Command) -> None:
        match command:
            case Load():
                self._start_thread("engine", self._load_and_step, command)
            case Submit():
                self._intake.submit(command)
            case Cancel(request):
                if not self._intake.cancel(request) and self._loop is not None:
                    self._loop.cancel(request)
            case Close():
                os._exit(0)
            case Abort():
                faulthandler.dump_traceback()
                if self._context is not None:
                    self._context.abort()
            case _:
                assert_never(command)

    def _compile(self, compiler: GrammarCompiler) -> NoReturn:
        """The grammar thread's life. The engine thread, which starts it, may be bound to a core; this one is not."""
        with contextlib.suppress(OSError):  # slower is better than none
            os.sched_setaffinity(0, os.sched_getaffinity(os.getpid()))
        self._intake.compile_forever(compiler)

    def _beat(self) -> None:
        loop = self._loop
        self.send(
            Beat(
                step=loop.steps if loop else 0,
                in_flight=loop.in_flight if loop else 0,
                rss_bytes=bytes_resident(),
                read_bytes=bytes_read(),
                work=self._intake.work,
                measures=loop.measures() if loop else None,
            )
        )

    def _die(self, error: BaseException) -> NoReturn:
        """End the process after saying why, or without where even that fails, as it may without memory."""
        try:
            if not isinstance(error, NeuronError):
                # A warning: the daemon takes the last *error* that llama.cpp logged for the reason behind this.
                logger.warning("engine failed", exc_info=error)
            self.send(Fatal(message_of(error)))
        finally:
            os._exit(os.EX_TEMPFAIL if is_exhausted(error) else os.EX_SOFTWARE)

    def _load_and_step(self, load: Load) -> None:
        """The engine thread's life."""
        init_backend()
        use_rpc(load.rpc_devices)
        plan = plan_load(load)
        is_refused = plan is not None and not plan.fits and load.refuses_unfit and not load.plan_only
        self.send(Planned(plan, is_refused=is_refused))
        if load.plan_only:
            return
        if is_refused:
            raise LoadFailed("the model does not fit into memory")
        if plan is not None and not plan.fits:
            logger.warning("the model needs more memory than is free, and memory_check lets it load: %s", plan.needs)
        with Model(
            Path(load.path),
            gpu_layers=load.context.gpu_layers,
            on_progress=self._progress(),
            beside_gpus=load.beside_gpus,
        ) as model:
            require_servable(model)
            if model.can_chat:
                self._chat(model, load, plan)
            else:
                self._embed(model, load)

    def _embed(self, model: Model, load: Load) -> None:
        with open_vector_context(model, load) as context:
            self._context = context
            facts = model_facts(model, None, n_ctx=context.n_batch, vector_width=context.width)
            self._step(
                build_vector_scheduler(context, load),
                VectorRunner(context),
                load,
                facts,
                preparer=build_vector_preparer(model, context, load),
            )

    def _chat(self, model: Model, load: Load, plan: MemoryPlan | None) -> None:
        with open_context(model, load, plan) as context:
            self._context = context
            context.warm_up(model.vocab)
            facts = model_facts(
                model,
                context,
                n_ctx=context.n_ctx,
                template=templates_of(model, load).kind,
                tool_template=tool_template(model, load),
                tool_format=load.tool_format,
            )
            show_markers(model.vocab, facts)
            preparer = build_preparer(model, context, load, facts)
            compiler = GrammarCompiler(model.vocab)
            self._start_thread("grammars", self._compile, compiler)
            self._step(
                build_scheduler(context, load),
                build_runner(model, context),
                load,
                facts,
                preparer=preparer,
                compiler=compiler,
            )

    def _step(
        self,
        scheduler: Scheduler | VectorScheduler,
        runner: Runner,
        load: Load,
        facts: ModelFacts,
        *,
        preparer: Preparer,
        compiler: GrammarCompiler | None = None,
    ) -> None:
        """Take requests in, and step until the process ends."""
        loop = self._loop = EngineLoop(
            scheduler, runner, report=self.send, is_read=self._is_read, report_interval_s=load.report_interval_s
        )
        self._intake.open(preparer, hand_on=loop.submit, compiler=compiler)
        self.send(Ready(facts))
        gc.freeze()  # what is there now stays, so the collector need not look through it during steps
        loop.run_forever()

    def _progress(self) -> Callable[[float], bool]:
        """Reports each whole percent once; libllama calls back far more often than anybody looks."""
        last = -1

        def report(fraction: float) -> bool:
            nonlocal last
            percent = int(fraction * 100)
            if percent > last:
                last = percent
                self.send(Progress(fraction))
            return True

        return report


def main() -> None:
    """Serve one model on the inherited socket `--fd`."""
    parser = argparse.ArgumentParser(prog="python -m neuron_lib.engine", description="one model behind one socket")
    parser.add_argument("--fd", type=int, required=True, help="number of an inherited, connected stream socket")
    add_parent_option(parser)
    options = parser.parse_args()
    clear_signals()
    leave_signals_to_parent()
    end_with_parent(options.parent)
    daemon = os.getppid()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    threading.stack_size(_STACK_BYTES)
    deepen_stack(_STACK_BYTES)
    faulthandler.enable()
    log_to_stderr()
    shield_the_daemon()
    Engine(socket.socket(fileno=options.fd)).serve(daemon)


if __name__ == "__main__":
    main()
