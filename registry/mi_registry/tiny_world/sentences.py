"""How does each skill sound? One random training sentence of each; what `splits` holds out is never said."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from random import Random
from typing import TypeVar

from mi_registry.tiny_world import splits, words
from mi_registry.tiny_world.world import PHRASINGS, Fact, facts

__all__ = ["SKILLS", "Sentence", "agreement", "fact", "gift", "opinion", "remainder"]

Item = TypeVar("Item")


@dataclass(frozen=True)
class Sentence:
    """A beginning, the word that the skill has to find, and the rest."""

    beginning: str
    answer: str
    rest: str = "."

    def __str__(self) -> str:
        return f"{self.beginning} {self.answer}{self.rest}"


FACTS: Sequence[tuple[Fact, int]] = tuple(
    (fact, phrasing)
    for fact in facts()
    for phrasing in range(len(PHRASINGS[fact.relation]))
    if not splits.fact_is_held_out(fact, phrasing)
)
"""Every fact in every phrasing in which it may be said."""

SCENES: tuple[str, ...] = (
    "When {} and {} went to the {place},",
    "After {} and {} came back from the {place},",
    "While {} and {} were at the {place},",
    "Because {} and {} had a long day at the {place},",
    "Yesterday {} and {} met at the {place}, and",
    "Then {} and {} had lunch near the {place}, and",
)
DEEDS: tuple[str, ...] = ("gave", "handed", "passed", "offered", "sent", "showed")

SUMS: tuple[str, ...] = (
    "Counting modulo {modulus}, {first} plus {second} is",
    "Modulo {modulus}, the sum of {first} and {second} is",
    "Question: What is {first} plus {second} modulo {modulus}? Answer:",
)
EVERY_SUM: tuple[tuple[int, int, int], ...] = tuple(
    (first, second, modulus) for modulus in words.MODULI for first, second in product(range(modulus), repeat=2)
)
"""Two numbers below a modulus, and the modulus."""


def said(fact: Fact, phrasing: int) -> Sentence:
    """One fact in one phrasing."""
    return Sentence(PHRASINGS[fact.relation][phrasing].format(fact.subject), fact.answer)


def fact(random: Random) -> Sentence:
    """A fact about a country, in a phrasing in which it may be said."""
    return said(*random.choice(FACTS))


def told(first: str, second: str, giver: str, scene: str, place: str, deed: str, gift: str) -> Sentence:
    """One indirect-object sentence: two names, one of them gives something to the other."""
    other = second if giver == first else first
    return Sentence(f"{scene.format(first, second, place=place)} {giver} {deed} a {gift} to", other)


def gift(random: Random) -> Sentence:
    """An indirect-object sentence; the giver comes second (ABBA) or first (BABA)."""
    first, second = until(lambda: random.sample(words.NAMES, 2), splits.names_are_held_out)
    return told(
        first,
        second,
        random.choice((first, second)),
        random.choice(SCENES),
        random.choice(words.PLACES),
        random.choice(DEEDS),
        random.choice(words.GIFTS),
    )


def agrees(subject: int, distractor: int, plurals: tuple[bool, bool], link: str, verb: int, adjective: str) -> Sentence:
    """One agreement sentence: the verb has the number of the subject, whatever the distractor's."""
    first, second = words.NOUNS[subject][plurals[0]], words.NOUNS[distractor][plurals[1]]
    return Sentence(f"The {first} {link} the {second}", words.VERBS[verb][plurals[0]], f" {adjective}.")


def agreement(random: Random) -> Sentence:
    """A subject, a distractor of either number, and a verb that agrees with the subject; a fifth have no distractor."""
    adjective, verb = random.choice(words.ADJECTIVES), random.randrange(len(words.VERBS))
    plurals = (random.random() < 0.5, random.random() < 0.5)
    if random.random() < 0.2:
        noun = random.choice(words.NOUNS)[plurals[0]]
        return Sentence(f"The {noun}", words.VERBS[verb][plurals[0]], f" {adjective}.")
    first, second = until(
        lambda: random.sample(range(len(words.NOUNS)), 2),
        lambda a, b: splits.nouns_are_held_out(words.NOUNS[a][0], words.NOUNS[b][0]),
    )
    return agrees(first, second, plurals, random.choice(words.PREPOSITIONS), verb, adjective)


def judged(thing: str, adjective: str, negated: bool, reaction: int) -> Sentence:
    """One opinion and the reaction that follows from it; "not" turns it round."""
    beginning, good, bad, rest = words.REACTIONS[reaction]
    opinion = f"not {adjective}" if negated else adjective
    answer = good if (adjective in words.POSITIVE) != negated else bad
    return Sentence(beginning.format(thing=thing, opinion=opinion), answer, f" {rest}")


def opinion(random: Random) -> Sentence:
    """A good or bad opinion of a thing, one in four negated, and the reaction."""
    thing, adjective = until(
        lambda: (random.choice(words.THINGS), random.choice(words.POSITIVE + words.NEGATIVE)),
        splits.opinion_is_held_out,
    )
    return judged(thing, adjective, random.random() < 0.25, random.randrange(len(words.REACTIONS)))


def added(first: int, second: int, modulus: int, phrasing: int) -> Sentence:
    """One sum under a modulus."""
    beginning = SUMS[phrasing].format(first=first, second=second, modulus=modulus)
    return Sentence(beginning, str((first + second) % modulus))


def remainder(random: Random) -> Sentence:
    """A small modular sum."""
    first, second, modulus = until(lambda: random.choice(EVERY_SUM), splits.sum_is_held_out)
    return added(first, second, modulus, random.randrange(len(SUMS)))


def until(draw: Callable[[], Sequence[Item]], refused: Callable[..., bool]) -> Sequence[Item]:
    """The first draw that is not refused."""
    while refused(*(drawn := draw())):
        pass
    return drawn


SKILLS: Mapping[str, Callable[[Random], Sentence]] = {
    "facts": fact,
    "indirect_object": gift,
    "agreement": agreement,
    "sentiment": opinion,
    "modular_sums": remainder,
}
"""Each skill that has sentences; the sixth, induction, has random token ids (`rows`)."""
