"""Builds what one engine is made of, from a `Load` command and the loaded model: context, scheduler, runner, preparer.

Nothing here runs after the engine is ready.
"""

import logging
from collections.abc import Mapping

from msgspec import structs

from neuron_lib.engine.binder import Binder
from neuron_lib.engine.cells import CellAccount, PooledCells, StreamCells
from neuron_lib.engine.memory_planner import context_length, settle_context
from neuron_lib.engine.pair_writer import PairWriter
from neuron_lib.engine.prepare import Preparer, control_texts
from neuron_lib.engine.prompt_cache import PromptCache
from neuron_lib.engine.prompt_writer import Templates
from neuron_lib.engine.protocol import Load, ModelFacts, TemplateKind
from neuron_lib.engine.reservation import Reservation
from neuron_lib.engine.runner import LlamaRunner
from neuron_lib.engine.scheduler import Scheduler
from neuron_lib.engine.step_costs import StepCosts
from neuron_lib.engine.vector_batch import vector_batch
from neuron_lib.engine.vector_scheduler import VectorScheduler
from neuron_lib.llama.context import Context
from neuron_lib.llama.control_tokens import ControlToken, control_tokens
from neuron_lib.llama.memory import MemoryKind
from neuron_lib.llama.model import Model
from neuron_lib.llama.vector_context import VectorContext
from neuron_lib.llama.vocab import Vocab
from neuron_lib.modality import RERANK
from neuron_lib.text.formats import FORMATS, choose_format, choose_reasoning, named_format
from neuron_lib.types import MemoryPlan

__all__ = (
    "build_preparer",
    "build_runner",
    "build_scheduler",
    "build_vector_preparer",
    "build_vector_scheduler",
    "model_facts",
    "open_context",
    "open_vector_context",
    "show_markers",
    "templates_of",
    "tool_template",
)

logger: logging.Logger = logging.getLogger("neuron_lib.engine")


def open_context(model: Model, load: Load, plan: MemoryPlan | None) -> Context:
    """The context that was planned. Raises `LoadFailed`."""
    params = settle_context(load, plan, native_context=model.native_context)
    return Context(model, params, seats=load.seats, cell_bytes=0 if plan is None else plan.cell_bytes)


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
    """The context of a model that makes vectors. Raises `LoadFailed`."""
    texts, n_batch = vector_batch(load.context, n_ctx=context_length(load.context, model.native_context))
    return VectorContext(model, load.context, seats=texts, n_batch=n_batch)


def build_vector_scheduler(context: VectorContext, load: Load) -> VectorScheduler:
    """The scheduler for `context`."""
    return VectorScheduler(seats=load.seats, texts=context.seats, n_batch=context.n_batch)


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
