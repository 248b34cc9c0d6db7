import json
from functools import cache

import pytest
import torch
from compiled_circuits import CASES, compiled
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import small

import mi_core as mi
from mi_analyses import CircuitCurve, CircuitFaithfulness, circuit_curve, circuit_faithfulness, path_patching
from mi_analyses.ablated_streams import AlignedPrompts, ablated_values
from mi_analyses.circuit_specs import circuit_spec
from mi_analyses.circuits import Circuit
from mi_analyses.graph_nodes import Edge, Graph, Node
from mi_core.building import initialise_randomly
from mi_core.cli.main import main
from mi_core.errors import SelectorError, UnsupportedAnalysis, ValueMismatch
from mi_core.labelled import Labelled

GPT = {"model_type": "gpt2", "vocab_size": 61, "n_embd": 16, "n_layer": 3, "n_head": 4, "n_positions": 32}
GEMMA = {
    "model_type": "gemma2",
    "vocab_size": 61,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "sliding_window": 3,
}
ALONE = {"model_type": "hooked_transformer", "d_vocab": 61, "d_model": 16, "n_layers": 3, "n_heads": 4, "n_ctx": 32}
CONFIGS = {
    "gpt2": GPT,
    "gptj": {**GPT, "model_type": "gptj", "rotary_dim": 4},
    "gemma2": GEMMA,
    "attention alone": {**ALONE, "attn_only": True},
}
KINDS = st.sampled_from(["llama", *CONFIGS])
CLEAN, CORRUPT = [[1, 2, 3, 4], [5, 6, 7]], [[9, 2, 8, 4], [5, 16, 17]]
METRIC = mi.logit_diff(3, 5)


@cache
def model(kind):
    if kind == "llama":
        return small()
    made = mi.build(CONFIGS[kind], trainable=False, device="cpu")
    initialise_randomly(made, 1)
    return made


@cache
def graph(kind):
    return Graph.of(model(kind))


def logits(kind, circuit, ablation="counterfactual", prompts=CLEAN, others=CORRUPT):
    """The last logits with everything outside of a circuit ablated."""
    clean, other = AlignedPrompts.of(model(kind), prompts), AlignedPrompts.of(model(kind), others)
    rows = len(prompts)
    values = ablated_values(model(kind), graph(kind), other, ablation, rows, edges=circuit.of_edges)
    spec = circuit_spec(model(kind), graph(kind), circuit, values)
    return model(kind).run(clean.ids, spec, attention_mask=clean.mask).last_logits


@pytest.mark.parametrize("of_edges", [True, False], ids=["edges", "nodes"])
@pytest.mark.parametrize("kind", ["llama", *CONFIGS])
def test_the_whole_circuit_is_the_clean_run_and_the_empty_one_the_corrupt_run(kind, of_edges):
    everything = graph(kind).edges if of_edges else graph(kind).senders
    whole, empty = (logits(kind, Circuit(members, of_edges)) for members in (everything, ()))
    torch.testing.assert_close(whole, model(kind).run(CLEAN).last_logits, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(empty, model(kind).run(CORRUPT).last_logits, atol=2e-5, rtol=1e-4)


@settings(max_examples=5)
@given(KINDS, st.sampled_from(["counterfactual", "zero", "mean", "resample"]), st.data())
def test_a_circuit_of_nodes_has_the_edges_that_leave_them(kind, ablation, data):
    kept = data.draw(st.sets(st.sampled_from(graph(kind).senders)))
    edges = [edge for edge in graph(kind).edges if edge.sender in kept]
    prompts, others = [[1, 2, 3], [4, 5, 6]], [[3, 3, 3], [7, 8, 9]]
    given_others = prompts if ablation == "zero" else others
    by_node, by_edge = (
        logits(kind, Circuit.of_members(graph(kind), members, of_edges), ablation, prompts, given_others)
        for members, of_edges in ((kept, False), (edges, True))
    )
    torch.testing.assert_close(by_node, by_edge, atol=2e-5, rtol=1e-4)


def test_means_are_those_of_the_core_and_draws_are_of_one_prompt():
    others = [[3, 3, 3], [7, 8, 9], [1, 5, 2]]
    kept, pair = ["embed", "L0H1", "mlp 2"], ([[1, 2, 3], [4, 5, 6]], METRIC)
    outside = [graph("gpt2").made_of(node) for node in graph("gpt2").senders if str(node) not in kept]
    reference = model("gpt2").run(others, mi.capture(sorted({place.point for place in outside})))
    spec = sum((place.write(mi.Mean(reference)) for place in outside), mi.HookSpec())
    wanted = model("gpt2").run(pair[0], spec).last_logits
    mean = circuit_faithfulness(model("gpt2"), pair[0], others, METRIC, kept, ablation="mean")
    torch.testing.assert_close(mean.metric.values, wanted[:, 3] - wanted[:, 5], atol=2e-5, rtol=1e-4)
    of_each = [
        circuit_faithfulness(model("gpt2"), pair[0], [other] * 2, METRIC, kept).metric.values for other in others
    ]
    seen = set()
    for seed in range(3):
        drawn = circuit_faithfulness(model("gpt2"), pair[0], others, METRIC, kept, ablation="resample", seed=seed)
        for row, value in enumerate(drawn.metric.values):
            distances = [float((one[row] - value).abs()) for one in of_each]
            assert min(distances) < 1e-4
            seen.add((row, distances.index(min(distances))))
    assert len(seen) > 2


@settings(max_examples=4)
@given(KINDS, st.data())
def test_the_model_without_an_edge_is_that_path_patched(kind, data):
    gone = data.draw(st.sampled_from(graph(kind).edges))
    found = logits(kind, Circuit.of_members(graph(kind), graph(kind).edges, True).without({gone}))
    receiver = str(gone.receiver)
    patched = path_patching(
        model(kind), CLEAN, CORRUPT, METRIC, receiver, senders=[str(gone.sender)], noising=True
    ).metric.values[0]
    torch.testing.assert_close(found[:, 3] - found[:, 5], patched, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_the_edges_of_a_compiled_circuit_are_faithful_complete_and_minimal(name):
    case = CASES[name]
    pair = (compiled(40.0), case.clean, case.corrupt, mi.logit_diff(case.answer, case.wrong))
    result = circuit_faithfulness(*pair, sorted(case.edges), removed=2, minimality=True)
    assert result.faithfulness == pytest.approx(1, abs=0.02)
    assert set(result.circuit) == case.edges
    assert result.minimality.values.min() > 0.9
    torch.testing.assert_close(result.completeness.values[:, 0], result.completeness.values[:, 1], atol=0.02, rtol=0)
    scores = {str(edge): float(str(edge) in case.edges) for edge in Graph.of(pair[0]).edges}
    curve = circuit_curve(*pair, scores, sizes=[0, len(case.edges) - 1, len(case.edges), 1.0])
    assert curve.faithfulness.values.tolist() == pytest.approx([0, 0, 1, 1], abs=0.02)
    assert curve.cpr == pytest.approx(1 - (len(case.edges) - 0.5) / len(scores), abs=0.02)
    assert curve.cmd == pytest.approx((len(case.edges) - 0.5) / len(scores), abs=0.02)


def test_faithfulness_is_the_ratio_of_means():
    circuit = ["embed", "L0H1", "mlp 1", "L2H3"]
    result = circuit_faithfulness(model("llama"), CLEAN, CORRUPT, METRIC, circuit)
    found = logits("llama", Circuit.of(graph("llama"), circuit))
    clean, empty = (model("llama").run(rows).last_logits for rows in (CLEAN, CORRUPT))
    values = [(rows[:, 3] - rows[:, 5]) for rows in (found, clean, empty)]
    for mine, wanted in zip((result.metric, result.clean, result.empty), values, strict=True):
        torch.testing.assert_close(mine.values, wanted, atol=2e-5, rtol=1e-4)
    own, high, low = (float(value.mean()) for value in values)
    assert result.faithfulness == pytest.approx((own - low) / (high - low), abs=1e-3)
    assert result.total == 1 + 3 * 4 + 3
    assert result.completeness is result.minimality is None


def test_named_groups_and_single_members_are_taken_away():
    circuit, groups = ["embed", "L0H1", "mlp 1"], {"heads": ["L0H1"], "mlps": ["mlp 1"]}
    pair = (model("gpt2"), CLEAN, CORRUPT, METRIC)
    result = circuit_faithfulness(*pair, circuit, removed=groups, minimality=True)

    def alone(members):
        return circuit_faithfulness(*pair, members).faithfulness

    everything = [str(node) for node in graph("gpt2").senders]
    left = {"heads": ["embed", "mlp 1"], "mlps": ["embed", "L0H1"]}
    for name, members in left.items():
        assert result.completeness.sel(removed=name, of="circuit").item() == pytest.approx(alone(members), abs=1e-3)
        rest = [node for node in everything if node not in groups[name]]
        assert result.completeness.sel(removed=name, of="model").item() == pytest.approx(alone(rest), abs=1e-3)
    without = [abs(alone(circuit) - alone(left["heads"])), abs(alone(left["mlps"]) - alone(["embed"]))]
    assert result.minimality.sel(member="L0H1").item() == pytest.approx(max(without), abs=1e-3)


def test_padding_on_the_left_changes_nothing():
    ids, other = torch.tensor([[1, 2, 3, 4], [0, 5, 6, 7]]), torch.tensor([[9, 2, 8, 4], [60, 5, 16, 17]])
    mask = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1]])
    circuit = ["embed -> L0H2.q", "embed -> L1KV0.v", "L1H1 -> logits"]
    padded = circuit_faithfulness(model("llama"), ids, other, METRIC, circuit, attention_mask=mask)
    alone = circuit_faithfulness(model("llama"), CLEAN, CORRUPT, METRIC, circuit)
    torch.testing.assert_close(padded.metric.values, alone.metric.values, atol=2e-5, rtol=1e-4)


def test_circuits_are_read_from_files(tmp_path):
    nodes = {"nodes": ["embed", "L0H1"]}
    theirs = {
        "cfg": {},
        "nodes": {},
        "edges": {"input->a0.h1<v>": {"in_graph": True}, "m0->logits": {"in_graph": False}},
    }
    by_name = {Node("embed"), Node("head", 0, 1)}
    by_edge = {Edge(Node("embed"), Node("head", 0, 1, "v"))}
    for held, wanted in ((nodes, by_name), (nodes["nodes"], by_name), (theirs, by_edge)):
        path = tmp_path / "circuit.json"
        path.write_text(json.dumps(held))
        assert set(Circuit.of(graph("gpt2"), path).members) == wanted
    path.write_text("3")
    with pytest.raises(SelectorError, match="holds no circuit"):
        Circuit.of(graph("gpt2"), path)


def test_scores_rank_by_value_or_by_size():
    scores = {"L0H1": -3.0, "mlp 1": 2.0, "L2H3": 1.0}
    for by, first in (("value", "mlp 1"), ("size", "L0H1")):
        curve = circuit_curve(model("gpt2"), CLEAN, CORRUPT, METRIC, scores, sizes=[1, 2], by=by)
        alone = circuit_faithfulness(model("gpt2"), CLEAN, CORRUPT, METRIC, ["embed", first])
        assert curve.faithfulness.sel(size=1).item() == pytest.approx(alone.faithfulness, abs=1e-4)
    labels = Labelled(torch.tensor([-3.0, 2.0, 1.0]), ("node",), {"node": tuple(scores)})
    again = circuit_curve(model("gpt2"), CLEAN, CORRUPT, METRIC, labels, sizes=[1, 2], by="size")
    assert again.faithfulness == curve.faithfulness


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"circuit": ["L0H1"]}, "add 'embed'"),
        ({"circuit": ["embed", "embed -> logits"]}, "not of both"),
        ({"circuit": ["embed", "resid 1"]}, "name the nodes that it sums"),
        ({"circuit": ["mlp 2 -> L0H1.q"]}, "the sender writes later"),
        ({"circuit": ["embed -> L0H1"]}, "reads kv_head 0"),
        ({"circuit": ["embed -> L1KV5.k"]}, "no node 'L1KV5.k'"),
        ({"circuit": ["embed"], "ablation": "gone"}, "counterfactual"),
        ({"circuit": ["embed"], "corrupt": None}, "give corrupt prompts"),
        ({"circuit": ["embed"], "corrupt": [1, 2]}, "Use prompts cut into as many tokens"),
        ({"circuit": ["embed"], "corrupt": [1, 2, 5], "ablation": "mean"}, "give several of one length"),
        ({"circuit": ["embed"], "removed": {"a": ["mlp 0"]}}, "which the circuit has not"),
    ],
)
def test_what_makes_no_sense_is_refused(asked, message):
    given = {"clean": [1, 2, 3], "corrupt": [1, 2, 4], "metric": METRIC, **asked}
    with pytest.raises(SelectorError, match=message):
        circuit_faithfulness(model("llama"), **given)


def test_scores_and_metrics_that_say_nothing_are_refused():
    pair = (model("gpt2"), [1, 2, 3], [1, 2, 4], METRIC)
    with pytest.raises(ValueMismatch, match="not a number"):
        circuit_curve(*pair, {"L0H1": float("nan")})
    with pytest.raises(SelectorError, match="a share above 0"):
        circuit_curve(*pair, {"L0H1": 1.0}, sizes=[2])
    with pytest.raises(SelectorError, match='largest "size"'):
        circuit_curve(*pair, {"L0H1": 1.0}, by="name")
    with pytest.raises(ValueMismatch, match="Choose other answers"):
        circuit_faithfulness(model("gpt2"), [1, 2, 3], [1, 2, 3], METRIC, ["embed"])


def test_recurrent_layers_are_nodes_but_have_no_edges():
    config = {"model_type": "rwkv", "vocab_size": 61, "hidden_size": 16, "num_hidden_layers": 2, "context_length": 32}
    recurrent = mi.build(config, trainable=False, device="cpu")
    initialise_randomly(recurrent, 1)
    pair = (recurrent, [1, 2, 3], [1, 4, 3], METRIC)
    result = circuit_faithfulness(*pair, ["embed", "attn 0", "mlp 0", "attn 1", "mlp 1"])
    assert result.faithfulness == pytest.approx(1, abs=1e-3)
    with pytest.raises(UnsupportedAnalysis, match="Use a circuit of nodes"):
        circuit_faithfulness(*pair, ["embed -> mlp 0", "mlp 0 -> logits"])


def test_circuits_are_judged_from_a_shell(tmp_path, capsys):
    argv = ["circuit", "tiny-world", "The capital of France is", "The capital of Italy is", "--answer", " Paris"]
    files = ["--html", str(tmp_path / "c.html"), "--json", str(tmp_path / "c.json")]
    nodes = ["--wrong", " Rome", "--nodes", "embed,L1H0,L1H2,L1H3", "--removed", "1", "--minimality"]
    assert main([*argv, *nodes, *files]) == 0
    shown = capsys.readouterr().out
    assert "4 of 21 nodes: embed, L1H0, L1H2, L1H3" in shown
    assert "completeness" in (tmp_path / "c.html").read_text()
    result = CircuitFaithfulness.from_json(tmp_path / "c.json")
    assert f"Faithfulness {result.faithfulness:.2f}" in shown
    scores = tmp_path / "scores.json"
    scores.write_text(json.dumps({"L1H3": 0.3, "L1H0": 0.2, "mlp 0": 0.1}))
    assert main([*argv, "--scores", str(scores), "--ablation", "zero", "--json", str(tmp_path / "s.json")]) == 0
    assert "CPR" in capsys.readouterr().out
    assert CircuitCurve.from_json(tmp_path / "s.json").total == 3
    assert main(argv) != 0
    assert "--scores" in capsys.readouterr().err
