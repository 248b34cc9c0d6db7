from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import SEEDS, laid_out, random, small
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.generation.logits_process import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

import mi_core as mi
from mi_core.building import save_model
from mi_core.sampling import Sampling

IDS = st.lists(st.integers(0, 60), min_size=1, max_size=6)
SOME = st.lists(IDS, min_size=1, max_size=3)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The small model in the reference library."""
    folder = tmp_path_factory.mktemp("small")
    save_model(small(), folder)
    return LlamaForCausalLM.from_pretrained(folder, config=LlamaConfig.from_pretrained(folder)).eval()


@pytest.mark.parametrize("penalty", [1.0, 1.3, 0.7])
@pytest.mark.parametrize("ids", [[1, 2, 3], [5, 5, 9, 60], [17]])
def test_greedy_tokens_are_those_of_the_reference(ids: list[int], penalty: float, reference: Any) -> None:
    wanted = reference.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=12,
        do_sample=False,
        repetition_penalty=penalty,
        eos_token_id=None,
        pad_token_id=0,
    )
    for cache in (True, False):
        made = small().generate(ids, max_new_tokens=12, repetition_penalty=penalty, cache=cache)
        assert made.tokens.tolist() == wanted.tolist()
    if penalty == 1.3:
        assert len(set(made.new_tokens[0])) > len(set(small().generate(ids, max_new_tokens=12).new_tokens[0]))


@given(
    SEEDS,
    IDS,
    st.floats(0.1, 3.0),
    st.integers(1, 70) | st.none(),
    st.floats(0.01, 1.0) | st.none(),
    st.floats(0.5, 2.0),
)
def test_what_is_sampled_from_is_what_the_reference_samples_from(
    seed: int, ids: list[int], temperature: float, top_k: int | None, top_p: float | None, penalty: float
) -> None:
    logits = 3 * random(1, 61, seed=seed)
    wanted = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([ids]), logits.clone())
    wanted = TemperatureLogitsWarper(temperature)(torch.tensor([ids]), wanted)
    wanted = wanted if top_k is None else TopKLogitsWarper(top_k)(torch.tensor([ids]), wanted)
    wanted = wanted if top_p is None else TopPLogitsWarper(top_p)(torch.tensor([ids]), wanted)
    sampling = Sampling.of(temperature, top_k, top_p, penalty, 0, 1)
    seen = sampling._narrowed(sampling._penalised(logits, [ids]) / temperature)
    torch.testing.assert_close(seen, wanted)


def test_samples_have_the_probabilities_of_the_model() -> None:
    logits = random(1, 8, seed=1).expand(4000, 8)
    sampling = Sampling.of(0.7, None, None, 1.0, 5, 4000)
    counts = torch.zeros(8)
    for position in range(5):
        drawn = sampling.choose(logits, range(4000), [position] * 4000, [[0]] * 4000)
        counts += torch.bincount(torch.tensor(drawn), minlength=8)
    assert float((counts / counts.sum() - (logits[0] / 0.7).softmax(-1)).abs().max()) < 0.01


@settings(max_examples=8)  # each is many runs
@given(SOME, SEEDS, st.booleans())
def test_a_sample_is_a_function_of_seed_row_and_position(rows: list[list[int]], seed: int, cache: bool) -> None:
    ids, mask = laid_out(rows, "right")
    drawn: dict[str, Any] = {"temperature": 1.0, "top_k": 20, "top_p": 0.9, "max_new_tokens": 4}
    made = small().generate(ids, attention_mask=mask, seed=seed, **drawn)
    assert made.seed == seed
    again = small().generate(ids, attention_mask=mask, seed=seed, cache=cache, **drawn)
    assert made.new_tokens == again.new_tokens
    assert small().generate(rows[:1], seed=seed, **drawn).new_tokens == made.new_tokens[:1]
    seeds = [seed + 7 * number for number in range(len(rows))]
    own = small().generate(ids, attention_mask=mask, seed=seeds, **drawn)
    for row, ids_of_row in enumerate(rows):
        assert small().generate(ids_of_row, seed=seeds[row], **drawn).new_tokens == own.new_tokens[row : row + 1]


def test_other_seeds_rows_and_positions_sample_other_tokens() -> None:
    drawn: dict[str, Any] = {"temperature": 50.0, "max_new_tokens": 20}
    one, two = (small().generate([[1, 2]] * 2, seed=seed, **drawn).new_tokens for seed in (1, 2))
    assert one[0] != one[1] != two[1]
    assert one[0] != two[0]
    assert len(set(one[0])) > 5
    free = small().generate([[1, 2]], **drawn)
    assert free.seed is not None
    assert small().generate([[1, 2]], seed=free.seed, **drawn).new_tokens == free.new_tokens
    assert small().generate([[1, 2]], max_new_tokens=1).seed is None


def test_an_edit_that_changes_nothing_samples_the_same() -> None:
    edit = mi.intervene("blocks.0.hook_resid_post", mi.Add(1e-7))
    drawn: dict[str, Any] = {"temperature": 1.0, "max_new_tokens": 20, "seed": 3}
    assert small().generate([[1]], edit, **drawn).new_tokens == small().generate([[1]], **drawn).new_tokens
