"""Training as a whole: exact resume, several processes, what is written, and features that are known to be there."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import mi_core as mi
from mi_core.errors import BadConfig, InputError
from mi_dictionaries.matching_pursuit import MatchingPursuit as Pursuit
from mi_dictionaries.sets import DictionarySet
from mi_dictionaries.sparse import SparseDictionary
from mi_dictionaries.training import (
    AbsTopK,
    BatchTopK,
    CrossLayer,
    Gated,
    JumpReLU,
    LiveActivations,
    MatchingPursuit,
    MatryoshkaBatchTopK,
    Options,
    Standard,
    StoredActivations,
    TopK,
    TrainingConfig,
    options_of,
    train,
)
from mi_dictionaries.training.mixing import Mixer

POINT = "blocks.0.hook_resid_post"
READ, WRITE = "blocks.0.mlp.hook_in", "blocks.0.hook_mlp_out"


def superposition(tokens: int, features: int = 32, width: int = 20, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rare features in fewer dimensions, and what a model that holds them in superposition looks like inside."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(features, width, generator=generator), dim=1)
    active = torch.rand(tokens, features, generator=generator) < 0.05
    return (active * (0.5 + torch.rand(tokens, features, generator=generator))) @ directions, directions


def random(*names: str, tokens: int = 2048, width: int = 8, seed: int = 0) -> StoredActivations:
    generator = torch.Generator().manual_seed(seed)
    return StoredActivations({name: torch.randn(tokens, width, generator=generator) for name in names})


CONFIG = TrainingConfig(
    tokens=40 * 64,
    batch=64,
    lr=1e-2,
    lr_warm_up_steps=5,
    lr_decay_steps=10,
    mix_tokens=256,
    dead_feature_window=3,
    normalise="expected_average_only_in",
    mean_start=True,
    log_every=5,
)
EVERY: dict[str, tuple[Options, tuple[str, ...]]] = {
    "standard": (Standard(d_sae=16, l1_coefficient=0.1, l1_warm_up_steps=8), (POINT,)),
    "gated": (Gated(d_sae=16, l1_coefficient=0.1), (POINT,)),
    "topk": (TopK(d_sae=16, k=2), (POINT,)),
    "abstopk": (AbsTopK(d_sae=16, k=2), (POINT,)),
    "batchtopk": (BatchTopK(d_sae=16, k=2.5), (POINT,)),
    "matryoshka": (MatryoshkaBatchTopK(d_sae=16, k=2, matryoshka_widths=(4, 8)), (POINT,)),
    "jumprelu": (JumpReLU(d_sae=16, l0_coefficient=0.1, pre_act_loss_coefficient=0.1), (POINT,)),
    "matching_pursuit": (MatchingPursuit(d_sae=16, max_iterations=3), (POINT,)),
    "transcoder": (TopK(d_sae=16, k=2), (READ, WRITE)),
    "skip_transcoder": (JumpReLU(d_sae=16, l0_coefficient=0.1, skip=True), (READ, WRITE)),
    "cross_layer": (
        CrossLayer(d_sae=12, l0_coefficient=0.05),
        (READ, "blocks.1.mlp.hook_in", WRITE, "blocks.1.hook_mlp_out"),
    ),
    "cross_layer_batchtopk": (
        CrossLayer(d_sae=12, activation="batchtopk", k=4),
        (READ, "blocks.1.mlp.hook_in", WRITE, "blocks.1.hook_mlp_out"),
    ),
}


def tensors(found: Any) -> list[Tensor]:
    """Every tensor of a dictionary or a set."""
    if isinstance(found, DictionarySet):
        return [tensor for each in found.dictionaries for tensor in tensors(each)]
    assert isinstance(found, SparseDictionary | Pursuit)
    named = ("W_enc", "b_enc", "W_dec", "b_dec", "W_skip")
    own = [getattr(found, name, None) for name in named] + list(vars(getattr(found, "activation", found)).values())
    return [tensor for tensor in own if isinstance(tensor, Tensor)]


@pytest.mark.parametrize("name", EVERY)
def test_a_training_that_was_stopped_goes_on_to_the_same_bits(name: str, tmp_path: Path) -> None:
    options, points = EVERY[name]
    source = random(*points)
    whole = train(source, options, CONFIG, out=tmp_path / "whole")
    for stop_at in (7, 23):  # inside a chunk and in another one
        steps = iter(range(10**6))
        first = train(source, options, CONFIG, out=tmp_path / "parts", stopped=lambda s=steps, n=stop_at: next(s) == n)
        assert first is None
    parts = train(random(*points), options, replace(CONFIG, log_every=5), out=tmp_path / "parts")
    assert all(torch.equal(a, b) for a, b in zip(tensors(whole), tensors(parts), strict=True))
    lines = [(tmp_path / run / "metrics.jsonl").read_text().splitlines() for run in ("whole", "parts")]
    kept = [[{k: v for k, v in json.loads(line).items() if "second" not in k} for line in each] for each in lines]
    assert kept[0] == kept[1]
    assert [line["step"] for line in kept[0]] == list(range(5, 41, 5))


@pytest.mark.parametrize("name", EVERY)
def test_what_was_trained_reconstructs_activations_as_they_are(name: str) -> None:
    """Scales are folded: nothing is to be normalised, and the mean square left over is less than there was."""
    options, points = EVERY[name]
    columns = {point: 7.0 * tensor + 3.0 for point, tensor in random(*points).columns.items()}
    source = StoredActivations(columns)
    found = train(source, options, replace(CONFIG, tokens=150 * 64, lr_decay_steps=50))
    if isinstance(found, DictionarySet):
        half = len(points) // 2
        out = found.forward([columns[point] for point in points[:half]])
        pairs = list(zip(out, (columns[point] for point in points[half:]), strict=True))
    else:
        assert found is not None
        pairs = [(found.forward(columns[points[0]]), columns[points[-1]])]
    for made, wanted in pairs:
        left = (made - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum()
        # a transcoder of independent noise can learn the mean alone
        assert left < (1.1 if len(points) > 1 else 0.75)


@pytest.mark.parametrize(
    "options",
    [BatchTopK(d_sae=64, k=1.6), CrossLayer(d_sae=64, activation="batchtopk", k=1.6)],
    ids=lambda options: options.architecture,
)
def test_the_features_of_a_toy_model_of_superposition_are_found(options: Options) -> None:
    x, directions = superposition(2**15)
    config = TrainingConfig(
        tokens=400 * 512,
        batch=512,
        lr=1e-2,
        lr_warm_up_steps=20,
        lr_decay_steps=200,
        mix_tokens=2**13,
        dead_feature_window=50,
    )
    columns = {READ: x, WRITE: x} if isinstance(options, CrossLayer) else {POINT: x}
    found = train(StoredActivations(columns), options, config)
    found = found[0] if isinstance(found, DictionarySet) else found
    assert isinstance(found, SparseDictionary)
    assert isinstance(found.W_dec, Tensor)
    learned = torch.nn.functional.normalize(found.W_dec.flatten(1), dim=1)
    assert (directions @ learned.T).max(1).values.mean() > 0.95


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    options, points = EVERY["topk"]
    train(random(*points), options, CONFIG, out=tmp_path)
    with pytest.raises(BadConfig, match=r"its options\.k is 2, asked for is 3"):
        train(random(*points), replace(options, k=3), CONFIG, out=tmp_path)


@given(st.integers(0, 40), st.integers(1, 4), st.integers(2, 5))
def test_batches_are_a_function_of_their_number_and_hold_every_token_once(first: int, batch: int, half: int) -> None:
    tokens = torch.arange(4096.0)[:, None]
    size = 2 * half * batch
    mixer = Mixer(StoredActivations({POINT: tokens}), batch, size, seed=3)
    served = [mixer[number] for number in range(first + 8 * half)]
    again = Mixer(StoredActivations({POINT: tokens}), batch, size, seed=3)
    assert all(torch.equal(again[number], served[number]) for number in range(first, first + 8 * half))
    seen = torch.cat(served[: 7 * half]).flatten().tolist()  # pools 0 to 3: chunks 0 to 2, and half of chunk 3
    assert len(set(seen)) == len(seen)
    assert set(seen) >= set(range(3 * size))


def test_live_activations_are_what_the_model_computes() -> None:
    model = mi.load("tiny-world")
    rows = torch.randint(1, 1000, (6, 2, 9), generator=torch.Generator().manual_seed(0))
    rows[:, :, 0] = 0
    source = LiveActivations(model, list(rows), (POINT, "blocks.1.attn.hook_z"), tokens_per_run=16, skip=(0,))
    assert source.widths == (128, 128)
    run = model.run(rows[1], mi.capture([POINT, "blocks.1.attn.hook_z"]), logits=None)
    wanted = torch.cat(
        [run[POINT][:, 1:].flatten(0, 1), run["blocks.1.attn.hook_z"][:, 1:].flatten(0, 1).flatten(1)], 1
    )
    assert torch.equal(source.chunk(1, 16), wanted)
    assert torch.equal(torch.cat([source.chunk(0, 20), source.chunk(1, 20)]), source.chunk(0, 40))
    with pytest.raises(InputError, match="17 were promised"):
        replace(source, tokens_per_run=17).chunk(0, 20)


@pytest.mark.parametrize(
    ("options", "points", "complaint"),
    [
        (TopK(d_sae=8, k=2), (POINT, READ, WRITE), "reads one point and writes one; there are 3"),
        (CrossLayer(d_sae=8), (POINT, READ, WRITE), "reads as many points as it writes"),
        (TopK(d_sae=8, k=2, apply_b_dec_to_input=True), (READ, WRITE), "lives at another point"),
        (MatchingPursuit(d_sae=8), (READ, WRITE), "there is no transcoder of it"),
    ],
)
def test_options_that_do_not_fit_the_points_are_refused(
    options: Options, points: tuple[str, ...], complaint: str
) -> None:
    with pytest.raises(BadConfig, match=complaint):
        train(random(*points), options, CONFIG)


@pytest.mark.parametrize(
    ("written", "complaint"),
    [
        ({"architecture": "topk", "d_sae": 8, "k": 9}, "k=9 of d_sae=8"),
        ({"architecture": "topk", "d_sae": 8, "k": 1.5}, "a whole number"),
        ({"architecture": "topk", "d_sae": 8, "l1": 1}, "topk has no option 'l1'. It has: d_sae"),
        ({"architecture": "vanilla", "d_sae": 8}, "architecture='vanilla': give one of standard"),
        ({"architecture": "jumprelu", "d_sae": 8, "jumprelu_sparsity_loss_mode": "quadratic"}, "target_l0=None"),
        ({"architecture": "matryoshka_batchtopk", "d_sae": 8, "k": 2, "matryoshka_widths": [4, 2]}, "growing widths"),
        ({"architecture": "standard", "d_sae": 0}, "at least one feature"),
        ({"architecture": "cross_layer_transcoder", "d_sae": 8, "activation": "batchtopk"}, "with k=None"),
    ],
)
def test_options_that_contradict_themselves_are_refused(written: dict[str, Any], complaint: str) -> None:
    with pytest.raises(BadConfig, match=complaint):
        options_of(written)


def test_options_and_configs_survive_json() -> None:
    for options, _ in EVERY.values():
        assert options_of(json.loads(json.dumps(options.written()))) == options
    assert TrainingConfig.read(json.loads(json.dumps(CONFIG.written()))) == CONFIG
    with pytest.raises(BadConfig, match="no field 'epochs'"):
        TrainingConfig.read({"tokens": 8192, "epochs": 3})
    with pytest.raises(BadConfig, match="do not fit into 2 steps"):
        TrainingConfig(tokens=8192, lr_warm_up_steps=2, lr_decay_steps=1)


SCRIPT = """
import sys, torch
from mi_dictionaries.training import StoredActivations, TopK, TrainingConfig, train
x = torch.randn(4096, 8, generator=torch.Generator().manual_seed(0))
config = TrainingConfig(tokens=40 * 64, batch=64, lr=1e-2, mix_tokens=256, dead_feature_window=3)
found = train(StoredActivations({"blocks.0.hook_resid_post": x}), TopK(d_sae=16, k=2), config, out=sys.argv[1])
torch.save((found.W_dec, found.about.details["l0_in_training"]), sys.argv[2] + str(torch.distributed.get_rank()))
torch.distributed.destroy_process_group()
"""


def test_two_processes_train_one_dictionary(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    (tmp_path / "script.py").write_text(SCRIPT)
    common = {
        **os.environ,
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "ACCELERATE_USE_CPU": "true",
        "CUDA_VISIBLE_DEVICES": "",
    }
    started = [
        subprocess.Popen(
            [sys.executable, "script.py", "out", "weights"],
            cwd=tmp_path,
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    for process in started:
        _, problems = process.communicate(timeout=120)
        assert process.returncode == 0, problems.decode()[-2000:]
    (first, l0), (second, _) = (torch.load(tmp_path / f"weights{rank}") for rank in range(2))
    assert torch.equal(first, second)
    assert l0 == pytest.approx(2, abs=0.2)
    steps = [json.loads(line)["step"] for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [40]
