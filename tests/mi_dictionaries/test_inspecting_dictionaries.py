"""``mi dictionary inspect`` and the function behind it: what is said of a dictionary, and what looks odd."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from dictionary_checkpoints import D, F, parts, write_json, write_safetensors

import mi_dictionaries as md
from mi_core.cli.main import main
from mi_dictionaries.checking import UNIT_NORM, sampled_norms
from mi_dictionaries.inspecting import inspect

METADATA = {"model_name": "tiny", "hook_name": "blocks.1.hook_resid_post"}


def write(folder, arrays, **config):
    write_json(folder / "cfg.json", {"metadata": METADATA, "architecture": "standard", **config})
    write_safetensors(folder / "sae_weights.safetensors", arrays)
    return folder


def said(ref, **options):
    return {label: text for label, text in inspect(ref, **options).lines if label}


def test_it_says_format_points_sizes_and_activation(tmp_path):
    threshold = np.linspace(0.25, 0.5, F)
    lines = said(write(tmp_path, {**parts(1), "threshold": threshold}, architecture="jumprelu"))
    assert lines["format"] == "saelens"
    assert lines["kind"] == "autoencoder"
    assert lines["model"] == "tiny"
    assert lines["reads"] == lines["writes"] == "blocks.1.hook_resid_post"
    assert lines["sizes"] == f"d_in {D}, d_sae {F}, d_out {D}"
    assert lines["weights"] == "W_enc [8, 24], b_enc [24], W_dec [24, 8], b_dec [8], float32"
    assert lines["activation"] == "JumpReLU, thresholds 0.25 to 0.5"
    assert lines["conventions"] == "b_dec is subtracted before encoding"
    assert "statistics" not in lines
    assert "decoder norms" in said(tmp_path, statistics=True)["statistics"]


@pytest.mark.parametrize(("norm", "odd"), [(1.0, False), (1.2, True)])
def test_decoder_norms_that_are_not_one_are_odd_where_the_format_promises_it(tmp_path, norm, odd):
    p = parts(2)
    p["W_dec"] *= norm / np.linalg.norm(p["W_dec"], axis=-1, keepdims=True)
    arrays = {name.lower(): array for name, array in p.items()} | {"threshold": np.ones(F)}
    folder = tmp_path / "gemma-scope-2-1b-pt/resid_post/layer_3_width_16k_l0_big"
    write_safetensors(folder / "params.safetensors", arrays)
    warnings = inspect(folder).warnings
    assert len(warnings) == odd
    if odd:
        assert warnings[0].startswith("decoder norms are not one, as Gemma Scope 2 trains them: 1.2 to 1.2")
    write(tmp_path / "saelens", p)
    assert inspect(tmp_path / "saelens").warnings == ()  # SAELens promises nothing


def test_thresholds_below_zero_and_no_numbers_are_odd(tmp_path):
    threshold = np.ones(F)
    threshold[:2], threshold[2] = -1, np.nan
    write(tmp_path, {**parts(3), "threshold": threshold}, architecture="jumprelu")
    negative, absent = inspect(tmp_path).warnings
    assert negative.startswith("2 of 24 thresholds are negative")
    assert absent.startswith("1 of 24 thresholds are no finite numbers")


def test_a_sample_of_rows_is_spread_over_the_decoder_and_taken_from_the_front_of_columns():
    weight = torch.arange(1, 1001.0)[:, None].expand(1000, 2) / 2**0.5
    common = {"reads": ("blocks.0.hook_resid_post",), "W_enc": torch.zeros(2, 1000)}
    rows = md.SparseDictionary(W_dec=weight.contiguous(), **common)
    assert (float(sampled_norms(rows).min()), float(sampled_norms(rows).max())) == pytest.approx((1, 1000))
    columns = md.SparseDictionary(W_dec=weight.T.contiguous().T, **common)
    assert float(sampled_norms(columns).max()) == pytest.approx(256)
    assert len(sampled_norms(columns, 1000)) == 1000
    assert UNIT_NORM == "decoder norms"


def test_sets_are_said_as_wholes_with_what_is_odd_in_each_layer(tmp_path):
    own = []
    for layer in range(6):
        threshold = torch.full((5,), -1.0 if layer == 4 else 1.0)
        own.append(
            md.SparseDictionary(
                reads=(f"blocks.{layer}.mlp.hook_in",),
                writes=(f"blocks.{layer}.hook_mlp_out",),
                W_enc=torch.ones(3, 5),
                W_dec=torch.ones(5, 3),
                W_skip=torch.ones(3, 3),
                activation=md.JumpReLU(threshold, relu=False),
            )
        )
    md.save_circuit_tracer(md.DictionarySet(tuple(own)), tmp_path, model="me/tiny")
    found = inspect(tmp_path)
    lines = dict(found.lines)
    assert lines["kind"] == "set of transcoders with a skip connection, 6 layers"
    assert lines["reads"] == "blocks.0.mlp.hook_in, blocks.1.mlp.hook_in, ..., blocks.5.mlp.hook_in (6)"
    assert lines["sizes"] == "d_in 3, d_sae 5 in each layer, 30 in all, d_out 3"
    assert [text.split(":")[0] for text in found.warnings] == ["blocks.4.mlp.hook_in"]
    assert said(tmp_path, layer=2)["reads"] == "blocks.2.mlp.hook_in"


def test_the_command_prints_it_and_exits_with_2_where_nothing_reads_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    write(tmp_path / "sae", {**parts(4), "threshold": -np.ones(F)}, architecture="jumprelu")
    assert main(["dictionary", "inspect", str(tmp_path / "sae"), "--statistics"]) == 0
    shown = capsys.readouterr().out
    assert "format      saelens" in shown
    assert "odd         24 of 24 thresholds are negative, the lowest -1" in shown
    assert main(["dictionary", "inspect", str(tmp_path)]) == 0  # descends into the one folder
    capsys.readouterr()
    (tmp_path / "other").mkdir()
    assert main(["dictionary", "inspect", str(tmp_path)]) == 2
    assert "no installed format reads this folder" in capsys.readouterr().err


def test_a_family_of_commands_lists_its_members(capsys):
    assert main(["dictionary"]) == 0
    shown = capsys.readouterr().out
    assert "Usage: mi dictionary" in shown
    assert "dictionary inspect" in shown
    assert "  lens" not in shown
    assert main(["dictionary", "inspcet"]) == 2
    assert "Did you mean 'dictionary inspect'?" in capsys.readouterr().err
