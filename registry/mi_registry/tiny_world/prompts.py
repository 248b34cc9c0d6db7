"""What is each skill asked? Held-out prompts only: at least 200 of each skill, the same at every call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from random import Random

from mi_registry.tiny_world import sentences, splits, words
from mi_registry.tiny_world.rows import Vocabulary
from mi_registry.tiny_world.sentences import Sentence
from mi_registry.tiny_world.world import facts

__all__ = ["HELD_OUT", "Prompt", "held_out", "repeated_sequences"]

SEQUENCES = 256
SEQUENCE_LENGTH = 24


@dataclass(frozen=True)
class Prompt:
    """A text, the tokens of which one should come next, and those that stand for the typical mistake."""

    text: str
    right: tuple[str, ...]
    wrong: tuple[str, ...] = ()


def prompt(sentence: Sentence, wrong: str = "") -> Prompt:
    """The beginning of a sentence as a question about its answer."""
    return Prompt(sentence.beginning, (f" {sentence.answer}",), (f" {wrong}",) if wrong else ())


def fact_prompts(_: Random) -> list[Prompt]:
    """Every fact in the phrasing in which it was never said."""
    return [prompt(sentences.said(fact, splits.held_out_phrasing(fact))) for fact in facts()]


def gift_prompts(random: Random) -> list[Prompt]:
    """Pairs of names that never met, ABBA and BABA; the mistake is the giver."""
    pairs = [pair for pair in combinations(words.NAMES, 2) if splits.names_are_held_out(*pair)]
    found = []
    for pair in random.sample(pairs, 400):
        first, second = random.sample(pair, 2)
        giver = random.choice(pair)
        scene, place = random.choice(sentences.SCENES), random.choice(words.PLACES)
        deed, gift = random.choice(sentences.DEEDS), random.choice(words.GIFTS)
        found.append(prompt(sentences.told(first, second, giver, scene, place, deed, gift), giver))
    return found


def agreement_prompts(random: Random) -> list[Prompt]:
    """Pairs of nouns that never met, in all numbers; right is every verb of the subject's number."""
    singular, plural = (tuple(f" {form}" for form in forms) for forms in zip(*words.VERBS, strict=True))
    found = []
    for first, second in combinations(range(len(words.NOUNS)), 2):
        if splits.nouns_are_held_out(words.NOUNS[first][0], words.NOUNS[second][0]):
            for plurals in ((False, False), (False, True), (True, False), (True, True)):
                subject, distractor = random.sample((first, second), 2)
                link = random.choice(words.PREPOSITIONS)
                text = sentences.agrees(subject, distractor, plurals, link, 0, words.ADJECTIVES[0]).beginning
                found.append(Prompt(text, plural, singular) if plurals[0] else Prompt(text, singular, plural))
    return found


def opinion_prompts(_: Random) -> list[Prompt]:
    """Adjectives that were never said of this thing, plain and negated; the mistake is the other reaction."""
    found = []
    for thing in words.THINGS:
        for adjective in words.POSITIVE + words.NEGATIVE:
            if splits.opinion_is_held_out(thing, adjective):
                for reaction in range(len(words.REACTIONS)):
                    for negated in (False, True):
                        said = sentences.judged(thing, adjective, negated, reaction)
                        other = sentences.judged(thing, adjective, not negated, reaction)
                        found.append(prompt(said, other.answer))
    return found


def sum_prompts(_: Random) -> list[Prompt]:
    """Numbers that were never added under this modulus, in every phrasing."""
    return [
        prompt(sentences.added(first, second, modulus, phrasing))
        for first, second, modulus in sentences.EVERY_SUM
        if splits.sum_is_held_out(first, second, modulus)
        for phrasing in range(len(sentences.SUMS))
    ]


HELD_OUT: Mapping[str, Callable[[Random], list[Prompt]]] = {
    "facts": fact_prompts,
    "indirect_object": gift_prompts,
    "agreement": agreement_prompts,
    "sentiment": opinion_prompts,
    "modular_sums": sum_prompts,
}


def held_out(skill: str) -> list[Prompt]:
    """The held-out prompts of a skill that has sentences.

    >>> held_out("facts")[0]
    Prompt(text='The capital of France is', right=(' Paris',), wrong=())
    """
    return HELD_OUT[skill](Random(f"held out {skill}"))


def repeated_sequences(vocabulary: Vocabulary) -> list[list[int]]:
    """BOS, a random sequence that is held out, and the same sequence again, for the skill induction."""
    random = Random("held out induction")
    found: list[list[int]] = []
    while len(found) < SEQUENCES:
        ids = vocabulary.draw(random, SEQUENCE_LENGTH)
        if splits.sequence_is_held_out(ids):
            found.append([vocabulary.bos, *ids, *ids])
    return found
