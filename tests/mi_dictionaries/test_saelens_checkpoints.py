"""Every architecture and option of SAELens' checkpoints, versions 3 to 6, against formulas written apart."""

from __future__ import annotations

import numpy as np
import pytest
from dictionary_checkpoints import (
    OUT,
    D,
    F,
    activations,
    best,
    check,
    jump,
    numbers,
    parts,
    relu,
    write_json,
    write_safetensors,
)

import mi_dictionaries
from mi_core.errors import BadConfig, MissingTensors, TensorMismatch, UnusedConfig, UnusedTensors

V6 = {
    "d_in": D,
    "d_sae": F,
    "dtype": "float32",
    "device": "cpu",
    "apply_b_dec_to_input": True,
    "normalize_activations": "none",
    "reshape_activations": "none",
    "metadata": {"sae_lens_version": "6.54.12", "model_name": "tiny", "hook_name": "blocks.1.hook_resid_post"},
}


def write(folder, arrays, **config):
    write_json(folder / "cfg.json", {**V6, **config})
    write_safetensors(folder / "sae_weights.safetensors", arrays)
    return mi_dictionaries.load(folder)


def encoded(p, x, centred=True):
    return (x - p["b_dec"] if centred else x) @ p["W_enc"] + p["b_enc"]


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_standard_jumprelu_and_topk_are_their_formulas_with_and_without_centring(tmp_path, seed, centred):
    p, x = parts(seed), activations(seed)
    z = encoded(p, x, centred)
    threshold = numbers(np.random.default_rng(seed + 7), F, scale=0.5)  # below zero in part
    kinds = {
        "standard": (relu(z), {}, {}),
        "jumprelu": (jump(z, threshold), {"threshold": threshold}, {}),
        "topk": (best(z, 5), {}, {"k": 5, "rescale_acts_by_decoder_norm": False}),
        "abstopk": (best(z, 5, floor=False, by=np.abs(z)), {}, {"k": 5, "rescale_acts_by_decoder_norm": False}),
    }
    for name, (acts, arrays, config) in kinds.items():
        found = write(tmp_path / name, {**p, **arrays}, architecture=name, apply_b_dec_to_input=centred, **config)
        check(found, x, acts, acts @ p["W_dec"] + p["b_dec"])


@pytest.mark.parametrize("name", ["topk", "abstopk"])
def test_features_that_compete_by_what_they_add_are_scaled_by_the_norms_of_their_rows(tmp_path, name):
    p, x = parts(3), activations(3)
    norms = np.sqrt((p["W_dec"] ** 2).sum(-1))
    z = encoded(p, x) * norms
    acts = best(z, 4) if name == "topk" else best(z, 4, floor=False, by=np.abs(z))
    found = write(tmp_path, p, architecture=name, k=4, rescale_acts_by_decoder_norm=True)
    check(found, x, acts, (acts / norms) @ p["W_dec"] + p["b_dec"])


def test_gated_has_a_gate_and_a_magnitude(tmp_path):
    p, x, rng = parts(4), activations(4), np.random.default_rng(4)
    del p["b_enc"]
    own = {name: numbers(rng, F, scale=0.3) for name in ("b_gate", "b_mag", "r_mag")}
    z = (x - p["b_dec"]) @ p["W_enc"]
    acts = np.where(z + own["b_gate"] > 0, relu(z * np.exp(own["r_mag"]) + own["b_mag"]), 0)
    check(write(tmp_path, {**p, **own}, architecture="gated"), x, acts, acts @ p["W_dec"] + p["b_dec"], 1e-4)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("jumps", [False, True])
def test_transcoders_write_elsewhere_and_their_skip_connection_takes_the_raw_input(tmp_path, skip, jumps):
    p, x, rng = parts(5, out=OUT), activations(5), np.random.default_rng(5)
    z = x @ p["W_enc"] + p["b_enc"]
    extra = {"threshold": np.abs(numbers(rng, F))} if jumps else {}
    acts = jump(z, extra["threshold"]) if jumps else relu(z)
    recon = acts @ p["W_dec"] + p["b_dec"]
    if skip:
        extra["W_skip"] = numbers(rng, OUT, D)
        recon = recon + x @ extra["W_skip"].T
    name = f"{'jumprelu_' if jumps else ''}{'skip_' if skip else ''}transcoder"
    metadata = {**V6["metadata"], "hook_name": "blocks.1.mlp.hook_in", "hook_name_out": "blocks.1.hook_mlp_out"}
    found = write(tmp_path, {**p, **extra}, architecture=name, d_out=OUT, apply_b_dec_to_input=False, metadata=metadata)
    assert (found.site_in, found.site_out) == ("blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out")
    check(found, x, acts, recon)


def test_norms_at_run_time_are_undone_behind_the_decoder(tmp_path):
    p, x = parts(6), activations(6)
    mean, std = x.mean(-1, keepdims=True), x.std(-1, ddof=1, keepdims=True)
    acts = relu(encoded(p, (x - mean) / (std + 1e-5)))
    found = write(tmp_path / "ln", p, architecture="standard", normalize_activations="layer_norm")
    check(found, x, acts, (acts @ p["W_dec"] + p["b_dec"]) * std + mean, 1e-4)
    factor = D**0.5 / np.linalg.norm(x, axis=-1, keepdims=True)
    acts = relu(encoded(p, x * factor))
    found = write(tmp_path / "norm", p, architecture="standard", normalize_activations="constant_norm_rescale")
    check(found, x, acts, (acts @ p["W_dec"] + p["b_dec"]) / factor, 1e-4)
    acts = relu(encoded(p, x))
    found = write(tmp_path / "expected", p, architecture="standard", normalize_activations="expected_average_only_in")
    check(found, x, acts, acts @ p["W_dec"] + p["b_dec"])


def test_heads_are_put_side_by_side(tmp_path):
    p, x = parts(7), activations(7, 2, 3, 2, D // 2)
    acts = relu(encoded(p, x.reshape(2, 3, D)))
    metadata = {**V6["metadata"], "hook_name": "blocks.0.attn.hook_z"}
    found = write(tmp_path, p, architecture="standard", reshape_activations="hook_z", metadata=metadata)
    check(found, x, acts, (acts @ p["W_dec"] + p["b_dec"]).reshape(x.shape))


@pytest.mark.parametrize("centred", [True, False])
def test_matching_pursuit_takes_the_best_feature_again_and_again(tmp_path, centred):
    p, x = parts(8), activations(8, 4, D)
    rows = p["W_dec"] / np.linalg.norm(p["W_dec"], axis=-1, keepdims=True)
    rows = rows.astype(np.float32).astype(np.float64)
    acts = np.zeros((4, F))
    for token, start in enumerate(x - p["b_dec"] if centred else x):
        residual, taken = start.copy(), set()
        for _ in range(5):
            chosen = int(np.argmax(relu(rows @ residual)))
            value = max(float(residual @ rows[chosen]), 0.0)
            acts[token, chosen] += value
            residual = residual - value * rows[chosen]
            if np.linalg.norm(residual) < 0.4 or chosen in taken:
                break
            taken.add(chosen)
    arrays = {"W_dec": rows, "b_dec": p["b_dec"]}
    config = {"residual_threshold": 0.4, "max_iterations": 5, "stop_on_duplicate_support": True}
    found = write(tmp_path, arrays, architecture="matching_pursuit", apply_b_dec_to_input=centred, **config)
    check(found, x, acts, acts @ rows + (p["b_dec"] if centred else 0))


def temporal_codes(a, residual, n_heads, d):
    """What earlier tokens predict, one token at a time."""
    z = relu(residual @ a["W_enc"] / (4 * d))
    before = np.concatenate([np.zeros((1, z.shape[1])), z[:-1]])
    q, k, v = (
        of @ a[f"{name}.weight"].T + a[f"{name}.bias"]
        for name, of in (("q_target", z), ("k_ctx", before), ("v_ctx", before))
    )
    out = np.zeros_like(v)
    for head in range(n_heads):
        mine = slice(head * q.shape[1] // n_heads, (head + 1) * q.shape[1] // n_heads)
        theirs = slice(head * v.shape[1] // n_heads, (head + 1) * v.shape[1] // n_heads)
        for token in range(len(z)):
            scores = q[token, mine] @ k[: token + 1, mine].T / np.sqrt(q.shape[1] // n_heads)
            weights = np.exp(scores - scores.max())
            out[token, theirs] = (weights / weights.sum()) @ v[: token + 1, theirs]
    return relu(out @ a["c_proj.weight"].T + a["c_proj.bias"])


def temporal(a, layers, x, n_heads, k, bias):
    """Novel codes and reconstruction of one row of tokens."""
    residual = x - bias
    predicted = np.zeros((len(x), a["W_dec"].shape[0]))
    for layer in layers:
        codes = temporal_codes({**a, **layer}, residual, n_heads, x.shape[1])
        written = codes @ a["W_dec"]
        size = np.linalg.norm(written, axis=-1, keepdims=True) + 1e-6
        scale = (written * residual).sum(-1, keepdims=True) / size**2
        predicted, residual = predicted + codes * scale, residual - scale * written
    novel = relu(residual @ a["W_enc"] / (4 * x.shape[1]))
    novel = novel if k is None else best(novel, k)
    return novel, (novel + predicted) @ a["W_dec"] + bias


def attention_arrays(rng, d_sae, bottleneck):
    found = {}
    for name, out in (("k_ctx", bottleneck), ("q_target", bottleneck), ("v_ctx", d_sae), ("c_proj", d_sae)):
        found[f"{name}.weight"], found[f"{name}.bias"] = numbers(rng, out, d_sae), numbers(rng, out, scale=0.1)
    return found


@pytest.mark.parametrize("tied", [True, False])
def test_temporal_encodes_what_earlier_tokens_do_not_predict(tmp_path, tied):
    rng = np.random.default_rng(9)
    p, x = parts(9), activations(9, 2, 5, D)
    layers = [attention_arrays(rng, F, 4) for _ in range(2)]
    a = {"W_dec": p["W_dec"], "W_enc": p["W_dec"].T if tied else p["W_enc"]}
    rows = [temporal(a, layers, row * 1.5, 2, 3, p["b_dec"]) for row in x]
    arrays = {"W_dec": p["W_dec"], "b_dec": p["b_dec"], **({} if tied else {"W_enc": p["W_enc"]})}
    for number, layer in enumerate(layers):
        arrays |= {f"attn_layers.{number}.{name}": array for name, array in layer.items()}
    config = {"n_heads": 2, "n_attn_layers": 2, "bottleneck_factor": 6, "sae_diff_type": "topk", "kval_topk": 3}
    scale = {"normalize_activations": "constant_scalar_rescale", "activation_normalization_factor": 1.5}
    found = write(tmp_path, arrays, architecture="temporal", tied_weights=tied, **config, **scale)
    check(found, x, np.stack([novel for novel, _ in rows]), np.stack([recon for _, recon in rows]) / 1.5)


@pytest.mark.parametrize("name", ["batchtopk", "matryoshka_batchtopk"])
@pytest.mark.parametrize("rescales", [True, False])
def test_a_training_checkpoint_of_batch_topk_is_a_threshold_on_what_features_add(tmp_path, name, rescales):
    p, x = parts(10), activations(10)
    norms = np.linalg.norm(p["W_dec"], axis=-1) if rescales else np.ones(F)
    acts = jump(encoded(p, x) * norms, 0.8)
    config = {
        "k": 4.5,
        "rescale_acts_by_decoder_norm": rescales,
        "topk_threshold_lr": 0.01,
        "aux_loss_coefficient": 1.0,
    }
    config |= {"decoder_init_norm": 0.1, "matryoshka_widths": [6, 12]} if name == "matryoshka_batchtopk" else {}
    found = write(tmp_path, {**p, "topk_threshold": np.array(0.8)}, architecture=name, **config)
    check(found, x, acts, (acts / norms) @ p["W_dec"] + p["b_dec"])


def test_a_training_checkpoint_holds_what_was_estimated_for_its_input(tmp_path):
    p, x, rng = parts(11), activations(11), np.random.default_rng(11)
    write_json(tmp_path / "scaled" / "activation_scaler.json", {"scaling_factor": 1.75, "has_whitening": False})
    acts = relu(encoded(p, x * 1.75))
    found = write(tmp_path / "scaled", p, architecture="standard", normalize_activations="expected_average_only_in")
    check(found, x, acts, (acts @ p["W_dec"] + p["b_dec"]) / 1.75)
    folder = tmp_path / "whitened"
    matrix, mean = numbers(rng, D, D), numbers(rng, D)
    inverse = np.linalg.inv(matrix).astype(np.float32).astype(np.float64)
    write_json(folder / "activation_scaler.json", {"scaling_factor": None, "has_whitening": True})
    write_safetensors(
        folder / "activation_whitening.safetensors", {"mean": mean, "matrix": matrix, "inverse_matrix": inverse}
    )
    acts = relu(encoded(p, (x - mean) @ matrix))
    found = write(folder, p, architecture="standard", normalize_activations="covariance_whitening")
    check(found, x, acts, (acts @ p["W_dec"] + p["b_dec"]) @ inverse + mean, 1e-4)
    (folder / "activation_scaler.json").unlink()
    with pytest.raises(BadConfig, match="without it the weights mean nothing"):
        mi_dictionaries.load(folder)


def test_an_old_jumprelu_checkpoint_holds_the_logarithm_of_its_thresholds(tmp_path):
    p, x = parts(12), activations(12)
    log = numbers(np.random.default_rng(12), F, scale=0.5)
    acts = jump(encoded(p, x), np.exp(log))
    found = write(tmp_path, {**p, "log_threshold": log}, architecture="jumprelu", jumprelu_bandwidth=0.05)
    check(found, x, acts, acts @ p["W_dec"] + p["b_dec"])


OLD = {"d_in": D, "d_sae": F, "dtype": "torch.float32", "device": "cpu", "model_name": "gpt2-small"}


def write_old(folder, arrays, **config):
    write_json(folder / "cfg.json", {**OLD, **config})
    write_safetensors(folder / "sae_weights.safetensors", arrays)
    return mi_dictionaries.load(folder)


def test_versions_3_to_5_are_read_by_their_own_names_and_defaults(tmp_path):
    p, x = parts(13), activations(13)
    acts = relu(encoded(p, x))
    recon = acts @ p["W_dec"] + p["b_dec"]
    for number, config in enumerate(
        [
            {"hook_point": "blocks.2.hook_resid_pre", "hook_point_layer": 2, "use_ghost_grads": True, "lr": 4e-4},
            {"hook_name": "blocks.2.hook_resid_pre", "activation_fn_str": "relu", "normalize_activations": False},
            {"hook_name": "blocks.2.hook_resid_pre", "architecture": "standard", "normalize_activations": None},
            {"hook_name": "blocks.2.hook_resid_pre", "normalize_activations": True, "activation_fn_kwargs": {}},
        ]
    ):
        found = write_old(tmp_path / str(number), {**p, "scaling_factor": np.ones(F)}, **config)
        assert (found.site_in, found.about.model) == ("blocks.2.hook_resid_pre", "gpt2-small")
        check(found, x, acts, recon)
    acts = relu(encoded(p, x, centred=False))
    found = write_old(tmp_path / "plain", p, hook_name="blocks.2.hook_resid_pre", apply_b_dec_to_input=False)
    check(found, x, acts, acts @ p["W_dec"] + p["b_dec"])


def test_version_5_with_topk_is_topk_even_where_the_file_says_standard(tmp_path):
    p, x = parts(14), activations(14)
    acts = best(encoded(p, x), 3)
    kind = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3}, "architecture": "standard"}
    found = write_old(tmp_path, p, hook_name="blocks.0.hook_mlp_out", **kind)
    check(found, x, acts, acts @ p["W_dec"] + p["b_dec"])


def test_version_5_with_tanh_relu_keeps_the_tanh_that_saelens_6_drops(tmp_path):
    p, x = parts(15), activations(15)
    acts = np.tanh(relu(encoded(p, x)))
    found = write_old(tmp_path, p, hook_name="blocks.0.hook_mlp_out", activation_fn_str="tanh-relu")
    check(found, x, acts, acts @ p["W_dec"] + p["b_dec"])


def test_version_5_with_a_finetuned_scale_which_saelens_6_refuses_scales_what_features_add(tmp_path):
    p, x = parts(16), activations(16)
    scale = 1 + 0.2 * numbers(np.random.default_rng(16), F)
    acts = relu(encoded(p, x))
    arrays = {**p, "scaling_factor": scale}
    found = write_old(tmp_path / "a", arrays, hook_name="blocks.0.hook_mlp_out", finetuning_scaling_factor=True)
    check(found, x, acts, (acts * scale) @ p["W_dec"] + p["b_dec"])
    with pytest.raises(BadConfig, match="'finetuning_scaling_factor' is false"):
        write_old(tmp_path / "b", arrays, hook_name="blocks.0.hook_mlp_out")


def test_hook_z_of_version_5_puts_heads_side_by_side(tmp_path):
    p, x = parts(17), activations(17, 3, 2, D // 2)
    acts = relu(encoded(p, x.reshape(3, D)))
    found = write_old(tmp_path, p, hook_name="blocks.0.attn.hook_z")
    check(found, x, acts, (acts @ p["W_dec"] + p["b_dec"]).reshape(x.shape))


@pytest.mark.parametrize("old", [True, False])
def test_centred_writing_weights_get_an_adapter_that_is_reported(tmp_path, old):
    p, x = parts(18), activations(18)
    mean = x.mean(-1, keepdims=True)
    acts = relu(encoded(p, x - mean))
    options = {"model_from_pretrained_kwargs": {"center_writing_weights": True}}
    if old:
        found = write_old(tmp_path, p, hook_name="blocks.1.hook_resid_pre", **options)
    else:
        found = write(tmp_path, p, architecture="standard", metadata={**V6["metadata"], **options})
    check(found, x, acts, acts @ p["W_dec"] + p["b_dec"] + mean)
    assert "trained on centred writing weights" in found.about.conventions[1]


def test_repositories_whose_files_do_not_say_that_the_model_was_processed_are_known_by_name(tmp_path):
    p, x = parts(21), activations(21)
    mean = x.mean(-1, keepdims=True)
    acts = relu(encoded(p, x - mean))
    folder = tmp_path / "jbloom/GPT2-Small-SAEs-Reformatted/blocks.3.hook_resid_pre"
    found = write_old(folder, p, hook_name="blocks.3.hook_resid_pre")
    check(found, x, acts, acts @ p["W_dec"] + p["b_dec"] + mean)


def test_what_nothing_reads_and_what_contradicts_itself_is_refused_with_both_values(tmp_path):
    p = parts(19)
    with pytest.raises(UnusedConfig, match=r"surprise = 3"):
        write(tmp_path / "a", p, architecture="standard", surprise=3)
    assert mi_dictionaries.load(tmp_path / "a", ignore_config=["surprise"]).d_in == D
    with pytest.raises(UnusedTensors, match=r"threshold \[24\]"):
        write(tmp_path / "b", {**p, "threshold": np.zeros(F)}, architecture="standard")
    with pytest.raises(TensorMismatch, match=rf"d_sae is {F} by 'W_enc' \[8, 24\] and 99 by cfg.json"):
        write(tmp_path / "c", p, architecture="standard", d_sae=99)
    with pytest.raises(TensorMismatch, match=r"d_sae is 24 by .* and 23 by 'b_enc' \[23\]"):
        write(tmp_path / "d", {**p, "b_enc": np.zeros(F - 1)}, architecture="standard")
    with pytest.raises(MissingTensors, match="'threshold'"):
        write(tmp_path / "e", p, architecture="jumprelu")
    with pytest.raises(BadConfig, match="'architecture' is 'sparse_coding', it must be one of 'standard'"):
        write(tmp_path / "f", p, architecture="sparse_coding")
    with pytest.raises(BadConfig, match=r"'architecture' is \['standard'\]"):
        write(tmp_path / "f", p, architecture=["standard"])
    with pytest.raises(BadConfig, match="a transcoder's b_dec is of its output"):
        write(tmp_path / "g", p, architecture="transcoder", d_out=D)
    with pytest.raises(BadConfig, match="'hook_name' is 'a' and 'hook_point', its old name, 'b'"):
        write_old(tmp_path / "h", p, hook_name="a", hook_point="b")
    with pytest.raises(BadConfig, match="from 1 to 24"):
        write(tmp_path / "i", p, architecture="topk", k=25, rescale_acts_by_decoder_norm=False)


def test_what_was_asked_for_and_is_not_there_is_an_error(tmp_path):
    write(tmp_path / "relu", parts(22), architecture="standard")
    write(tmp_path / "topk", parts(22), architecture="topk", k=4, rescale_acts_by_decoder_norm=False)
    assert mi_dictionaries.load(tmp_path / "topk", layer=1, k=4).site_in == "blocks.1.hook_resid_post"
    with pytest.raises(BadConfig, match="layer=3 was asked for, and it reads layer 1"):
        mi_dictionaries.load(tmp_path / "relu", layer=3)
    with pytest.raises(BadConfig, match="k=5 was passed, and its features are chosen by ReLU"):
        mi_dictionaries.load(tmp_path / "relu", k=5)
    with pytest.raises(BadConfig, match=r"k=5 was passed, and its features are chosen by TopK\(k=4"):
        mi_dictionaries.load(tmp_path / "topk", k=5)
    with pytest.raises(BadConfig, match="'native' was asked for, and its format has one kind of units"):
        mi_dictionaries.load(tmp_path / "relu", feature_units="native")


def test_thresholds_below_zero_are_reported(tmp_path):
    threshold = np.ones(F)
    threshold[:3] = -0.5
    found = write(tmp_path, {**parts(20), "threshold": threshold}, architecture="jumprelu")
    assert found.about.warnings == ("3 of 24 thresholds are negative, the lowest -0.5: such features are max(z, 0)",)
