"""`python -m neuron_lib.engine --fd N`: one model behind one socket.

One thread reads commands and beats once a second, so that both go on whatever the others do. One loads the model and
steps. Three prepare prompts, the main thread among them, see `prompts`. One waits for nothing but the daemon's death.
The process ends on `Close`, when the socket closes (the daemon is gone), on a broken protocol, or when one of its
threads fails. It never tries to go on, and never by way of the interpreter's shutdown: another thread may be inside
native code.
"""

import argparse
import contextlib
import faulthandler
import gc
import logging
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn, assert_never

from msgspec import structs

from neuron_lib.engine.cells import CellAccount, PooledCells, StreamCells
from neuron_lib.engine.kv_plan import KvPlan, choose_layout
from neuron_lib.engine.loop import EngineLoop
from neuron_lib.engine.pace import Pace
from neuron_lib.engine.prepare import Preparer
from neuron_lib.engine.process import clear_signals, deepen_stack, end_with_daemon, log_to_stderr, shield_the_daemon
from neuron_lib.engine.prompt_cache import PromptCache
from neuron_lib.engine.prompts import Prompts, message_of
from neuron_lib.engine.protocol import (
    Abort,
    Beat,
    Cancel,
    Close,
    Command,
    Fatal,
    Load,
    ModelFacts,
    Prepare,
    Progress,
    ProtocolError,
    Ready,
    Report,
    Start,
    TemplateKind,
    command_decoder,
    encode_frame,
)
from neuron_lib.engine.runner import LlamaRunner
from neuron_lib.engine.scheduler import Scheduler
from neuron_lib.engine.vitals import bytes_read, bytes_resident
from neuron_lib.errors import (
    LoadFailed,
    NeuronError,
)
from neuron_lib.exhaustion import is_exhausted
from neuron_lib.llama.bindings import init_backend
from neuron_lib.llama.budget import free_bytes, measure_kv
from neuron_lib.llama.context import Context
from neuron_lib.llama.control_tokens import control_tokens
from neuron_lib.llama.grammar import GrammarCompiler
from neuron_lib.llama.memory import MemoryKind
from neuron_lib.llama.model import Model
from neuron_lib.llama.vocab import Vocab
from neuron_lib.parent import end_with_parent, leave_signals_to_parent
from neuron_lib.text.reasoning import REASONING_MARKERS
from neuron_lib.text.tag_splitter import Markers
from neuron_lib.text.tool_calls import TOOL_MARKERS
from neuron_lib.text.tool_format import asks_for_known_calls

logger = logging.getLogger("neuron_lib.engine")

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
        self._prompts: Final = Prompts(self.send)
        self._preparer: Preparer | None = None
        self._context: Context | None = None
        self._loop: EngineLoop | None = None

    def send(self, report: Report) -> None:
        """Write one frame whole; all threads do. A daemon that is gone ends the process."""
        frame = encode_frame(report)
        with self._send_lock:
            try:
                self._socket.sendall(frame)
            except OSError:
                os._exit(0)

    def serve(self, daemon: int) -> None:
        """The main thread's life, which ends no later than that of the process `daemon`."""
        self._live(self._serve_as_main, daemon)

    def _serve_as_main(self, daemon: int) -> NoReturn:
        self._start_thread("daemon watch", end_with_daemon, self._socket, daemon)
        self._start_thread("long prompts", self._prompts.read_forever)
        self._start_thread("commands", self._serve)
        self._prompts.render_forever()

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
            case Prepare():
                self._prompts.prepare(command)
            case Start():
                self._start(command)
            case Cancel(request):
                # Whichever thread works on it says when it has left it; if none does, there is nothing to be said.
                if not self._prompts.cancel(request) and self._loop is not None:
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
        self._prompts.compile_forever(compiler)

    def _start(self, start: Start) -> None:
        prompt = self._prompts.take(start.request)
        if prompt is None or self._loop is None or self._preparer is None:
            raise ProtocolError(f"request {start.request} was started without a prepared prompt")
        self._loop.start(tuple(self._preparer.sequences(start, prompt)))

    def _beat(self) -> None:
        loop = self._loop
        self.send(
            Beat(
                step=loop.steps if loop else 0,
                in_flight=loop.in_flight if loop else 0,
                rss_bytes=bytes_resident(),
                read_bytes=bytes_read(),
                work=self._prompts.work,
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
        with Model(Path(load.path), gpu_layers=load.gpu_layers, on_progress=self._progress()) as model:
            if model.refusal is not None:
                raise LoadFailed(f"{model.description} cannot be served: {model.refusal}")
            if model.can_chat:
                self._chat(model, load)
            else:
                self._hold(model, load)

    def _hold(self, model: Model, load: Load) -> None:
        """Keep a model that does not chat. It gets no context: nothing is computed with it yet."""
        self.send(Ready(_facts(model, None, n_ctx=_context_length(model, load))))
        threading.Event().wait()  # nobody sets it: the process ends with the model

    def _chat(self, model: Model, load: Load) -> None:
        with _open_context(model, load) as context:
            self._context = context
            context.warm_up(model.vocab)
            self._preparer = _preparer(model, context, load)
            facts = _facts(
                model,
                context,
                n_ctx=context.n_ctx,
                template=self._preparer.template_kind,
                tool_template=_tool_template(model, load),
            )
            for pair in (facts.reasoning, facts.tool_call):
                _show(model.vocab, pair)
            self._loop = EngineLoop(
                _scheduler(context, load),
                _runner(model, context),
                report=self.send,
                report_interval_s=load.report_interval_s,
            )
            self._prompts.open(self._preparer)
            self._start_thread("grammars", self._compile, GrammarCompiler(model.vocab))
            self.send(Ready(facts))
            gc.freeze()  # what is there now stays; looking through it again and again would take steps their time
            self._loop.run_forever()

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


def _open_context(model: Model, load: Load) -> Context:
    """A context as it was asked for, but no longer than the model was trained for. Raises `LoadFailed`."""
    n_ctx = _context_length(model, load)
    plan = _kv_plan(model, load, n_ctx=n_ctx)
    return Context(
        model,
        seats=load.seats,
        n_ctx=n_ctx,
        n_batch=load.n_batch,
        n_ubatch=load.n_ubatch,
        threads=load.threads,
        flash_attn=load.flash_attn,
        kv_type_k=load.kv_type_k,
        kv_type_v=load.kv_type_v,
        kv_unified=plan.unified,
        kv_cells=plan.cells,
        swa_full=load.swa_full,
    )


def _context_length(model: Model, load: Load) -> int:
    return min(load.n_ctx or model.native_context, model.native_context)


def _kv_plan(model: Model, load: Load, *, n_ctx: int) -> KvPlan:
    cost = measure_kv(
        model,
        n_ubatch=load.n_ubatch,
        flash_attn=load.flash_attn,
        kv_type_k=load.kv_type_k,
        kv_type_v=load.kv_type_v,
    )
    free = free_bytes(model, gpu_layers=load.gpu_layers)
    plan = choose_layout(
        wanted=load.kv_layout,
        seats=load.seats,
        n_ctx=n_ctx,
        kv_cells=load.kv_cells,
        bytes_per_cell=cost.cell_bytes,
        bytes_per_seat=cost.seat_bytes,
        free_bytes=free,
    )
    logger.info(
        "KV layout: %s of %d cells, %d MiB (%d B a cell, %d B a seat) of %d MiB free",
        "one pool" if plan.unified else "a stream for each sequence, all together",
        plan.cells,
        (plan.cells * cost.cell_bytes + load.seats * cost.seat_bytes) >> 20,
        cost.cell_bytes,
        cost.seat_bytes,
        free >> 20,
    )
    return plan


def _scheduler(context: Context, load: Load) -> Scheduler:
    memory = context.memory
    cells: CellAccount = StreamCells(load.seats, context.n_ctx)
    if context.is_unified and memory.kind is not MemoryKind.RECURRENT:  # which needs one cell, whatever it has read
        cells = PooledCells(load.seats, context.kv_cells, shares=memory.shares_cells)
    pace = Pace(target_step_s=load.target_step_s)
    cache = PromptCache(
        seats=load.seats,
        cells=cells,
        pace=pace,
        is_enabled=load.prompt_cache,
        can_truncate=memory.can_truncate,
        host_budget_bytes=load.host_cache_bytes,
    )
    return Scheduler(
        cache=cache,
        cells=cells,
        pace=pace,
        n_batch=context.n_batch,
        n_ctx=context.n_ctx,
        speculation=load.speculation if memory.can_truncate else "off",
    )


def _runner(model: Model, context: Context) -> LlamaRunner:
    return LlamaRunner(context, model.vocab, apart=model.needs_batches_apart)


def _preparer(model: Model, context: Context, load: Load) -> Preparer:
    uses_own = load.use_chat_template
    return Preparer(
        model.vocab,
        template=(model.chat_template or model.tool_chat_template) if uses_own else None,
        tool_template=model.tool_chat_template if uses_own else None,
        override=load.chat_template,
        controls=None if load.special_tokens_in_messages else control_tokens(model.vocab),
        n_ctx=context.n_ctx,
        needs_checkpoints=not context.memory.can_truncate,
    )


def _tool_template(model: Model, load: Load) -> str | None:
    """The source of the template that writes chats with tools; None for ChatML, which shows none."""
    if load.chat_template is not None or not load.use_chat_template:
        return load.chat_template
    return model.tool_chat_template or model.chat_template


def _facts(
    model: Model,
    context: Context | None,
    *,
    n_ctx: int,
    template: TemplateKind = "fallback",
    tool_template: str | None = None,
) -> ModelFacts:
    """What the model is. `tool_template` is the source of the template for chats with tools. A model that does not chat
    has no context.
    """
    facts = ModelFacts(
        description=model.description,
        size_bytes=model.size_bytes,
        native_context=model.native_context,
        n_ctx=n_ctx,
        has_chat_template=template != "fallback",
        recommended=model.recommended_sampling(),
        reasoning=None,
        tool_call=None,
        capabilities=model.capabilities,
    )
    if context is None:
        return facts
    tool_call = _first_known(model.vocab, TOOL_MARKERS)
    return structs.replace(
        facts,
        kv_layout="unified" if context.is_unified else "per_sequence",
        kv_cells=context.kv_cells,
        memory=context.memory.kind,
        chat_template=template,
        reasoning=_first_known(model.vocab, REASONING_MARKERS),
        tool_call=tool_call,
        calls_are_read=asks_for_known_calls(tool_template, tool_call),
        n_vocab=model.vocab.n_tokens,
    )


def _first_known(vocab: Vocab, candidates: tuple[Markers, ...]) -> Markers | None:
    """The first pair of which both halves are single tokens."""
    for pair in candidates:
        if vocab.single_token(pair.open) is not None and vocab.single_token(pair.close) is not None:
            return pair
    return None


def _show(vocab: Vocab, pair: Markers | None) -> None:
    """Make a pair of markers part of the generated text, for the parsers that look for them."""
    for text in () if pair is None else (pair.open, pair.close):
        token = vocab.single_token(text)
        if token is not None:
            vocab.show(token)


def main() -> None:
    """Serve one model on the inherited socket `--fd`."""
    parser = argparse.ArgumentParser(prog="python -m neuron_lib.engine", description="one model behind one socket")
    parser.add_argument("--fd", type=int, required=True, help="number of an inherited, connected stream socket")
    parser.add_argument("--parent", type=int, help="pid of the daemon, if the thread that starts this lives as long")
    options = parser.parse_args()
    clear_signals()
    leave_signals_to_parent()
    if options.parent is not None:
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
