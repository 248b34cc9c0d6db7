"""Nothing that is held out is ever said, and everything else is the same at every call."""

from __future__ import annotations

from collections import Counter
from importlib.resources import files
from itertools import combinations, pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel

from mi_registry.tiny_world import sentences, splits, words
from mi_registry.tiny_world.prompts import HELD_OUT, held_out, repeated_sequences
from mi_registry.tiny_world.rows import Vocabulary, batch
from mi_registry.tiny_world.world import COUNTRIES, PHRASINGS, facts

ROWS = 64
WORDS = ByteLevel(add_prefix_space=False)


@pytest.fixture(scope="module")
def made() -> Tokenizer:
    return Tokenizer.from_str((files("mi_registry") / "tiny_world" / "tokenizer.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def sample(made: Tokenizer) -> list[list[str]]:
    """The tokens of 6,400 training rows, each without its leading space."""
    vocabulary = Vocabulary.of(made)
    texts = [made.decode([i]).strip() for i in range(made.get_vocab_size())]
    rows = []
    for step in range(100):
        drawn = batch(step, seed=0, tokenizer=made, vocabulary=vocabulary, shape=(ROWS, 64))
        rows += [[texts[i] for i in row] for row in drawn.ids.tolist()]
    return rows


def test_no_held_out_pair_of_names_or_nouns_meets_in_a_row(sample: list[list[str]]) -> None:
    for row in sample:
        paired = sorted(set(row) & splits.PAIRED)
        assert [pair for pair in combinations(paired, 2) if splits.words_never_meet(*pair)] == []


def test_no_held_out_prompt_with_its_answer_is_in_the_training_rows(sample: list[list[str]]) -> None:
    rows = [" ".join(row) for row in sample]
    text = "\n".join(rows)
    spaced = [
        " ".join(word for word, _ in WORDS.pre_tokenize_str(prompt.text + answer)).replace("Ġ", "")
        for skill in HELD_OUT
        for prompt in held_out(skill)
        for answer in prompt.right
    ]
    assert [prompt for prompt in spaced if prompt in text] == []
    france = " ".join(word for word, _ in WORDS.pre_tokenize_str("The country France has its capital in Paris"))
    assert france.replace("Ġ", "") in text  # what is not held out is there, spelled like this


def test_no_held_out_sequence_is_repeated(made: Tokenizer) -> None:
    vocabulary = Vocabulary.of(made)
    random = Random(0)
    assert not any(splits.sequence_is_held_out(vocabulary.sequence(random, 9)) for _ in range(500))
    sequences = repeated_sequences(vocabulary)
    assert all(splits.sequence_is_held_out(row[1 : len(row) // 2 + 1]) for row in sequences)
    assert all(row[1 : len(row) // 2 + 1] == row[len(row) // 2 + 1 :] for row in sequences)
    assert len({tuple(row) for row in sequences}) == len(sequences) >= 200


@pytest.mark.parametrize("skill", HELD_OUT)
def test_every_skill_has_two_hundred_different_held_out_prompts(skill: str) -> None:
    prompts = held_out(skill)
    assert len({prompt.text for prompt in prompts}) >= 200
    assert prompts == held_out(skill)


def test_held_out_facts_are_said_otherwise_and_their_phrasings_of_others() -> None:
    said = Counter((fact, phrasing) for fact, phrasing in sentences.FACTS)
    for fact in facts():
        phrasing = splits.held_out_phrasing(fact)
        assert said[fact, phrasing] == 0
        assert sum(said[fact, other] for other in range(len(PHRASINGS[fact.relation]))) == 5
        assert sum(said[other, phrasing] for other in facts() if other.relation == fact.relation) >= 50


@given(st.integers(0, 2**32), st.sampled_from(sorted(sentences.SKILLS)))
def test_no_sentence_says_what_is_held_out(seed: int, skill: str) -> None:
    sentence = sentences.SKILLS[skill](Random(seed))
    assert sentence.beginning not in {prompt.text for prompt in held_out(skill)}
    found = {word.strip(".,") for word in str(sentence).split()} & splits.PAIRED
    assert not any(splits.words_never_meet(*pair) for pair in combinations(sorted(found), 2))


@given(st.sampled_from(words.NAMES), st.sampled_from(words.NAMES), st.integers(0, 11), st.integers(0, 11))
def test_rules_do_not_depend_on_the_order(first: str, second: str, one: int, other: int) -> None:
    assert splits.names_are_held_out(first, second) == splits.names_are_held_out(second, first)
    assert splits.sum_is_held_out(one, other, 12) == splits.sum_is_held_out(other, one, 12)


def test_batches_are_functions_of_seed_and_step(made: Tokenizer) -> None:
    vocabulary = Vocabulary.of(made)

    def ids(seed: int, step: int) -> list[list[int]]:
        drawn = batch(step, seed=seed, tokenizer=made, vocabulary=vocabulary, shape=(8, 32))
        return drawn.ids.tolist()

    assert ids(3, 5) == ids(3, 5)
    assert ids(3, 5) != ids(3, 6)
    assert ids(3, 5) != ids(4, 5)


def test_weights_are_one_exactly_where_a_sequence_comes_again(made: Tokenizer) -> None:
    drawn = batch(0, seed=0, tokenizer=made, vocabulary=Vocabulary.of(made), shape=(ROWS, 64))
    for row, weights in zip(drawn.ids.tolist(), drawn.weights.tolist(), strict=True):
        if set(weights) <= {0.0, 1.0}:  # a row of repeated random sequences
            foretold = [column + 1 for column, weight in enumerate(weights) if weight == 1.0]
            pairs = set(pairwise(row[: foretold[0]]))
            assert all((row[column - 1], row[column]) in pairs for column in foretold)


def test_every_country_is_different_from_every_other() -> None:
    for column in ("country", "capital"):
        assert len({getattr(row, column) for row in COUNTRIES}) == len(COUNTRIES)
