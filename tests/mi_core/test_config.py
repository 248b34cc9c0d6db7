from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mi_core.config import Config
from mi_core.errors import BadConfig

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
objects = st.dictionaries(st.text(min_size=1, max_size=4), json_values, max_size=6)


@given(objects, st.data())
def test_what_was_read_and_what_was_not_make_up_the_whole(values: dict[str, Any], data: st.DataObject) -> None:
    config = Config(values)
    read = data.draw(st.sets(st.sampled_from(sorted(values)))) if values else set()
    for key in read:
        assert config[key] == values[key]
    assert config.unread() == {key: what for key, what in values.items() if key not in read and what is not None}
    assert config.plain() == values


def test_looking_at_the_names_reads_nothing() -> None:
    config = Config({"a": 1, "b": {"c": 2}})
    assert "a" in config
    assert list(config) == ["a", "b"]
    assert config.plain() == {"a": 1, "b": {"c": 2}}
    assert config.unread() == {"a": 1, "b": {"c": 2}}


def test_keys_of_a_child_count_one_by_one_and_a_whole_value_counts_at_once() -> None:
    config = Config({"rope": {"base": 1e4, "factor": 2.0, "deep": {"x": 1, "y": 2}}, "other": {"z": 1}})
    rope = config.child("rope")
    assert rope.number("base") == 1e4
    assert rope.child("deep").size("x") == 1
    assert config["other"] == {"z": 1}
    assert config.unread() == {"rope.factor": 2.0, "rope.deep.y": 2}
    assert config.child("rope") is rope


def test_a_missing_key_names_the_key_the_file_and_what_is_there() -> None:
    with pytest.raises(BadConfig, match="hidden_size") as caught:
        Config({"hiden_size": 1, "x": 2}, where="/models/a/config.json")["hidden_size"]
    message = str(caught.value)
    assert "/models/a/config.json" in message
    assert "hiden_size" in message
    assert caught.value.key == "hidden_size"


def test_a_missing_key_of_a_child_is_named_with_its_path() -> None:
    with pytest.raises(BadConfig, match=r"'rope\.factor'"):
        Config({"rope": {}}).child("rope").number("factor")


@given(json_values)
def test_a_size_is_a_positive_whole_number_within_bounds_or_refused(value: Any) -> None:
    config = Config({"width": value})
    whole = (type(value) is int or (isinstance(value, float) and value.is_integer())) and 1 <= value <= 100
    if whole:
        assert config.size("width", at_most=100) == int(value)
        assert not config.unread()
    else:
        with pytest.raises(BadConfig, match="width"):
            config.size("width", at_most=100)


@pytest.mark.parametrize("key", ["num_hidden_layers", "n_layer", "num_attention_heads", "vocab_size", "hidden_size"])
@pytest.mark.parametrize("value", [0, -1, 10**12, 10**400, 1e300, True, "64", [64], 2.5, float("inf"), float("nan")])
def test_absurd_sizes_are_refused_without_being_asked_for_bounds(key: str, value: Any) -> None:
    with pytest.raises(BadConfig, match=key):
        Config({key: value}).size(key)


@pytest.mark.parametrize("value", [True, "1", float("nan"), float("inf"), 10**400, [], {}])
def test_a_number_must_be_finite(value: Any) -> None:
    with pytest.raises(BadConfig, match="eps"):
        Config({"eps": value}).number("eps")


def test_a_number_out_of_bounds_is_refused_with_the_bounds() -> None:
    with pytest.raises(BadConfig, match=r"from 0 to 1"):
        Config({"eps": 2}).number("eps", at_least=0, at_most=1)


@pytest.mark.parametrize("value", [0, 1, "true", []])
def test_a_flag_is_true_or_false_and_nothing_like_it(value: Any) -> None:
    with pytest.raises(BadConfig, match="bias"):
        Config({"bias": value}).flag("bias")


def test_a_choice_lists_the_options() -> None:
    assert Config({"act": "silu"}).choice("act", ("silu", "gelu")) == "silu"
    with pytest.raises(BadConfig, match="'silu', 'gelu'"):
        Config({"act": "mish"}).choice("act", ("silu", "gelu"))


def test_null_and_absent_take_the_default_of_typed_readers_but_get_says_null() -> None:
    config = Config({"window": None})
    assert config.size("window", default=4096) == config.size("absent", default=4096) == 4096
    assert config.size("window", default=None) is None
    assert config.flag("window", default=True)
    assert config.get("window", 4096) is None
    assert config.get("absent", 4096) == 4096
    assert dict(config.child("window", {})) == {}
    with pytest.raises(BadConfig, match="null"):
        config.size("window")
