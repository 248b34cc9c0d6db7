"""AlgZoo's networks against torch's own modules, and read from the published layout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

import mi_core as mi
from mi_core.errors import BadConfig, MemoryMismatch, TokenOutOfRange


class PlainRNN(nn.Module):
    """What the authors train."""

    def __init__(self, hidden: int, outputs: int) -> None:
        super().__init__()
        self.rnn = nn.RNN(1, hidden, nonlinearity="relu", bias=False, batch_first=True)
        self.linear = nn.Linear(hidden, outputs, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        states, _ = self.rnn(x[..., None])
        return self.linear(states[:, -1]), states


class PlainTransformer(nn.Module):
    """The same of the transformer."""

    def __init__(self, hidden: int, layers: int, length: int) -> None:
        super().__init__()
        self.embed, self.pos_embed = nn.Embedding(length, hidden), nn.Embedding(length, hidden)
        self.attns = nn.ModuleList(
            nn.MultiheadAttention(hidden, 1, bias=False, batch_first=True) for _ in range(layers)
        )
        self.unembed = nn.Linear(hidden, length, bias=False)

    def forward(self, ids: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = self.embed(ids) + self.pos_embed(torch.arange(ids.shape[1]))
        patterns = []
        for attention in self.attns:
            out, pattern = attention(x, x, x, average_attn_weights=False)
            x = x + out
            patterns.append(pattern)
        return self.unembed(x[:, -1]), patterns


def random(module: nn.Module, seed: int) -> nn.Module:
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.7)
    return module.requires_grad_(False)


@given(hidden=st.integers(1, 6), length=st.integers(2, 5), seed=st.integers(0, 999))
def test_the_network_is_torchs_own(
    hidden: int, length: int, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    plain, folder = random(PlainRNN(hidden, length), seed), tmp_path_factory.mktemp("rnn")
    save_file(dict(plain.state_dict()), folder / "model.safetensors")
    model = mi.load(folder, dtype="float64")
    x = torch.randn(7, length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    wanted, states = plain.double()(x)
    run = model.run(x, mi.capture("blocks.*.hook_resid_post"))
    torch.testing.assert_close(run.last_logits, wanted, rtol=1e-9, atol=1e-9)
    for time in range(length):
        torch.testing.assert_close(run[f"blocks.{time}.hook_resid_post"][:, 0], states[:, time], rtol=1e-9, atol=1e-9)


@given(hidden=st.integers(1, 6), layers=st.integers(1, 3), length=st.integers(2, 5), seed=st.integers(0, 999))
def test_the_transformer_is_torchs_own(
    hidden: int, layers: int, length: int, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    plain, folder = random(PlainTransformer(hidden, layers, length), seed), tmp_path_factory.mktemp("transformer")
    save_file(dict(plain.state_dict()), folder / "model.safetensors")
    model = mi.load(folder, dtype="float64")
    ids = torch.randint(length, (5, length), generator=torch.Generator().manual_seed(seed))
    wanted, patterns = plain.double()(ids)
    run = model.run(ids, mi.capture("blocks.*.attn.hook_pattern"))
    torch.testing.assert_close(run.last_logits, wanted, rtol=1e-9, atol=1e-9)
    for layer, pattern in enumerate(patterns):
        torch.testing.assert_close(run[f"blocks.{layer}.attn.hook_pattern"], pattern, rtol=1e-9, atol=1e-9)


def test_the_authors_pickles_are_read_when_asked(tmp_path: Path) -> None:
    plain = random(PlainRNN(4, 3), 0)
    torch.save(plain.state_dict(), tmp_path / "model.pth")
    x = torch.randn(3, 3)
    run = mi.load(tmp_path / "model.pth", allow_pickle=True).run(x)
    torch.testing.assert_close(run.last_logits, plain(x)[0])


def test_a_network_of_one_number_needs_a_config(tmp_path: Path) -> None:
    save_file(dict(random(PlainRNN(4, 1), 0).state_dict()), tmp_path / "model.safetensors")
    with pytest.raises(BadConfig, match="does not tell how many it reads"):
        mi.load(tmp_path)
    config = {"model_type": "algzoo_rnn", "task": "median", "hidden_size": 4, "seq_len": 5}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert mi.load(tmp_path).run(torch.zeros(2, 5)).logits.shape == (2, 1, 1)


@pytest.mark.parametrize("point", ["mixer.hook_input", "mixer.hook_recurrent", "mixer.hook_pre", "hook_resid_post"])
@pytest.mark.parametrize("time", [0, 1, 2])
def test_a_write_at_a_step_reaches_all_later_ones(point: str, time: int) -> None:
    plain = random(PlainRNN(4, 3), 2)
    model = mi.build({"model_type": "algzoo_rnn", "hidden_size": 4, "seq_len": 3}, trainable=False)
    with torch.no_grad():
        for ours, theirs in zip(model.backend.parameters(), plain.parameters(), strict=True):  # type: ignore[attr-defined]
            ours.copy_(theirs)
    x, added = torch.randn(5, 3), torch.tensor([0.4, -0.2, 0.3, 0.5])
    state = torch.zeros(5, 4)
    w_ih, w_hh = plain.rnn.weight_ih_l0, plain.rnn.weight_hh_l0  # type: ignore[union-attr]
    for step in range(3):
        extra = added if step == time else 0.0
        inside = extra if point != "hook_resid_post" else 0.0
        state = (x[:, step : step + 1] @ w_ih.T + state @ w_hh.T + inside).relu()  # type: ignore[operator,union-attr]
        state = state + (extra if point == "hook_resid_post" else 0.0)
    wanted = state @ plain.linear.weight.T  # type: ignore[union-attr,operator]
    run = model.run(x, mi.intervene(f"blocks.{time}.{point}", mi.Add(added)))
    torch.testing.assert_close(run.last_logits, wanted, rtol=1e-5, atol=1e-5)


def test_what_reads_in_both_directions_goes_on_from_nothing() -> None:
    model = mi.build({"model_type": "algzoo_transformer", "hidden_size": 8, "seq_len": 4})
    run = model.run([0, 1], resumable=True)
    with pytest.raises(MemoryMismatch, match="both directions"):
        model.run([2, 3], memory=run.memory())


def test_a_number_beyond_the_range_is_refused() -> None:
    model = mi.build({"model_type": "algzoo_transformer", "hidden_size": 8, "seq_len": 4})
    with pytest.raises(TokenOutOfRange):
        model.run([0, 1, 2, 4])
