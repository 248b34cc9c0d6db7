import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import close, random, small

import mi_core as mi
from mi_analyses import SteeringVector, steering_vectors
from mi_core.errors import InputError, SelectorError, ValueMismatch
from mi_core.testing import subjects

MODEL = small()
PROMPTS = st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=4), min_size=1, max_size=3)
STREAM = mi.capture("blocks.*.hook_resid_post")


@settings(max_examples=5)
@given(PROMPTS, PROMPTS)
def test_a_vector_is_the_difference_of_the_means_over_prompts_run_alone(positive, negative):
    made = steering_vectors(MODEL, positive, negative)
    assert list(made) == [0, 1, 2]
    for layer, vector in made.items():
        means = [
            torch.stack([MODEL.run(row, STREAM).at(vector.point, pos=-1)[0] for row in rows]).mean(0)
            for rows in (positive, negative)
        ]
        close(vector.vector, means[0] - means[1])
        assert vector.point == f"blocks.{layer}.hook_resid_post"


def test_sites_layers_and_positions_are_chosen():
    heads = steering_vectors(MODEL, [[1, 2]], [[3, 4]], site="attn.hook_z", layers=[1], pos=0)
    assert list(heads) == [1]
    assert heads[1].vector.shape == (4, 4)
    runs = [MODEL.run(row, mi.capture(heads[1].point)).at(heads[1].point, pos=0)[0] for row in ([1, 2], [3, 4])]
    close(heads[1].vector, runs[0] - runs[1])


def test_steering_adds_the_vector_and_removing_leaves_nothing_of_it():
    vector = SteeringVector.given(MODEL, random(16), "blocks.1.resid_post")
    assert vector.point == "blocks.1.hook_resid_post"
    steered, plain = MODEL.run([1, 2, 3], vector.steer(MODEL, 2.0) + STREAM), MODEL.run([1, 2, 3], STREAM)
    close(steered[vector.point][0, -1], plain[vector.point][0, -1] + 2 * vector.vector)
    close(steered[vector.point][0, :-1], plain[vector.point][0, :-1])


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "rwkv7", "openai-gpt"])
def test_nothing_of_a_removed_direction_is_left_in_any_stream(family):
    subject = subjects(family)[0]
    model, width = subject.model, subject.model.shape.d_model
    direction = random(width)
    removed = SteeringVector.given(model, direction, "blocks.0.hook_resid_post").remove(model)
    run = model.run([1, 2, 3], removed + mi.capture("blocks.*.hook_resid_post"))
    streams = run.stack("hook_resid_post")
    assert float((streams @ (direction / direction.norm())).abs().max()) < 1e-5 * float(streams.norm(dim=-1).max())
    whole = model.run([1, 2, 3], mi.capture("blocks.*.hook_resid_post")).stack("hook_resid_post")
    assert float((whole @ (direction / direction.norm())).abs().min()) > 1e-6


def test_a_saved_vector_is_the_same_and_the_same_vector_makes_the_same_file(tmp_path):
    vector = steering_vectors(MODEL, [[1, 2]], [[3]])[2]
    vector.save(tmp_path / "one.safetensors")
    again = SteeringVector.load(tmp_path / "one.safetensors")
    assert again == vector
    assert hash(again) == hash(vector)
    assert again != SteeringVector.given(MODEL, vector.vector, vector.point)
    again.save(tmp_path / "two.safetensors")
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()


def test_vectors_are_refused_where_they_do_not_belong(tmp_path):
    vector = steering_vectors(MODEL, [[1, 2]], [[3]])[1]
    other = mi.Model(MODEL.backend, name="llama", config=MODEL.config)
    for act in (vector.steer, vector.remove):
        with pytest.raises(ValueMismatch, match="other_model=True"):
            act(other)
        assert act(other, other_model=True)
    wide = small(hidden_size=32)
    with pytest.raises(ValueMismatch, match=r"\[32\]"):
        vector.steer(wide, other_model=True)
    with pytest.raises(ValueMismatch, match=r"\[32\]"):
        SteeringVector.given(wide, random(16), "blocks.0.hook_mlp_out")
    with pytest.raises(ValueMismatch, match="no direction of the residual stream"):
        SteeringVector.given(MODEL, random(4, 4), "blocks.0.attn.hook_z").remove(MODEL)
    with pytest.raises(ValueMismatch, match="does not fit"):
        SteeringVector.given(MODEL, random(3), "blocks.0.attn.hook_pattern")
    with pytest.raises(SelectorError, match="belongs to one"):
        SteeringVector.given(MODEL, random(16), "blocks.*.hook_resid_post")
    with pytest.raises(InputError, match="positive"):
        steering_vectors(MODEL, [], [[1]])
    with pytest.raises(SelectorError, match="several positions"):
        steering_vectors(MODEL, [[1, 2]], [[3, 4]], pos=slice(None))


def test_files_that_are_no_vectors_are_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"vector": random(16)}, tmp_path / "plain.safetensors")
    with pytest.raises(InputError, match="holds no steering vector"):
        SteeringVector.load(tmp_path / "plain.safetensors")
    (tmp_path / "text.safetensors").write_text("no", encoding="utf-8")
    for name in ("text.safetensors", "absent.safetensors"):
        with pytest.raises(InputError, match="cannot be read"):
            SteeringVector.load(tmp_path / name)
