"""What does a training batch hold? Rows of sentences of mixed skills, and rows of repeated random sequences.

A row has at most one sentence with names and one with nouns, and no random row has a held-out pair, so that a
held-out pair never meets in one context. Every batch is a function of the seed and the step: training can stop and
resume anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

import torch
from jaxtyping import Float, Int
from tokenizers import Tokenizer
from torch import Tensor

from mi_registry.tiny_world import splits
from mi_registry.tiny_world.sentences import SKILLS, Sentence

__all__ = ["Rows", "Vocabulary", "batch", "random_row", "text_row"]

ONCE = ("indirect_object", "agreement")
"""Skills with at most one sentence in a row."""
OFTEN = {"facts": 0.62, "sentiment": 0.14, "modular_sums": 0.24}
"""The share of each skill among the other sentences of a row."""
OTHER_WORDS = 0.1
"""The weight of a word of a sentence that is not its answer."""
RANDOM_SHARE = 0.45
"""The share of rows that repeat random sequences."""


@dataclass(frozen=True)
class Rows:
    """Token ids, and the weight of each prediction: of column ``i + 1`` from the columns up to ``i``."""

    ids: Int[Tensor, "row column"]
    weights: Float[Tensor, "row column_less_one"]


class Vocabulary:
    """The tokens that random sequences draw from: all but BOS, and which of them must never meet.

    ``texts`` has the text of each id.
    """

    def __init__(self, texts: Sequence[str], bos: int) -> None:
        words = [text.strip() for text in texts]
        self.bos = bos
        self.ids: list[int] = [i for i in range(len(words)) if i != bos]
        held = [i for i in self.ids if words[i] in splits.PAIRED]
        self.never: dict[int, frozenset[int]] = {
            i: frozenset(j for j in held if splits.words_never_meet(words[i], words[j])) for i in held
        }

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Vocabulary:
        """The vocabulary of a tokenizer of the library ``tokenizers``."""
        ids = range(tokenizer.get_vocab_size())
        return cls([tokenizer.decode([i]) for i in ids], bos=tokenizer.encode("").ids[0])

    def draw(self, random: Random, length: int, beside: Iterable[int] = ()) -> list[int]:
        """Random ids such that no held-out pair meets among them and the ids ``beside`` them."""
        ids: list[int] = []
        present = set(beside)
        while len(ids) < length:
            new = random.choice(self.ids)
            if self.never.get(new, frozenset()).isdisjoint(present):
                ids.append(new)
                present.add(new)
        return ids

    def sequence(self, random: Random, length: int) -> list[int]:
        """A random sequence that may be repeated in training."""
        while splits.sequence_is_held_out(ids := self.draw(random, length)):
            pass
        return ids


def text_row(random: Random, words: int) -> list[Sentence]:
    """Sentences of mixed skills, at least ``words`` words in all."""
    sentences = [SKILLS[skill](random) for skill in ONCE]
    while sum(str(sentence).count(" ") + 1 for sentence in sentences) < words:
        [skill] = random.choices(tuple(OFTEN), weights=tuple(OFTEN.values()))
        sentences.append(SKILLS[skill](random))
    random.shuffle(sentences)
    return sentences


def text_rows(
    sentences: Sequence[Sequence[Sentence]], tokenizer: Tokenizer, columns: int
) -> Iterator[tuple[list[int], list[float]]]:
    """Each row's ids and weights: one for the answers, less for the words that nothing foretells."""
    encodings = tokenizer.encode_batch([" ".join(map(str, row)) for row in sentences])
    for row, encoding in zip(sentences, encodings, strict=True):
        weights = [OTHER_WORDS] * columns
        start = 0
        for sentence in row:
            answer = encoding.char_to_token(start + len(sentence.beginning) + 1)
            if answer is not None and answer < columns:
                weights[answer] = 1.0
            start += len(str(sentence)) + 1
        yield encoding.ids[:columns], weights[1:]


def random_row(random: Random, vocabulary: Vocabulary, columns: int) -> tuple[list[int], list[float]]:
    """A random sequence repeated to the end of the row, half the time behind random gaps, and the weights.

    A weight is one where the sequence foretells the token: from the second token of each repetition on.
    """
    length = random.randint(3, (columns - 1) // 2)
    longest_gap = random.choice((0, 6))
    once = vocabulary.sequence(random, length)
    ids = [vocabulary.bos, *once]
    foretold = [0.0] * len(ids)
    while len(ids) < columns:
        gap = vocabulary.draw(random, random.randint(0, longest_gap), beside=ids)
        ids += [*gap, *once]
        foretold += [*[0.0] * (len(gap) + 1), *[1.0] * (length - 1)]
    return ids[:columns], foretold[1:columns]


def batch(step: int, *, seed: int, tokenizer: Tokenizer, vocabulary: Vocabulary, shape: tuple[int, int]) -> Rows:
    """The rows of one training step, ``shape`` rows by columns, the same for the same seed and step."""
    rows, columns = shape
    random = Random(f"tiny-world {seed} {step}")
    repeated = round(rows * RANDOM_SHARE)
    drawn = [random_row(random, vocabulary, columns) for _ in range(repeated)]
    texts = [text_row(random, columns) for _ in range(rows - repeated)]
    drawn += text_rows(texts, tokenizer, columns)
    return Rows(torch.tensor([ids for ids, _ in drawn]), torch.tensor([weights for _, weights in drawn]))
