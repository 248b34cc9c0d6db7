"""The activation with learned curvatures is the reference's, has one slope at zero, and begins as its paper says."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

import mi_core as mi
from mi_decoder.xielu import XIELU, XIELUModule


def built(**numbers: float) -> XIELUModule:
    module = XIELU().build("mlp.activation")
    module.to_empty(device="cpu")
    module.initialise()
    for name, number in numbers.items():
        getattr(module, f"{name}_weight").fill_(number)
    return module


@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(0, 2))
def test_it_is_the_reference_s(alpha_p: float, alpha_n: float, beta: float) -> None:
    from transformers.activations import XIELUActivation

    ours, theirs = built(alpha_p=alpha_p, alpha_n=alpha_n, beta=beta), XIELUActivation(dtype=torch.float32)
    theirs.load_state_dict({name.rpartition(".")[2]: tensor for name, tensor in ours.weights().items()})
    x = torch.linspace(-4, 4, 41)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs._xielu_python(x))


@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(0, 2))
def test_its_slope_at_zero_is_the_same_from_both_sides(alpha_p: float, alpha_n: float, beta: float) -> None:
    module = built(alpha_p=alpha_p, alpha_n=alpha_n, beta=beta).double()
    x = torch.tensor([-1e-3, 1e-3], dtype=torch.float64, requires_grad=True)
    module(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.full_like(x, beta), atol=1e-2, rtol=0)


def test_a_model_to_be_trained_begins_with_the_paper_s_numbers() -> None:
    from transformers.activations import XIELUActivation

    model = mi.build("apertus", n_layers=1, d_model=16, n_heads=2, d_mlp=24, d_vocab=11)
    for name, theirs in XIELUActivation(dtype=torch.float32).state_dict().items():
        torch.testing.assert_close(model.weights[f"blocks.0.mlp.activation.{name}"].detach(), theirs)
    learned = {name for name, _ in model.backend.named_parameters() if ".activation." in name}  # type: ignore[attr-defined]
    assert learned == {f"layers.0.channel.activation.alpha_{side}_weight" for side in "pn"}
