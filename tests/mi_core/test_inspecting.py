import json

import pytest
from small_models import small

import mi_core as mi
from mi_core.cli.main import main
from mi_core.errors import BadConfig, MissingTensors, UnknownFamily, UnusedConfig
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
