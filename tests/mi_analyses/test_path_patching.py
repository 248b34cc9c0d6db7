from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import LAYOUTS, laid_out, small
from wrapped_backends import Wrapped

import mi_core as mi
from mi_analyses import PathPatching, activation_patching, path_patching
from mi_analyses.graph_nodes import Graph
from mi_core.building import initialise_randomly
from mi_core.cli.main import main
from mi_core.errors import SelectorError, UnsupportedAnalysis
from mi_core.protocols import Residual

MODEL = small()
METRIC = mi.logit_diff(3, 5)
IDS = st.integers(0, 60)
PAIRS = st.lists(st.lists(st.tuples(IDS, IDS), min_size=2, max_size=3), min_size=1, max_size=2)
GPT = {"model_type": "gpt2", "vocab_size": 61, "n_embd": 16, "n_layer": 3, "n_head": 4, "n_positions": 32}
GPTJ = {**GPT, "model_type": "gptj", "rotary_dim": 4}
RECEIVERS = {
    "L2H1.q": ("L2H1.q",),
    "L1KV1.k": ("L1KV1.k",),
    "L2KV0.v": ("L2KV0.v",),
    "mlp 1": ("mlp 1",),
    "logits": ("logits",),
    "several": ("L1H0.q", "L2KV1.v", "mlp 2", "L2H3.q"),
}
SENDERS = st.sampled_from(["embed", "L0H2", "mlp 0", "resid 1"])


def split(pairs):
    """Clean and corrupt rows that differ at their last token."""
    clean = [[a for a, _ in row] for row in pairs]
    corrupt = [[*(b for _, b in row[:-1]), (row[-1][0] + 1) % 61] for row in pairs]
    return clean, corrupt


def by_hand(model, base, source, sender, receivers, mlps, pos):
    """Wang et al.'s three runs for one prompt: what receivers make of their inputs is recorded, then written."""
    graph = Graph.of(model)
    sent = graph.made_of(graph.sender(sender))
    made = {"q": "attn.hook_q", "k": "attn.hook_k", "v": "attn.hook_v"}
    given, plain = model.run(source, mi.capture([sent.point])), model.run(base, mi.capture("*"))
    change = sent.write(mi.Replace(given)).at(**({} if pos is None else {"pos": pos}))
    held = ["blocks.*.attn.hook_z", *(["blocks.*.hook_mlp_out"] if mlps == "frozen" else [])]
    places = []
    for reader in (node for name in receivers for node in graph.readers(name)):
        where = {} if reader.head < 0 else {"head" if reader.part == "q" else "kv_head": reader.head}
        if reader.kind == "logits":
            places.append(("blocks.2.hook_resid_post", where))
        else:
            places.append((f"blocks.{reader.layer}.{made.get(reader.part, 'mlp.hook_in')}", where))
    frozen = mi.intervene(held, mi.Replace(plain))
    after = model.run(base, frozen + change + mi.capture([point for point, _ in places]))
    patch = sum((mi.intervene(point, mi.Replace(after).at(**where)) for point, where in places), mi.HookSpec())
    logits = model.run(base, patch).last_logits[0]
    return logits[3] - logits[5]


@settings(max_examples=5)
@given(
    PAIRS, SENDERS, st.sampled_from(sorted(RECEIVERS)), st.sampled_from(["frozen", "recomputed"]), st.booleans(),
    st.sampled_from([None, 0, -1]),
)  # fmt: skip
def test_a_path_is_the_three_runs_of_wang_et_al(pairs, sender, kind, mlps, noising, pos):
    clean, corrupt = split(pairs)
    receivers = RECEIVERS[kind]
    if sender == "resid 1" and kind == "L1KV1.k":
        receivers = ("L2KV1.k",)
    result = path_patching(
        MODEL, clean, corrupt, METRIC, receivers, senders=[sender], mlps=mlps, noising=noising, pos=pos
    )
    base, source = (clean, corrupt) if noising else (corrupt, clean)
    wanted = [by_hand(MODEL, *rows, sender, receivers, mlps, pos) for rows in zip(base, source, strict=True)]
    torch.testing.assert_close(result.metric.values[0], torch.stack(wanted), atol=1e-4, rtol=1e-4)
    low, high = (result.clean, result.corrupt) if noising else (result.corrupt, result.clean)
    effect = (result.metric.values - low.values) / (high.values - low.values)
    torch.testing.assert_close(result.effects.values, effect)


@pytest.mark.parametrize("config", [GPT, GPTJ], ids=["in sequence", "in parallel"])
@pytest.mark.parametrize("mlps", ["frozen", "recomputed"])
def test_paths_of_heads_with_keys_of_their_own_are_the_three_runs_too(config, mlps):
    model = mi.build(config, trainable=False, device="cpu")
    initialise_randomly(model, 1)
    clean, corrupt = [[1, 2, 3]], [[4, 2, 5]]
    receivers = ("L1H3", "L2H0.k", "mlp 2")
    result = path_patching(model, clean, corrupt, METRIC, receivers, mlps=mlps)
    assert "mlp 1" in result.effect.coords["sender"]
    for sender in ("L0H1", "mlp 1", "L1H2"):
        wanted = by_hand(model, corrupt[0], clean[0], sender, receivers, mlps, None)
        torch.testing.assert_close(result.metric.sel(sender=sender).values[0], wanted, atol=1e-4, rtol=1e-4)


@given(PAIRS, st.booleans())
@settings(max_examples=2)
def test_without_receivers_the_effect_is_that_of_activation_patching(pairs, noising):
    clean, corrupt = split(pairs)
    total = path_patching(MODEL, clean, corrupt, METRIC, None, noising=noising)
    heads = activation_patching(
        MODEL, clean, corrupt, METRIC, site="attn.hook_z", each=("layer", "head"), noising=noising
    )
    for layer in range(3):
        for head in range(4):
            torch.testing.assert_close(
                total.effects.sel(sender=f"L{layer}H{head}").values,
                heads.effects.values[layer, head],
                atol=1e-4,
                rtol=1e-3,
            )


@settings(max_examples=2)
@given(PAIRS, LAYOUTS, st.integers(0, 99), st.sampled_from(["frozen", "recomputed"]))
def test_padding_changes_nothing(pairs, layout, seed, mlps):
    clean, corrupt = split(pairs)
    ids, mask = laid_out(clean, layout, seed)
    others, other_mask = laid_out(corrupt, layout, seed)
    if not torch.equal(mask, other_mask):
        return
    asked = {"senders": ["L0H1", "mlp 0"], "mlps": mlps, "pos": {"end": -1, "start": 0}}
    padded = path_patching(MODEL, ids, others, METRIC, ["L2H1.q", "mlp 2"], attention_mask=mask, **asked)
    alone = path_patching(MODEL, clean, corrupt, METRIC, ["L2H1.q", "mlp 2"], **asked)
    assert padded.effect.dims == ("sender", "pos")
    torch.testing.assert_close(padded.metric.values, alone.metric.values, atol=1e-4, rtol=1e-4)


def test_receivers_and_positions_are_axes_where_that_is_asked_for():
    clean, corrupt = [1, 2, 3], [1, 4, 3]
    receivers = ["L2H1.q", "mlp 0"]
    result = path_patching(
        MODEL, clean, corrupt, METRIC, receivers, each_receiver=True, pos={"first": 0, "other": 1, "all": slice(None)}
    )
    assert result.effect.dims == ("sender", "receiver", "pos")
    assert result.effect.coords["receiver"] == ("mlp 0", "L2H1.q")
    # nothing differs before the second token, and what comes later is read by nobody earlier
    assert result.effect.sel(pos="first").values.abs().max() < 1e-4
    assert result.effect.sel(receiver="mlp 0", sender="L1H0").values.abs().max() < 1e-4
    # a query of the last layer is asked at its own position alone
    assert result.effect.sel(receiver="L2H1.q", sender="embed", pos="other").values.abs() < 1e-4
    alone = path_patching(MODEL, clean, corrupt, METRIC, "mlp 0", senders=["embed"], pos=1).effect.values[0]
    assert alone.abs() > 1e-3
    torch.testing.assert_close(result.effect.sel(receiver="mlp 0", sender="embed", pos="other").values, alone)


def test_layers_behind_a_post_norm_send_as_one_node():
    config = {**GPT, "model_type": "olmo2", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3}
    del config["n_embd"], config["n_layer"], config["n_head"], config["n_positions"]
    model = mi.build({**config, "num_attention_heads": 4}, trainable=False, device="cpu")
    initialise_randomly(model, 1)
    result = path_patching(model, [1, 2, 3], [4, 2, 5], METRIC, ["attn 2", "mlp 1"], mlps="recomputed")
    assert result.effect.coords["sender"] == ("embed", "attn 0", "mlp 0", "attn 1", "mlp 1")
    assert result.effect.values.abs().min() > 0


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"receivers": "L2H1"}, "reads kv_head 0"),
        ({"receivers": "L2H1.k"}, "Name 'L2H1.q', 'L2KV0.k'"),
        ({"receivers": "L9H1.q"}, "no node 'L9H1.q'"),
        ({"receivers": "head 3"}, "names no node"),
        ({"receivers": ()}, "no receivers"),
        ({"receivers": "mlp 0", "senders": ["L1H0"]}, "no path"),
        ({"receivers": "logits", "senders": ["logits"]}, "writes to the stream"),
        ({"receivers": "logits", "mlps": "gone"}, "'frozen' or 'recomputed'|frozen"),
        ({"corrupt": [1, 2]}, "Use prompts cut into as many tokens"),
        ({"corrupt": mi.intervene("hook_embed", mi.Zero())}, "two prompts"),
    ],
)
def test_what_makes_no_sense_is_refused(asked, message):
    given = {"clean": [1, 2, 3], "corrupt": [1, 2, 4], "metric": METRIC, **asked}
    with pytest.raises(SelectorError, match=message):
        path_patching(MODEL, **given)


def test_streams_that_are_no_sum_are_refused():
    backend = Wrapped(MODEL.backend)
    backend.shape = replace(backend.shape, residual=(Residual("sequential"), Residual("post_norm"), Residual()))
    model = mi.Model(backend, name="normed", config={})
    with pytest.raises(UnsupportedAnalysis, match="more than the sum"):
        path_patching(model, [1, 2], [1, 3], METRIC)


def test_results_are_shown_and_come_back_from_json(tmp_path, capsys):
    argv = ["path", "tiny-world", "The capital of France is", "The capital of Italy is", "--answer", " Paris"]
    files = ["--html", str(tmp_path / "p.html"), "--json", str(tmp_path / "p.json")]
    assert main([*argv, "--wrong", " Rome", "--to", "L3H0.q,mlp 3", "--recompute-mlps", *files]) == 0
    shown = capsys.readouterr().out
    assert "path patching" in shown
    assert "each sender to L3H0.q, mlp 3, MLPs recomputed" in shown
    assert "Largest effect" in shown
    page = (tmp_path / "p.html").read_text()
    assert "by way of L3H0.q, mlp 3" in page
    result = PathPatching.from_json(tmp_path / "p.json")
    assert result.receivers == ("L3H0.q", "mlp 3")
    assert result.effect.values.isfinite().all()
