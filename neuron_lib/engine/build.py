"""Builds what one engine is made of, from a `Load` command and the loaded model: context, scheduler, runner, preparer.

Nothing here runs after the engine is ready.
"""

import logging
from collections.abc import Mapping
from typing import Final

from msgspec import structs

from neuron_lib.engine.binder import Binder
from neuron_lib.engine.cells import CellAccount, PooledCells, StreamCells
from neuron_lib.engine.kv_layout import KvLayout, choose_layout
from neuron_lib.engine.pair_writer import PairWriter
from neuron_lib.engine.prepare import Preparer, control_texts
from neuron_lib.engine.prompt_cache import PromptCache
from neuron_lib.engine.prompt_writer import Templates
from neuron_lib.engine.protocol import Load, ModelFacts, TemplateKind
from neuron_lib.engine.reservation import Reservation
from neuron_lib.engine.runner import LlamaRunner
from neuron_lib.engine.scheduler import Scheduler
from neuron_lib.engine.step_costs import StepCosts
from neuron_lib.engine.vector_scheduler import VectorScheduler
from neuron_lib.llama.budget import KvCost, free_bytes, measure_kv
from neuron_lib.llama.context import Context
from neuron_lib.llama.control_tokens import ControlToken, control_tokens
from neuron_lib.llama.memory import MemoryKind
from neuron_lib.llama.model import Model
from neuron_lib.llama.vector_context import VectorContext
from neuron_lib.llama.vocab import Vocab
from neuron_lib.modality import RERANK
from neuron_lib.text.formats import FORMATS, choose_format, choose_reasoning, named_format
from neuron_lib.types import ContextParams

__all__ = (
    "build_preparer",
    "build_runner",
    "build_scheduler",
    "build_vector_preparer",
    "build_vector_scheduler",
    "context_length",
    "model_facts",
    "open_context",
    "open_vector_context",
    "show_markers",
    "templates_of",
    "tool_template",
)

logger = logging.getLogger("neuron_lib.engine")

_MOST_VECTOR_TOKENS: Final = 2048
"""Tokens of all texts that vectors are made of at once: attention over them takes about 200 MiB in a small model."""

_MOST_TEXTS: Final = 64
"""Texts that vectors are made of at once. A step with a few short texts takes nearly as long as one with many."""


def open_context(model: Model, load: Load) -> Context:
    """The context that was asked for, but no longer than the model was trained for. Raises `LoadFailed`."""
    params = structs.replace(load.context, n_ctx=context_length(model, load))
    cost = measure_kv(model, params)
    layout = _kv_layout(model, params, cost, seats=load.seats)
    params = structs.replace(params, kv_layout="unified" if layout.unified else "per_sequence", kv_cells=layout.cells)
    return Context(model, params, seats=load.seats, cell_bytes=cost.cell_bytes)


def context_length(model: Model, load: Load) -> int:
    """Tokens of one request's context: what was asked for, at most what the model was trained for."""
    return min(load.context.n_ctx or model.native_context, model.native_context)


def _kv_layout(model: Model, params: ContextParams, cost: KvCost, *, seats: int) -> KvLayout:
    free = free_bytes(model, gpu_layers=params.gpu_layers)
    layout = choose_layout(
        wanted=params.kv_layout,
        seats=seats,
        n_ctx=params.n_ctx,
        kv_cells=params.kv_cells,
        bytes_per_cell=cost.cell_bytes,
        bytes_per_seat=cost.seat_bytes,
        free_bytes=free,
    )
    logger.info(
        "KV layout: %s of %d cells, %d MiB (%d B a cell, %d B a seat) of %d MiB free",
        "one pool" if layout.unified else "a stream for each sequence, all together",
        layout.cells,
        (layout.cells * cost.cell_bytes + seats * cost.seat_bytes) >> 20,
        cost.cell_bytes,
        cost.seat_bytes,
        free >> 20,
    )
    return layout


def build_scheduler(context: Context, load: Load) -> Scheduler:
    """The scheduler for `context`, with the cell account and the prompt cache that its memory allows."""
    memory = context.memory
    cells: CellAccount = StreamCells(load.seats, context.n_ctx)
    if _is_pool(context):
        cells = PooledCells(load.seats, context.kv_cells, shares=memory.shares_cells)
    costs = StepCosts(target_step_s=load.target_step_s)
    cache = PromptCache(
        seats=load.seats,
        cells=cells,
        costs=costs,
        is_enabled=load.prompt_cache,
        can_truncate=memory.can_truncate,
        host_budget_bytes=load.host_cache_bytes,
    )
    return Scheduler(
        cache=cache,
        cells=cells,
        costs=costs,
        n_batch=context.n_batch,
        n_ctx=context.n_ctx,
        speculation=load.speculation if memory.can_truncate else "off",
    )


def _is_pool(context: Context) -> bool:
    """Whether sequences take cells from a pool. A recurrent sequence takes one cell, however much it has read."""
    return context.is_unified and context.memory.kind is not MemoryKind.RECURRENT


def open_vector_context(model: Model, load: Load) -> VectorContext:
    """The context of a model that makes vectors. Raises `LoadFailed`.

    All tokens of a text must be computed at once, which takes memory for each: so no text is longer than a few thousand
    tokens, unless `n_batch` is larger.
    """
    n_batch = min(context_length(model, load), max(load.context.n_batch, _MOST_VECTOR_TOKENS))
    return VectorContext(model, load.context, seats=min(_MOST_TEXTS, n_batch), n_batch=n_batch)


def build_vector_scheduler(context: VectorContext, load: Load) -> VectorScheduler:
    """The scheduler for `context`."""
    return VectorScheduler(seats=load.seats, texts=min(_MOST_TEXTS, context.n_batch), n_batch=context.n_batch)


def build_vector_preparer(model: Model, context: VectorContext, load: Load) -> Preparer:
    """What makes prompts of inputs, or of queries and documents, for a model that does not chat."""
    controls = None if load.special_tokens_in_messages else control_tokens(model.vocab)
    return Preparer(
        model.vocab,
        template="",
        controls=controls,
        n_ctx=context.n_batch,
        vector_tokens=context.n_batch,
        pairs=_pair_writer(model, controls) if RERANK in model.capabilities else None,
    )


def _pair_writer(model: Model, controls: Mapping[int, ControlToken] | None) -> PairWriter:
    return PairWriter(
        template=model.rerank_template,
        separator=model.vocab.separator,
        controls=None if controls is None else control_texts(controls),
    )


def build_runner(model: Model, context: Context) -> LlamaRunner:
    """The runner that executes the scheduler's plans on `context`."""
    return LlamaRunner(context, model.vocab, apart=model.needs_batches_apart)


def build_preparer(model: Model, context: Context, load: Load, facts: ModelFacts) -> Preparer:
    """The preparer of prompts. Raises `LoadFailed` for an operator's template that does not compile."""
    templates = templates_of(model, load)
    return Preparer(
        model.vocab,
        template=templates.own,
        tool_template=templates.own_for_tools,
        override=templates.configured,
        controls=None if load.special_tokens_in_messages else control_tokens(model.vocab),
        n_ctx=context.n_ctx,
        seats=load.seats,
        needs_checkpoints=not context.memory.can_truncate,
        tool_format=FORMATS[facts.tool_format],
        binder=Binder(model.vocab, tool_format=FORMATS[facts.tool_format], reasoning=facts.reasoning),
        reservation=Reservation(
            cells=context.kv_cells,
            n_ctx=context.n_ctx,
            seats=load.seats,
            is_pool=_is_pool(context),
            shares=context.memory.shares_cells,
        ),
        cell_bytes=context.cell_bytes,
    )


def templates_of(model: Model, load: Load) -> Templates:
    """The sources of the templates that may write prompts."""
    uses_own = load.use_chat_template
    return Templates(
        configured=load.chat_template,
        own=(model.chat_template or model.tool_chat_template) if uses_own else None,
        own_for_tools=model.tool_chat_template if uses_own else None,
    )


def tool_template(model: Model, load: Load) -> str | None:
    """The source of the template that writes chats with tools; None for ChatML, which shows none."""
    if load.chat_template is not None or not load.use_chat_template:
        return load.chat_template
    return model.tool_chat_template or model.chat_template


def model_facts(
    model: Model,
    context: Context | None,
    *,
    n_ctx: int,
    template: TemplateKind = "fallback",
    tool_template: str | None = None,
    tool_format: str = "",
    vector_width: int = 0,
) -> ModelFacts:
    """What the daemon is told of the model.

    `context` is None for a model that does not chat. `tool_template` is the source of the template for chats with
    tools. `tool_format` is the name of the format that was configured, "" for the one that the template asks for.
    `vector_width` is how many numbers a vector of the model has. Raises `LoadFailed` for a name that is not known.
    """
    facts = ModelFacts(
        description=model.description,
        size_bytes=model.size_bytes,
        native_context=model.native_context,
        n_ctx=n_ctx,
        supports_gpu=model.supports_gpu,
        recommended=model.recommended_sampling(),
        reasoning=None,
        tool_format="",
        capabilities=model.capabilities,
        vector_width=vector_width,
    )
    if context is None:
        return facts

    def is_token(text: str) -> bool:
        return model.vocab.single_token(text) is not None

    chosen = named_format(tool_format) if tool_format else choose_format(tool_template, is_token)
    return structs.replace(
        facts,
        kv_layout="unified" if context.is_unified else "per_sequence",
        kv_cells=context.kv_cells,
        cell_bytes=context.cell_bytes,
        memory=context.memory.kind,
        chat_template=template,
        reasoning=choose_reasoning(chosen, tool_template, is_token),
        tool_format=chosen.name,
        n_vocab=model.vocab.n_tokens,
    )


def show_markers(vocab: Vocab, facts: ModelFacts) -> None:
    """Make the markers of the model's format part of the generated text, for the readers that look for them."""
    around = () if facts.reasoning is None else (facts.reasoning.open, facts.reasoning.close)
    for text in (*FORMATS[facts.tool_format].shown_tokens, *around):
        token = vocab.single_token(text)
        if token is not None:
            vocab.show(token)
