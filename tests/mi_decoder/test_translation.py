"""Parameters find their tensors, whole or in parts, and fresh ones are drawn from the seed."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor, nn

from mi_core.blueprint import Weight
from mi_core.config import Config
from mi_core.errors import BadConfig
from mi_decoder import Attention, Decoder, GatedMLP, Layer, RMSNorm
from mi_decoder.fused import EachExpert
from mi_decoder.translation import LLAMA_NAMES, blueprint, heads, initialise, weight

LAYER = Layer(Attention(4, 2, 8, bias=True), GatedMLP(20), ln1=RMSNorm(), ln2=RMSNorm())
MODEL = Decoder(61, 32, (LAYER,) * 12, ln_final=RMSNorm())


def test_layers_keep_their_number() -> None:
    weights = blueprint(MODEL, None, tied=False).weights
    assert weights["layers.11.mixer.q_bias"] == Weight.of("model.layers.11.self_attn.q_proj.bias")
    assert weights["layers.1.channel.in_weight"] == Weight.of("model.layers.1.mlp.up_proj.weight")
    assert weights["unembed_weight"] == Weight.of("lm_head.weight")
    assert len(weights) == len(list(MODEL.build().parameters()))


def test_a_fused_matrix_gives_each_parameter_its_part() -> None:
    def upper(tensor: Tensor) -> Tensor:
        return tensor[:20]

    names = {**LLAMA_NAMES, "layers.*.channel.gate": ("model.layers.*.mlp.gate_up_proj", upper)}
    found = weight("layers.3.channel.gate_weight", names, "")
    assert found.names == ("model.layers.3.mlp.gate_up_proj.weight",)
    fused = torch.randn(40, 32)
    assert found.view(fused).data_ptr() == fused.data_ptr()


def test_experts_find_their_own_modules_or_their_part_of_a_stack() -> None:
    names = {
        "layers.*.channel.experts.*.gate": "model.layers.*.mlp.experts.*.w1",
        "layers.*.channel.experts.*.out_weight": ("model.layers.*.mlp.down_proj", EachExpert()),
        "layers.*.mixer.sink_bias": "model.layers.*.self_attn.sinks",
    }
    found = weight("layers.3.channel.experts.12.gate_weight", names, "model.")
    assert found == Weight.of("layers.3.mlp.experts.12.w1.weight")
    assert weight("layers.10.mixer.sink_bias", names, "").names == ("model.layers.10.self_attn.sinks",)
    stacked = weight("layers.3.channel.experts.2.out_weight", names, "")
    assert stacked.names == ("model.layers.3.mlp.down_proj",)
    stack = torch.randn(4, 5, 6)
    assert torch.equal(stacked.view(stack), stack[2])


def test_some_parameters_stay_wide() -> None:
    weights = blueprint(MODEL, None, tied=False, wide=["*.q_bias"]).weights
    assert {name for name, found in weights.items() if found.wide} == {f"layers.{i}.mixer.q_bias" for i in range(12)}


@pytest.mark.parametrize(
    ("present", "tied", "tie"),
    [
        (None, True, {"unembed_weight": "embed_weight"}),
        (None, False, {}),
        (["model.embed_tokens.weight"], True, {"unembed_weight": "embed_weight"}),
        (["model.embed_tokens.weight", "lm_head.weight"], True, {}),
        (["model.norm.weight", "lm_head.weight"], True, {"embed_weight": "unembed_weight"}),
        (["model.embed_tokens.weight"], False, {}),
    ],
)
def test_the_file_has_the_last_word_on_tied_matrices(
    present: list[str] | None, tied: bool, tie: dict[str, str]
) -> None:
    found = blueprint(MODEL, present, tied=tied)
    assert found.tie == tie
    assert not found.tie.keys() & found.weights.keys()
    assert found.tie.keys() | found.weights.keys() == {name for name, _ in MODEL.build().named_parameters()}


def test_a_bare_stack_loses_the_prefix() -> None:
    assert blueprint(MODEL, ["norm.weight"], tied=True).weights["ln_final.weight"] == Weight.of("norm.weight")


def test_fresh_parameters_come_from_the_seed() -> None:
    def fresh(seed: int) -> nn.Module:
        backend = MODEL.build().to_empty(device="cpu")
        initialise(backend, Generator().manual_seed(seed))
        return backend

    first, again, other = (dict(fresh(seed).named_parameters()) for seed in (0, 0, 1))
    for name, parameter in first.items():
        assert torch.equal(parameter, again[name])
        if name.endswith("bias"):
            assert not parameter.any()
        elif parameter.ndim == 1:
            assert bool((parameter == 1).all())
        else:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.2)
            assert not torch.equal(parameter, other[name])


@pytest.mark.parametrize("numbers", [(30, 4, 2), (32, 4, 3)])
def test_heads_that_do_not_divide_are_refused(numbers: tuple[int, int, int]) -> None:
    names = ("hidden_size", "num_attention_heads", "num_key_value_heads")
    with pytest.raises(BadConfig, match="num_attention_heads"):
        heads(Config(dict(zip(names, numbers, strict=True))))
