"""What the page says of a host, in words."""

import pytest

from neuron_lib.types import (
    ActivationSnapshot,
    ActivationState,
    DeferredLoad,
    Device,
    DeviceHealth,
    FailedLoad,
    Health,
    HostCpus,
    HostMemory,
    LoadingModel,
    LoadProgress,
    LoadStage,
    ModelInfo,
    ModelLimit,
    ModelLoad,
    ModelStatus,
    Reload,
    ReplyEvent,
    ReplyOutcome,
    Servable,
    UnloadingModel,
)
from neuron_service.page.view import Card, ModelState, PageFacts, View, view_of
from neuron_service.page.words import ago, duration, mib_of
from neuron_service.status import NotReady

A, B, C = "org/a", "org/b", "org/c"
READY = ActivationSnapshot(state=ActivationState.READY)


def health(**changes: object) -> Health:
    fields: dict[str, object] = {"uptime_secs": 5, "devices": (), "activation": READY, "models": ()}
    return Health(**(fields | changes))  # type: ignore[arg-type] # fields by name


def seen(body: Health, *models: ModelInfo, **changes: object) -> View:
    fields: dict[str, object] = {"hostname": "h", "status": "s", "not_ready": None, "version": "1"}
    return view_of(PageFacts(**(fields | {"health": body, "models": models} | changes)))  # type: ignore[arg-type] # as above


def model(model_id: str = A, status: ModelStatus = ModelStatus.LOADED, **changes: object) -> ModelInfo:
    fields: dict[str, object] = {"harness": "x", "devices": (), "capabilities": ("text",)}
    return ModelInfo(id=model_id, status=status, **(fields | changes))  # type: ignore[arg-type] # as above


def facts_of(card: Card) -> dict[str, tuple[str, float | None]]:
    return {fact.name: (fact.value, fact.share) for fact in card.facts}


def test_a_model_that_serves_shows_requests_speed_cells_memory_device_and_context() -> None:
    load = ModelLoad(
        id=A,
        in_flight=2,
        queue_depth=1,
        max_in_flight=8,
        max_queue_depth=32,
        tok_s_decode=41.25,
        tok_s_prefill=900.0,
        kv_budget_mb=400,
        kv_available_mb=300,
        engine_rss_mb=512,
    )
    limit = ModelLimit(context=4096, output=4096)
    (card,) = seen(health(models=(load,)), model(devices=(0, 1), vram_used_mb=2048, limit=limit)).cards
    assert (card.state, card.action, card.can_chat) == (ModelState.SERVING, "unload", True)
    assert facts_of(card) == {
        "Running": ("2 of 8", 0.25),
        "Waiting": ("1 of 32", 1 / 32),
        "Reply speed": ("41 tokens/s", None),
        "Prompt speed": ("900 tokens/s", None),
        "KV cells": ("105 of 419 MB", 0.25),
        "Memory": ("537 MB", None),
        "GPU memory": ("2.1 GB", None),
        "Device": ("GPU 0, 1", None),
        "Context": ("4096 tokens", None),
    }


def test_refusals_restarts_and_the_last_crash_are_shown_where_there_are_any() -> None:
    load = ModelLoad(
        id=A,
        in_flight=0,
        queue_depth=0,
        rejected_queue_full=2,
        rejected_kv_timeout=1,
        engine_restarts=1,
        last_engine_death="killed by SIGKILL",
    )
    (card,) = seen(health(models=(load,)), model()).cards
    shown = facts_of(card)
    assert (shown["Refused"][0], shown["Restarts"][0], shown["Last crash"][0]) == (
        "3 requests",
        "1",
        "killed by SIGKILL",
    )
    (card,) = seen(health(models=(ModelLoad(id=A, in_flight=0, queue_depth=0),)), model()).cards
    assert not {"Refused", "Restarts", "Last crash"} & set(facts_of(card))


def test_a_load_shows_its_stage_its_progress_and_how_long_it_takes() -> None:
    progress = LoadProgress(
        stage=LoadStage.DOWNLOADING, fraction=0.42, bytes=42_000_000, total_bytes=100_000_000, eta_s=9
    )
    (card,) = seen(health(loading=(LoadingModel(model_id=A, progress=progress, elapsed_ms=65_000),))).cards
    assert card == Card(
        id=A,
        state=ModelState.LOADING,
        words="downloading 42 %, 42 of 100 MB, 9 s left, 1 min 5 s so far",
        fraction=0.42,
        action="cancel",
    )


def test_every_other_state_of_a_model_has_a_card_with_its_reason() -> None:
    activation = ActivationSnapshot(
        state=ActivationState.PRE_WARMING,
        pending=("org/waits", "org/later"),
        failed=(FailedLoad(model_id="org/fails", error="no such file"),),
        deferred=(DeferredLoad(model_id="org/later", error="the hub is down", attempt=2, next_try_secs=70),),
    )
    body = health(
        activation=activation,
        unloading=(UnloadingModel(model_id="org/goes", elapsed_ms=2000, running_requests=1, is_overdue=True),),
        lost=(FailedLoad(model_id="org/lost", error="SIGSEGV"),),
        reload=Reload(count=1, at=1, failed=(FailedLoad(model_id="org/added", error="bad"),)),
    )
    cards = {card.id: card for card in seen(body, model("org/dies", ModelStatus.RECOVERING)).cards}
    assert {card.id: (card.state.value, card.error, card.action) for card in cards.values()} == {
        "org/dies": ("recovering", "", "unload"),
        "org/goes": ("unloading", "", None),
        "org/waits": ("waiting", "", None),
        "org/later": ("waiting", "the hub is down", None),
        "org/lost": ("lost", "SIGSEGV", "load"),
        "org/added": ("failed", "bad", "load"),
        "org/fails": ("failed", "no such file", "load"),
    }
    assert cards["org/later"].words == "next try in 1 min 10 s"
    assert "1 request still running" in cards["org/goes"].words
    assert "its memory may still be taken" in cards["org/goes"].words


def test_a_model_that_failed_and_is_loaded_again_has_one_card() -> None:
    activation = ActivationSnapshot(state=ActivationState.READY, failed=(FailedLoad(model_id=A, error="no"),))
    loading = LoadingModel(model_id=A, progress=LoadProgress(stage=LoadStage.RESOLVING), elapsed_ms=0)
    assert [card.state for card in seen(health(activation=activation, loading=(loading,))).cards] == [
        ModelState.LOADING
    ]


def test_what_changes_comes_before_what_serves_and_that_before_what_failed() -> None:
    activation = ActivationSnapshot(state=ActivationState.READY, failed=(FailedLoad(model_id=A, error="no"),))
    loading = LoadingModel(model_id=C, progress=LoadProgress(stage=LoadStage.RESOLVING), elapsed_ms=0)
    view = seen(health(activation=activation, loading=(loading,)), model(B))
    assert [card.id for card in view.cards] == [C, B, A]
    assert view.status == "1 model serving, 1 loading, 1 failed"


@pytest.mark.parametrize(
    ("not_ready", "models", "tone", "status"),
    [
        (None, (), "idle", "no model serving"),
        (None, (model(),), "good", "1 model serving"),
        (None, (model(A, ModelStatus.RECOVERING),), "busy", "no model serving, 1 recovering"),
        (NotReady.LOADING, (), "busy", "no model serving"),
        (NotReady.NO_SERVABLE_MODEL, (), "bad", "no model serving"),
        (NotReady.DRAINING, (model(),), "busy", "draining 1 request"),
    ],
)
def test_the_head_says_how_the_host_is(
    not_ready: NotReady | None, models: tuple[ModelInfo, ...], tone: str, status: str
) -> None:
    view = seen(health(), *models, not_ready=not_ready, status="draining 1 request")
    assert (view.tone, view.status) == (tone, status)


def test_a_chat_may_be_with_text_models_that_serve_and_with_those_that_it_would_load() -> None:
    vectors = model(B, capabilities=("embeddings",))
    view = seen(health(), model(C), vectors, on_demand=(A,), configured=(A, B, C, "org/other"))
    assert view.chats == (C, A)
    assert view.loadable == (A, "org/other")


def test_without_a_model_to_chat_with_the_page_says_to_load_one_or_to_wait_for_the_one_that_loads() -> None:
    coming = LoadingModel(model_id=A, progress=LoadProgress(stage=LoadStage.LOADING), elapsed_ms=1)
    assert seen(health()).no_chat == "Load a model to chat with it"
    assert seen(health(loading=(coming,))).no_chat == "The chat opens when the model has loaded"
    waits = ActivationSnapshot(state=ActivationState.PRE_WARMING, pending=(A,))
    assert seen(health(activation=waits)).no_chat == "The chat opens when the model has loaded"


def test_a_model_that_no_request_fits_into_says_so() -> None:
    (card,) = seen(health(), model(servable=Servable(ok=False, reason="r", detail="no cells are left"))).cards
    assert card.error == "no cells are left"


def test_the_host_shows_memory_processor_and_each_gpu_with_its_name() -> None:
    body = health(
        memory=HostMemory(total_mb=1000, available_mb=750, limit_mb=800, limit_available_mb=200),
        cpus=HostCpus(online=16, usable=8, limit=4.0, load_1m=1.0),
        devices=(DeviceHealth(index=1, vram_used_mb=500, vram_free_mb=1500, utilization_pct=9, temp_c=40),),
    )
    card = Device(index=1, name="Card", vram_total_mb=2000, compute_capability="9.0")
    assert [(fact.name, fact.value, fact.share) for fact in seen(body, devices=(card,)).host] == [
        ("Memory", "0.3 of 1.0 GB in use", 0.25),
        ("Memory limit", "629 of 839 MB in use", 0.75),
        ("Processor", "load 1.0 on 4 CPUs", 0.25),
        ("GPU 1 · Card", "0.5 of 2.1 GB, 9 % busy, 40 °C", 0.25),
    ]


def test_a_reload_that_was_refused_or_wants_a_restart_is_said() -> None:
    notes = seen(health(reload=Reload(count=2, at=1, error="no such key", needs_restart=("port",)))).notes
    assert "no such key" in notes[0]
    assert "port" in notes[1]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59.9, "59 s"), (60, "1 min"), (200, "3 min 20 s"), (7500, "2 h 5 min"), (356_400, "4 d 3 h")],
)
def test_times_are_for_people(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "now"), (12, "12 s ago"), (200, "3 min ago"), (99_999, "1 d ago")]
)
def test_one_unit_is_enough_for_what_is_past(seconds: float, words: str) -> None:
    assert ago(seconds) == words


@pytest.mark.parametrize(
    ("scopes", "rights"),
    [
        ({"inference"}, (True, False, False)),
        ({"admin"}, (False, True, False)),
        ({"metrics"}, (False, False, True)),
    ],
)
def test_the_page_shows_and_offers_what_the_scopes_of_its_reader_allow(
    scopes: set[str], rights: tuple[bool, bool, bool]
) -> None:
    reply = ReplyEvent(
        id="1",
        at=0.0,
        model_id=A,
        outcome=ReplyOutcome.FINISHED,
        prompt_tokens=1,
        completion_tokens=1,
        queue_ms=0,
        total_ms=1,
    )
    view = seen(health(), model(), scopes=frozenset(scopes), events=(reply,))
    assert (bool(view.chats), view.can_load, bool(view.requests)) == rights
    assert ("scope inference" in view.no_chat) is not bool(view.chats)


def test_a_part_of_a_size_has_the_unit_of_the_whole() -> None:
    assert [mib_of(0, 90), mib_of(1, 90), mib_of(900, 9000)] == ["0 of 94 MB", "1.0 of 94 MB", "0.9 of 9.4 GB"]
