"""What names a dictionary, and which files are fetched for it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml
from dictionary_checkpoints import F, parts, write_safetensors
from fake_hub import Hub, commit, serving
from toy_family import installed

import mi_dictionaries
from mi_core.errors import CorruptCheckpoint, ModelNotFound, UnknownFormat
from mi_core.files import Files
from mi_core.formats import read_dictionary
from mi_core.hub_files import repository
from mi_dictionaries.references import ALIASES, HubReference, hub_reference


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("me/repo", HubReference("me/repo")),
        ("me/repo/", HubReference("me/repo")),
        ("me/repo@v2", HubReference("me/repo", "", "v2")),
        ("me/repo/a/b.npz@refs/pr/1", HubReference("me/repo", "a/b.npz", "refs/pr/1")),
        ("hf://me/repo/a/params.npz?revision=main", HubReference("me/repo", "a/params.npz", "main")),
        ("hf://me/repo/a%20b@v1", HubReference("me/repo", "a b", "v1")),
        ("gpt2", None),
        ("/me/repo", None),
        ("me/../repo", None),
        ("me//repo", None),
        ("./me/repo", None),
    ],
)
def test_a_place_on_the_hub_is_a_repository_a_path_and_a_revision(text, wanted):
    assert hub_reference(text) == wanted


def point_at(address, cache, monkeypatch, *, offline=False):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    scope = tmp_path / "scope"
    for layer in range(3):
        place = scope / f"layer_{layer}/width_16k/average_l0_7/params.npz"
        place.parent.mkdir(parents=True)
        np.savez(place, **{name: a.astype(np.float32) for name, a in parts(layer).items()}, threshold=np.ones(F, "f4"))
    config = {
        "model_kind": "transcoder_set",
        "model_name": "google/gemma-2-2b",
        "feature_input_hook": "ln2.hook_normalized",
        "feature_output_hook": "hook_mlp_out",
    }
    uri = "hf://google/gemma-scope-2b-pt-transcoders/layer_{}/width_16k/average_l0_7/params.npz?revision=main"
    listed, own = tmp_path / "listed", tmp_path / "own"
    listed.mkdir()
    (listed / "config.yaml").write_text(yaml.safe_dump({**config, "transcoders": [uri.format(i) for i in (2, 0)]}))
    for layer in range(3):
        p = parts(layer)
        write_safetensors(own / f"layer_{layer}.safetensors", {**p, "W_enc": p["W_enc"].T})
    (own / "config.yaml").write_text(yaml.safe_dump(config))
    (own / "features").mkdir()
    (own / "features/layer_0.bin").write_bytes(b"dashboards")
    repos = {
        "google/gemma-scope-2b-pt-transcoders": {"main": scope, "v2": scope},
        ALIASES["gemma"]: {"main": listed},
        ALIASES["llama"]: {"main": own},
    }
    with serving(Hub(repos)) as running:
        point_at(running.address, tmp_path / "cache", monkeypatch)
        yield running


def test_only_the_files_that_are_read_are_fetched(hub):
    found = mi_dictionaries.load("google/gemma-scope-2b-pt-transcoders/layer_1/width_16k/average_l0_7@v2")
    assert found.reads == ("blocks.1.ln2.hook_normalized",)
    assert hub.fetched == ["params.npz"]
    mi_dictionaries.load(
        "google/gemma-scope-2b-pt-transcoders/layer_1/width_16k/average_l0_7/params.npz", revision="v2"
    )
    assert hub.fetched == ["params.npz"]  # from the cache
    one = mi_dictionaries.load("llama", layer=2)
    assert one.reads == ("blocks.2.ln2.hook_normalized",)
    assert hub.fetched[1:] == ["config.yaml", "layer_2.safetensors"]


def test_a_branch_that_moves_between_listing_and_reading_mixes_no_versions(hub, tmp_path):
    files = repository(ALIASES["llama"])
    served = hub.repos[ALIASES["llama"]]
    moved = tmp_path / "moved"
    moved.mkdir()
    (moved / "layer_0.safetensors").write_text("another version")
    served.update({"old": served["main"], "main": moved})
    files.revision = commit(ALIASES["llama"], "old")
    path = files.path("layer_0.safetensors")
    assert path.parent.name == files.revision
    assert path.read_bytes() == (served["old"] / "layer_0.safetensors").read_bytes()


def test_a_set_may_list_files_of_another_repository(hub):
    found = mi_dictionaries.load("gemma")
    assert found.reads == ("blocks.0.ln2.hook_normalized", "blocks.1.ln2.hook_normalized")
    assert torch.equal(found[0].b_dec, torch.tensor(parts(2)["b_dec"]).float())
    assert sorted(hub.fetched) == ["config.yaml", "params.npz", "params.npz"]


def test_without_a_network_the_cache_answers(hub, tmp_path, monkeypatch):
    ref = "google/gemma-scope-2b-pt-transcoders/layer_1/width_16k/average_l0_7"
    mi_dictionaries.load(ref)
    for offline in (True, False):  # said, or found out
        point_at("http://127.0.0.1:9", tmp_path / "cache", monkeypatch, offline=offline)
        assert mi_dictionaries.load(ref).reads == ("blocks.1.ln2.hook_normalized",)
        with pytest.raises(ModelNotFound, match=r"HF_HUB_OFFLINE|cannot be reached"):
            mi_dictionaries.load("google/other-scope/layer_1")


def test_what_is_not_there_is_said_with_what_is(hub, tmp_path):
    with pytest.raises(ModelNotFound, match="there is no such repository"):
        mi_dictionaries.load("google/unheard-of")
    with pytest.raises(ModelNotFound, match="it has no revision 'v9'"):
        mi_dictionaries.load("llama", revision="v9")
    with pytest.raises(ModelNotFound, match=r"no folder 'layer_9'. It has: features"):
        mi_dictionaries.load(ALIASES["llama"] + "/layer_9")
    with pytest.raises(ModelNotFound, match="says revision 'v1' and revision='v2' was passed"):
        mi_dictionaries.load("me/repo@v1", revision="v2")
    for odd in ("nowhere", "", "a" * 5000, "a\0b", "~nobody/x"):
        with pytest.raises(ModelNotFound, match="there is no dictionary '"):
            mi_dictionaries.load(odd)
    with pytest.raises(UnknownFormat, match=r"It has: layer_0/, layer_1/, layer_2/. Give the folder of one"):
        mi_dictionaries.load("google/gemma-scope-2b-pt-transcoders")
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(UnknownFormat, match=r"no installed format reads the file 'notes.txt'"):
        mi_dictionaries.load(tmp_path / "notes.txt")


def test_a_repository_s_files_are_those_of_one_commit_and_nothing_outside_it(hub):
    files = repository(ALIASES["llama"])
    assert files.names() == ("config.yaml", "layer_0.safetensors", "layer_1.safetensors", "layer_2.safetensors")
    assert files.folders() == ("features",)
    inside = files.inside("features")
    assert (inside.names(), inside.above().names()) == (("layer_0.bin",), files.names())
    assert inside.read_bytes("layer_0.bin") == b"dashboards"
    assert files.above() is None
    assert str(inside.place) == "mntss/transcoder-Llama-3.2-1B/features"
    assert inside.revision == files.revision
    for name in ("../x", "/etc/passwd", "a\\b"):
        with pytest.raises(CorruptCheckpoint, match="points outside the folder"):
            files.path(name)
    with pytest.raises(ModelNotFound, match=r"no file 'model.bin'"):
        files.path("model.bin")


FORMAT = """
from mi_core.hookspecs import hookimpl

@hookimpl
def mi_format(files):
    return "ours" if files.has("ours.txt") else None
"""


def test_a_third_party_s_format_is_asked_like_any_and_two_that_claim_one_folder_are_an_error(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "ours.txt").write_text("")
    point = {"mi_core.formats": {"ours": "ours_format"}}
    with installed(tmp_path / "one", "one-dist", point, {"ours_format": FORMAT}):
        plugin, value = read_dictionary(Files(folder))
        assert (plugin.name, plugin.distribution, value) == ("ours", "one-dist", "ours")
        assert mi_dictionaries.load(folder) == "ours"
        other = {"mi_core.formats": {"theirs": "their_format"}}
        with (
            installed(tmp_path / "two", "two-dist", other, {"their_format": FORMAT}),
            pytest.raises(UnknownFormat, match=r"2 formats claim these files: 'ours' \(from one-dist\), 'theirs'"),
        ):
            read_dictionary(Files(folder))


def test_a_broken_format_hurts_no_other_and_is_named_where_nobody_knows_the_files(tmp_path):
    point = {"mi_core.formats": {"bad": "bad_format"}}
    with installed(tmp_path / "one", "badly", point, {"bad_format": "import nowhere_to_be_found"}):
        p = parts(0)
        write_safetensors(tmp_path / "set/layer_0.safetensors", {**p, "W_enc": p["W_enc"].T})
        config = {"feature_input_hook": "mlp.hook_in", "feature_output_hook": "hook_mlp_out"}
        (tmp_path / "set/config.yaml").write_text(yaml.safe_dump(config))
        assert len(mi_dictionaries.load(tmp_path / "set")) == 1
        with pytest.raises(UnknownFormat, match=r"Broken plugins: .*badly.*nowhere_to_be_found"):
            mi_dictionaries.load(tmp_path / "one")
