import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import small

import mi_core as mi
from mi_analyses.graph_nodes import Edge, Graph, Node
from mi_core.building import initialise_randomly
from mi_core.errors import SelectorError

GPT = {"model_type": "gpt2", "vocab_size": 61, "n_embd": 16, "n_layer": 3, "n_head": 4, "n_positions": 32}
CONFIGS = {"in sequence": GPT, "in parallel": {**GPT, "model_type": "gptj", "rotary_dim": 4}}
NUMBERS = st.integers(0, 40)
NODES = st.one_of(
    st.just(Node("embed")),
    st.just(Node("logits")),
    st.builds(Node, st.sampled_from(["mlp", "attn", "resid"]), NUMBERS),
    st.builds(Node, st.just("head"), NUMBERS, NUMBERS, st.sampled_from(["", "q", "k", "v"])),
    st.builds(Node, st.just("kv_head"), NUMBERS, NUMBERS, st.sampled_from(["k", "v"])),
)


def built(config):
    model = mi.build(config, trainable=False, device="cpu")
    initialise_randomly(model, 1)
    return model


@given(NODES, NODES)
def test_names_are_read_back(sender, receiver):
    edge = Edge(sender, receiver)
    assert Edge.parse(str(edge)) == edge
    assert Node.parse(str(sender)) == sender


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_sender_feeds_exactly_the_inputs_that_it_changes(kind):
    """Every sender's write is changed with all others held: the streams that move are those that it feeds."""
    model = built(CONFIGS[kind])
    graph = Graph.of(model)
    streams = {graph.stream(reader): reader for reader in graph.receivers}
    made = sorted({graph.made_of(sender).point for sender in graph.senders if sender.kind != "embed"})
    base = model.run([[1, 2, 3]], mi.capture([*made, *streams]))
    for sender in graph.senders:
        held = mi.intervene(made, mi.Replace(base))
        moved = held + graph.made_of(sender).write(mi.Add(1.0)) + mi.capture(streams)
        run = model.run([[1, 2, 3]], moved)
        for stream, reader in streams.items():
            differs = not torch.allclose(run[stream], base[stream], atol=1e-6)
            assert differs == graph.feeds(sender, reader), f"{sender} to {reader}"


@pytest.mark.parametrize("kind", CONFIGS)
def test_what_a_node_wrote_is_what_its_output_holds(kind):
    model = built(CONFIGS[kind])
    graph = Graph.of(model)
    points = {place.point for sender in graph.senders for place in (graph.output(sender), graph.made_of(sender))}
    run = model.run([[1, 2, 3]], mi.capture(sorted(points)))
    for sender in graph.senders:
        place = graph.output(sender)
        wanted = run[place.point] if sender.kind != "head" else run[place.point][:, :, sender.head]
        torch.testing.assert_close(next(graph.written(model, [run], [sender]))[0], wanted)


def test_the_nodes_of_a_model_with_grouped_queries_are_these():
    graph = Graph.of(small(num_hidden_layers=1))
    assert [str(node) for node in graph.senders] == ["embed", "L0H0", "L0H1", "L0H2", "L0H3", "mlp 0"]
    assert [str(node) for node in graph.receivers] == [
        *("L0H0.q", "L0H1.q", "L0H2.q", "L0H3.q", "L0KV0.k", "L0KV1.k", "L0KV0.v", "L0KV1.v", "mlp 0", "logits")
    ]
    assert len(graph.edges) == 8 * 1 + 5 + 6
    assert [str(reader) for reader in Graph.of(built(GPT)).readers("L1H2")] == ["L1H2.q", "L1H2.k", "L1H2.v"]


def test_attention_is_one_node_where_that_is_asked_for_or_heads_do_not_add_up():
    names = ["embed", "attn 0", "mlp 0", "attn 1", "mlp 1", "attn 2", "mlp 2"]
    assert [str(node) for node in Graph.of(small(), heads=False).senders] == names
    multiplied = {"model_type": "granite", "residual_multiplier": 0.5, "num_hidden_layers": 3, "hidden_size": 16}
    sizes = {"vocab_size": 61, "intermediate_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2}
    assert [str(node) for node in Graph.of(built({**multiplied, **sizes})).senders] == names


@pytest.mark.parametrize(
    ("name", "message"),
    [("L0H9", "no node 'L0H9' that writes"), ("logits", "no node 'logits' that writes"), ("heads", "names no node")],
)
def test_unknown_senders_are_refused(name, message):
    with pytest.raises(SelectorError, match=message):
        Graph.of(small()).sender(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("embed", "write 'SENDER -> RECEIVER'"),
        ("mlp 2 -> mlp 0", "the sender writes later"),
        ("mlp 0 -> embed", "no node 'embed' that reads"),
        ("mlp 0 -> L1H1", "reads kv_head 0"),
    ],
)
def test_unknown_edges_are_refused(name, message):
    with pytest.raises(SelectorError, match=message):
        Graph.of(small()).edge(name)
