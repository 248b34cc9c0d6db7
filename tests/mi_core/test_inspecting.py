import json

import pytest
from small_models import small

import mi_core as mi
from mi_core.cli.main import main
from mi_core.errors import BadConfig, LoadError, MissingTensors, UnknownFamily, UnusedConfig
from mi_core.fill import slots
from mi_core.tensors import TensorIndex
from mi_families import gpt2, mixtral, rwkv7

CONFIGS = [gpt2.mi_family_examples()[0], mixtral.mi_family_examples()[0], rwkv7.mi_family_examples()[0]]


@pytest.fixture
def unread(monkeypatch):
    """Nobody may read a tensor."""
    monkeypatch.setattr(TensorIndex, "tensor", lambda *_: pytest.fail("a weight was read"))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config["model_type"])
def test_headers_tell_what_loading_makes(config, tmp_path, monkeypatch):
    model = mi.build(config, trainable=False)
    mi.save_model(model, tmp_path)
    loaded = mi.load(tmp_path)
    unique = {tensor.data_ptr(): tensor.numel() for tensor in slots(loaded.backend).values()}
    monkeypatch.setattr(TensorIndex, "tensor", lambda *_: pytest.fail("a weight was read"))
    found = mi.inspect(tmp_path)
    assert found.problem is None
    assert found.parameters == sum(unique.values())
    assert found.memory["float32"] == 4 * found.parameters
    assert found.sizes["n_layers"] == loaded.shape.n_layers
    assert sum(text.count("layer") for text in found.layers) >= 1


def test_a_token_leaves_as_many_numbers_as_inspection_says(tmp_path):
    mi.save_model(small(), tmp_path)
    memory = small().run([1, 2, 3], resumable=True).memory()
    kept = sum(t.numel() for name, t in memory.tensors().items() if name.endswith(("keys", "values")))
    assert mi.inspect(tmp_path).cache == kept // 3


BROKEN = [
    ({"model_type": "nobody"}, UnknownFamily),
    ({"hidden_size": None}, BadConfig),
    ({"num_hidden_layers": 4}, MissingTensors),
    ({"number_of_thoughts": 3}, UnusedConfig),
]


@pytest.mark.parametrize(("change", "error"), BROKEN)
def test_the_verdict_is_the_error_of_loading(change, error, tmp_path, capsys):
    mi.save_model(small(), tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text(encoding="utf-8")) | change), encoding="utf-8")
    found = mi.inspect(tmp_path)
    assert isinstance(found.problem, error)
    with pytest.raises(error):
        mi.load(tmp_path)
    assert main(["inspect", str(tmp_path)]) == 1
    assert "would not load" in capsys.readouterr().out


def test_the_command_says_what_there_is(capsys, unread):
    assert main(["inspect", "tiny-world"]) == 0
    printed = capsys.readouterr().out
    assert "722,048" in printed
    assert "layers 0 to 3: 4 heads of 32 on 2 keys and values" in printed
    assert main(["inspect", "tiny-world-rwkv7"]) == 0
    assert "recurrent, states 4 x 32 x 32" in capsys.readouterr().out


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config["model_type"])
def test_where_things_would_go_is_where_loading_puts_them(config, tmp_path, monkeypatch):
    mi.save_model(mi.build(config, trainable=False), tmp_path)
    largest = max(unit.bytes for unit in mi.load(tmp_path, device_map={"": "disk"}).backend.units.values())
    asked = {"device_map": "auto", "max_memory": {"cpu": 3 * largest}, "dtype": "float32"}
    wanted = mi.load(tmp_path, **asked).backend
    monkeypatch.setattr(TensorIndex, "tensor", lambda *_: pytest.fail("a weight was read"))
    found = mi.inspect(tmp_path, **asked).placement
    assert list(found.uses) == wanted.uses
    assert found.brought == sum(lent.bytes for lent in wanted.offloaded.values())


def test_a_placement_is_told_for_devices_that_are_not_here(capsys):
    limits = "cuda:6=1200kB, 7=700kB, cpu=1GB"
    assert main(["inspect", "tiny-world", "--device-map", "sequential", "--max-memory", limits]) == 0
    said = capsys.readouterr().out
    assert "embedding and unembedding: 525 kB on cuda:6, in float32" in said
    assert "layer 0: 591 kB on cuda:7" in said
    assert "each pass  1.8 MB of weights come to cuda:6 and go" in said


def test_limits_that_say_nothing_are_refused(capsys):
    assert main(["inspect", "tiny-world", "--device-map", "auto", "--max-memory", "cpu"]) == 2
    assert "cuda:0=10GB" in capsys.readouterr().err
    with pytest.raises(LoadError, match="goes with device_map"):
        mi.inspect("tiny-world", max_memory={"cpu": 1})
