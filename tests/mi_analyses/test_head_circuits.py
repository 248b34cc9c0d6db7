import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import small

import mi_core as mi
from mi_analyses import HeadCircuits, head_circuits
from mi_core.cli.main import main
from mi_core.errors import UnsupportedAnalysis

MODEL = small()
RESULT = head_circuits(MODEL)


def weight(layer, name):
    return MODEL.weights[f"blocks.{layer}.attn.W_{name}"].double()


def gain(name):
    return MODEL.weights[name].double() if name in MODEL.weights else torch.ones(MODEL.shape.d_model).double()


def read(layer, name):
    matrix = gain(f"blocks.{layer}.ln1.w")[:, None] * weight(layer, name)
    return matrix.repeat_interleave(len(weight(layer, "Q")) // len(matrix), 0)


def share(matrix):
    values = torch.linalg.eigvals(matrix)
    return float(values.real.sum() / values.abs().sum())


LAYERS, HEADS = MODEL.shape.n_layers, len(weight(0, "Q"))


@given(st.integers(0, LAYERS - 1), st.integers(0, HEADS - 1))
def test_shares_are_those_of_the_whole_matrices(layer, head):
    embed = MODEL.weights["embed.W_E"].double()
    unembed = gain("ln_final.w")[:, None] * MODEL.weights["unembed.W_U"].double()
    ov = read(layer, "V")[head] @ weight(layer, "O")[head]
    qk = read(layer, "Q")[head] @ read(layer, "K")[head].T
    assert RESULT.copying.sel(layer=layer, head=head).item() == pytest.approx(share(embed @ ov @ unembed), abs=1e-3)
    assert RESULT.matching.sel(layer=layer, head=head).item() == pytest.approx(share(embed @ qk @ embed.T), abs=1e-3)


@given(st.integers(0, LAYERS * HEADS - 1), st.integers(0, LAYERS * HEADS - 1))
def test_composition_is_that_of_the_whole_matrices(writer, reader):
    (one, a), (other, b) = divmod(writer, HEADS), divmod(reader, HEADS)
    names = {"writer": f"L{one}H{a}", "reader": f"L{other}H{b}"}
    wrote = read(one, "V")[a] @ weight(one, "O")[a]
    qk, ov = read(other, "Q")[b] @ read(other, "K")[b].T, read(other, "V")[b] @ weight(other, "O")[b]
    for kind, circuit in (("q", qk), ("k", qk.T), ("v", ov)):
        found = RESULT.composition.sel(kind=kind, **names).values
        if one >= other:
            assert found.isnan()
        else:
            wanted = (wrote @ circuit).norm() / (wrote.norm() * circuit.norm())
            assert float(found) == pytest.approx(float(wanted), abs=1e-5)


def test_a_head_that_hands_tokens_on_copies_and_one_that_turns_them_around_does_not():
    model = small(seed=4711)  # its own: it is changed here
    with torch.no_grad():
        w = {name: model.weights[f"blocks.0.attn.W_{name}"] for name in "VO"}
        same = model.weights["unembed.W_U"] @ model.weights["embed.W_E"]
        # V and O so that O (W_U W_E) V is the identity of each head
        w["V"].copy_(torch.linalg.pinv((w["O"] @ same)[: len(w["V"])]))
    scores = head_circuits(model).copying.sel(layer=0).values
    with torch.no_grad():
        w["O"].neg_()
    assert scores[0] > 0.5
    torch.testing.assert_close(head_circuits(model).copying.sel(layer=0).values, -scores, rtol=0, atol=1e-3)


def test_models_without_heads_are_refused(monkeypatch):
    monkeypatch.setattr(MODEL.backend, "weight", lambda name: (_ for _ in ()).throw(KeyError(f"no weight {name!r}")))
    with pytest.raises(UnsupportedAnalysis, match="head_scores"):
        head_circuits(MODEL)


def test_the_command_finds_the_copying_heads_of_tiny_world(capsys, tmp_path):
    html, data = tmp_path / "page.html", tmp_path / "numbers.json"
    assert main(["head-circuits", "tiny-world", "--html", str(html), "--json", str(data)]) == 0
    assert "copying (OV)" in capsys.readouterr().out
    result = HeadCircuits.from_json(data)
    assert bool((result.copying.sel(layer=1).values > 0.99).all())
    assert result.provenance.model == "tiny-world"
    assert "matching (QK)" in html.read_text(encoding="utf-8")
    assert isinstance(mi.analysis("head_circuits")(small()), HeadCircuits)
