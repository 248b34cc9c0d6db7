"""What does the model never see in training? Each rule is a pure function of what it judges, so nothing can leak.

| skill           | held out                                              | the model has seen                         |
|-----------------|-------------------------------------------------------|--------------------------------------------|
| facts           | one phrasing of each fact                             | the fact otherwise, the phrasing elsewhere |
| indirect object | pairs of names: never in one row                      | each name with others                      |
| agreement       | pairs of nouns, in every number: never in one row     | each noun with others                      |
| sentiment       | pairs of a thing and an adjective                     | each with others                           |
| modular sums    | pairs of numbers under a modulus, in both orders      | each number with others                    |
| induction       | one random sequence in sixteen, by the sum of its ids | other sequences of the same tokens         |
"""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

from mi_registry.tiny_world.words import NAMES, NOUNS
from mi_registry.tiny_world.world import COUNTRIES, PHRASINGS, Fact

__all__ = [
    "PAIRED",
    "fact_is_held_out",
    "held_out_phrasing",
    "names_are_held_out",
    "nouns_are_held_out",
    "opinion_is_held_out",
    "sequence_is_held_out",
    "sum_is_held_out",
    "words_never_meet",
]

NUMBER = {subject: i for i, row in enumerate(COUNTRIES) for subject in (row.country, row.capital)}
RELATIONS = tuple(PHRASINGS)
NAME_SET = frozenset(NAMES)
SINGULAR = {form: singular for singular, plural in NOUNS for form in (singular, plural)}
PAIRED = NAME_SET | SINGULAR.keys()
"""The words that the rules about pairs judge."""


def one_in(share: int, *parts: object) -> bool:
    """Whether the parts, in any order, belong to the chosen ``1 / share`` of all such parts (by CRC-32)."""
    return crc32("|".join(sorted(map(str, parts))).encode()) % share == 0


def held_out_phrasing(fact: Fact) -> int:
    """The index of the one phrasing in which this fact never occurs: they take turns through the table.

    >>> held_out_phrasing(Fact("capital", "France", "Paris"))
    0
    """
    return (NUMBER[fact.subject] + RELATIONS.index(fact.relation)) % len(PHRASINGS[fact.relation])


def fact_is_held_out(fact: Fact, phrasing: int) -> bool:
    """Whether this fact never occurs in this phrasing."""
    return phrasing == held_out_phrasing(fact)


def names_are_held_out(first: str, second: str) -> bool:
    """Whether these two names never meet: a tenth of all pairs."""
    return first != second and one_in(10, "names", first, second)


def nouns_are_held_out(first: str, second: str) -> bool:
    """Whether these two nouns (given in the singular) never meet, in whatever number: a sixth of all pairs."""
    return first != second and one_in(6, "nouns", first, second)


def opinion_is_held_out(thing: str, adjective: str) -> bool:
    """Whether this adjective is never said of this thing: an eighth of all pairs."""
    return one_in(8, "opinion", thing, adjective)


def sum_is_held_out(first: int, second: int, modulus: int) -> bool:
    """Whether these two numbers are never added under this modulus, in either order: a fifth of all sums."""
    return one_in(5, f"modulus {modulus}", f"number {first}", f"number {second}")


def sequence_is_held_out(ids: Sequence[int]) -> bool:
    """Whether this sequence of token ids is never repeated in training: a sixteenth of all sequences."""
    return sum(ids) % 16 == 0


def words_never_meet(first: str, second: str) -> bool:
    """Whether these two words are a held-out pair of names, or of nouns in any number.

    >>> words_never_meet("Mary", "Mary"), words_never_meet("Mary", "key")
    (False, False)
    """
    if first in NAME_SET and second in NAME_SET:
        return names_are_held_out(first, second)
    if first in SINGULAR and second in SINGULAR:
        return nouns_are_held_out(SINGULAR[first], SINGULAR[second])
    return False
