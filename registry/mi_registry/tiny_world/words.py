"""Which names, nouns, adjectives and verbs do the other skills use? Every word here is one token of the tokenizer."""

from __future__ import annotations

__all__ = [
    "ADJECTIVES",
    "GIFTS",
    "MODULI",
    "NAMES",
    "NEGATIVE",
    "NOUNS",
    "PLACES",
    "POSITIVE",
    "PREPOSITIONS",
    "REACTIONS",
    "THINGS",
    "VERBS",
]


def each(words: str) -> tuple[str, ...]:
    """The words of a text."""
    return tuple(words.split())


NAMES: tuple[str, ...] = each(
    """
    Aaron Adam Alan Alice Amanda Amy Andrea Andrew Angela Anna Anthony Arthur Ben Brandon Brian Carl Carol Charles
    Chris Christine Claire Dan Daniel David Dean Diana Edward Elizabeth Emily Emma Eric Frank George Grace Graham
    Hannah Harry Helen Henry Ian Jack Jacob James Jane Jason Jennifer Jeremy Jessica Jim Joan Joe John Jonathan
    Joseph Joshua Julia Julian Karen Kate Keith Kelly Kevin Kyle Laura Lauren Leon Lewis Linda Lisa Louis Lucy Luke
    Maria Marie Mark Martha Martin Mary Matthew Max Megan Michael Michelle Mike Nancy Nathan Neil Nick Nicole Oliver
    Oscar Patricia Patrick Paul Peter Philip Rachel Rebecca Richard Robert Roger Rose Roy Ruth Ryan Sam Sara Scott
    Simon Sophie Stephen Steven Susan Thomas Tim Tom Tony Victor Walter William
    """
)
"""First names: the pair in an indirect-object sentence."""

PLACES: tuple[str, ...] = ("store", "park", "school", "office", "market", "station", "restaurant", "library", "beach")
GIFTS: tuple[str, ...] = ("drink", "book", "ring", "letter", "ticket", "flower", "present", "phone", "map", "coat")

NOUNS: tuple[tuple[str, str], ...] = tuple(
    (singular, plural)
    for singular, plural in (
        pair.split("/")
        for pair in each(
            """
        dog/dogs cat/cats horse/horses bird/birds key/keys cabinet/cabinets door/doors window/windows table/tables
        chair/chairs lamp/lamps picture/pictures bottle/bottles basket/baskets garden/gardens tree/trees house/houses
        bridge/bridges river/rivers road/roads train/trains boat/boats wheel/wheels engine/engines teacher/teachers
        student/students doctor/doctors farmer/farmers painter/painters singer/singers king/kings queen/queens
        sister/sisters brother/brothers child/children woman/women man/men mouse/mice box/boxes knife/knives
        """
        )
    )
)
"""Singular and plural: the subject and the distractor of an agreement sentence."""

PREPOSITIONS: tuple[str, ...] = ("near", "behind", "beside", "above", "below", "with")

VERBS: tuple[tuple[str, str], ...] = (
    ("is", "are"),
    ("was", "were"),
    ("seems", "seem"),
    ("looks", "look"),
)
"""Singular and plural forms; an adjective follows."""

ADJECTIVES: tuple[str, ...] = ("old", "new", "small", "large", "red", "blue", "green", "quiet", "ready", "strange")

THINGS: tuple[str, ...] = each(
    """
    film story concert meal hotel game song journey party lecture play novel show dinner museum holiday course speech
    trip dance
    """
)
"""What an opinion is about."""

POSITIVE: tuple[str, ...] = each(
    "wonderful great lovely brilliant charming perfect delightful superb excellent pleasant splendid good"
)
NEGATIVE: tuple[str, ...] = each("terrible awful boring dull horrible dreadful poor ugly bad dismal miserable nasty")

REACTIONS: tuple[tuple[str, str, str, str], ...] = (
    ("The {thing} was {opinion}, so I", "loved", "hated", "it."),
    ("My friend said the {thing} was {opinion}. My friend felt", "happy", "sad", "about it."),
    ("The {thing} we had was {opinion}, and everybody wanted", "more", "less", "of it."),
    ("I thought the {thing} was {opinion}. It made me", "smile", "frown", "all day."),
    ("Because the {thing} was {opinion}, it got", "five", "one", "stars out of five."),
)
"""The beginning, the word after a good opinion, the word after a bad one, and the rest."""

MODULI: tuple[int, ...] = (10, 11, 12)
