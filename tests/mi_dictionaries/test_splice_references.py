"""Splices against SAELens: logits with and without error term, with masks and with a feature taken out."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from reference_data import reference_folder
from safetensors.torch import load_file

import mi_core as mi
import mi_dictionaries as md

CASES = ("llama_standard_resid_post", "llama_transcoder")
SPECIAL = (0, 1, 2)


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[mi.Model, md.SparseDictionary, dict[str, torch.Tensor], Any]:
    folder = reference_folder("splice", request.param)
    about = json.loads((folder / "meta.json").read_text())
    model = mi.load(reference_folder(about["hf_model"]), dtype="float32", device="cpu")
    return model, md.load(folder / "sae"), load_file(folder / "reference.safetensors"), about


def test_splices_give_the_logits_of_saelens(case: Any) -> None:
    model, sae, wanted, about = case
    acts = f"{sae.site_in}.hook_sae_acts_post"
    without = mi.intervene(acts, mi.Zero().at(feature=about["top_feature"]))
    specs = {
        "base_logits": mi.HookSpec(),
        "spliced_logits": md.splice(sae, error=False),
        "spliced_error_logits": md.splice(sae),
        "excl_logits": md.splice(sae, error=False, skip_tokens=SPECIAL),
        "zero_feature_logits": md.splice(sae, error=False) + without,
        "zero_feature_error_logits": md.splice(sae) + without,
    }
    for name, spec in specs.items():
        logits = model.run(wanted["tokens"], spec).logits
        assert float((logits - wanted[name]).abs().max() / wanted[name].abs().max()) < 1e-5, name
    run = model.run(wanted["tokens"], md.splice(sae) + mi.capture([acts, sae.site_in]))
    torch.testing.assert_close(run[acts], wanted["feature_acts"], rtol=0, atol=1e-4)
    torch.testing.assert_close(run[sae.site_in], wanted["acts"], rtol=0, atol=1e-4)
    assert torch.equal(run.logits, model.run(wanted["tokens"]).logits)


def test_transcoders_are_written_at_their_output_where_saelens_evaluations_write_at_their_input(case: Any) -> None:
    model, sae, wanted, about = case
    if about["hook_out"] is None:
        return
    assert (sae.site_in, sae.site_out) == (about["hook"], about["hook_out"])
    logits = model.run(wanted["tokens"], md.splice(sae, error=False)).logits
    torch.testing.assert_close(logits, wanted["correct_spliced_logits"], rtol=0, atol=1e-4)
    at_input = mi.intervene(sae.site_in, mi.Replace(sae.forward(wanted["acts"])))
    assert float((model.run(wanted["tokens"], at_input).logits - logits).abs().max()) > 0.01
