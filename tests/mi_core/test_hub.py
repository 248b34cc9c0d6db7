from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fake_hub import Hub, commit, serving
from toy_family import CONFIG, tensors_of, write_checkpoint

from mi_core import hub
from mi_core.errors import CorruptCheckpoint, ModelNotFound
from mi_core.tensors import TensorIndex

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    one = write_checkpoint(tmp_path / "one")
    for name in (*TOKENIZER, "pytorch_model.bin", "README.md", "consolidated.safetensors", "generation_config.json"):
        (one / name).write_text(f'{{"name": "{name}"}}')
    pickled = write_checkpoint(tmp_path / "pickled")
    (pickled / "model.safetensors").unlink()
    torch.save(tensors_of(), pickled / "pytorch_model.bin")
    repos = {
        "owner/one": {"main": one, "other": write_checkpoint(tmp_path / "other", tensors=tensors_of(seed=1))},
        "owner/sharded": {"main": write_checkpoint(tmp_path / "sharded", shards=3)},
        "owner/pickled": {"main": pickled},
        "owner/gated": {"main": one},
    }
    with serving(Hub(repos, gated=frozenset({"owner/gated"}))) as running:
        point_at(running.address, tmp_path / "cache", monkeypatch)
        yield running


def point_at(address: str, cache: Path, monkeypatch: pytest.MonkeyPatch, offline: bool = False) -> None:
    """What HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE do for a process that has not imported the client yet."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)


def test_only_the_files_that_loading_needs_are_fetched(served: Hub) -> None:
    files = hub.snapshot("owner/one")
    assert sorted(served.fetched) == sorted(["config.json", "model.safetensors", *TOKENIZER])
    assert files.read_json("config.json") == CONFIG
    assert files.revision == commit("owner/one", "main")
    assert "owner/one" in files.where


def test_a_second_look_fetches_nothing(served: Hub) -> None:
    hub.snapshot("owner/one")
    served.fetched.clear()
    hub.snapshot("owner/one")
    assert served.fetched == []


def test_a_sharded_repository_is_read_whole(served: Hub) -> None:
    index = TensorIndex.read(hub.snapshot("owner/sharded"))
    wanted = tensors_of()
    assert index.keys() == wanted.keys()
    assert all(torch.equal(index.tensor(name), wanted[name]) for name in wanted)


def test_a_revision_is_fetched_and_reported_as_its_commit(served: Hub) -> None:
    files = hub.snapshot("owner/one", revision="other")
    assert files.revision == commit("owner/one", "other")
    wanted = tensors_of(seed=1)["wte.weight"]
    assert torch.equal(TensorIndex.read(files).tensor("wte.weight"), wanted)
    assert hub.snapshot("owner/one", revision=commit("owner/one", "other")).revision == files.revision


def test_without_weights_only_the_tokenizer_and_the_config_are_fetched(served: Hub) -> None:
    hub.snapshot("owner/one", weights=False)
    assert sorted(served.fetched) == sorted(["config.json", *TOKENIZER])


def test_the_token_is_sent(served: Hub) -> None:
    hub.snapshot("owner/one", token="hf_secret")
    assert "Bearer hf_secret" in served.tokens


def test_pickle_files_are_fetched_only_when_asked_for(served: Hub) -> None:
    with pytest.raises(ModelNotFound, match="no weights"):
        TensorIndex.read(hub.snapshot("owner/pickled"))
    assert served.fetched == ["config.json"]
    index = TensorIndex.read(hub.snapshot("owner/pickled", allow_pickle=True), allow_pickle=True)
    assert torch.equal(index.tensor("wte.weight"), tensors_of()["wte.weight"])


@pytest.mark.parametrize(
    ("repo", "revision", "what"),
    [
        ("owner/absent", None, "no such repository"),
        ("owner/one", "nowhere", "no revision 'nowhere'"),
        ("owner/gated", None, "must be asked for"),
    ],
)
def test_what_the_hub_refuses_is_our_error_with_what_to_do(
    served: Hub, repo: str, revision: str | None, what: str
) -> None:
    with pytest.raises(ModelNotFound, match=what) as caught:
        hub.snapshot(repo, revision=revision)
    assert repo in str(caught.value)
    assert caught.value.ref == repo


def test_offline_reads_the_cache_and_says_what_is_not_in_it(
    served: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.snapshot("owner/one")
    point_at(served.address, tmp_path / "cache", monkeypatch, offline=True)
    served.fetched.clear()
    assert hub.snapshot("owner/one").has("model.safetensors")
    with pytest.raises(ModelNotFound, match="HF_HUB_OFFLINE"):
        hub.snapshot("owner/sharded")
    assert served.fetched == []


def test_without_a_network_the_cache_serves_and_the_rest_is_out_of_reach(
    served: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.snapshot("owner/one")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        point_at(f"http://127.0.0.1:{unused.getsockname()[1]}", tmp_path / "cache", monkeypatch)
        assert hub.snapshot("owner/one").has("model.safetensors")
        with pytest.raises(ModelNotFound, match="out of reach"):
            hub.snapshot("owner/sharded")


def test_an_index_of_the_hub_cannot_ask_for_files_outside(served: Hub, tmp_path: Path) -> None:
    (tmp_path / "sharded" / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "../one/model.safetensors"}}'
    )
    with pytest.raises(CorruptCheckpoint, match="outside"):
        TensorIndex.read(hub.snapshot("owner/sharded"))


@pytest.mark.parametrize("ref", ["owner/name", "gpt2", "meta-llama/Llama-3.2-1B", "a/b.c_d"])
def test_hub_ids_are_recognised(ref: str) -> None:
    assert hub.is_id(ref)


@pytest.mark.parametrize("ref", ["", ".", "./a", "/a/b", "a/b/c", "../a", "a/..", "a b", "~/a", "a/", "C:\\a"])
def test_paths_are_no_hub_ids(ref: str) -> None:
    assert not hub.is_id(ref)
