"""Sites: their names, their dims, their order."""

from __future__ import annotations

import difflib
import re
from collections import Counter

from mi_core.errors import CheckFailed
from mi_core.layout import POSITION_DIMS
from mi_core.protocols import Site
from mi_core.testing.effort import for_examples
from mi_core.testing.expecting import expect, refuse
from mi_core.testing.strategies import Prompt, prompts
from mi_core.testing.subject import Subject
from mi_core.testing.watching import batch_of, watched
from mi_core.vocabulary import STANDARD

__all__ = ["check_names_are_standard", "check_points_fire_in_order"]

CALL = "model.backend.sites()"
STREAM = ("hook_resid_pre", "hook_resid_post")


def check_names_are_standard(subject: Subject) -> None:
    """A standard name has the vocabulary's meaning; other names do not look like one; every size is stated."""
    listed = subject.model.backend.sites()
    for site in listed:
        if site.name in STANDARD:
            check_standard(site)
        elif neighbour := lookalike(site.name):
            refuse(
                f"the site {site.name!r} is no standard name, but looks like {neighbour!r}.",
                seen=site.name,
                wanted=f"{neighbour!r}, or a name that cannot be taken for it",
                call=CALL,
            )
        check_sizes(subject, site)
    twice = [key for key, count in Counter(keys(listed)).items() if count > 1]
    expect(not twice, "a site is listed twice.", seen=twice, wanted="each once in a layer", call=CALL)
    for name in STREAM:
        here = {layer for site in listed if site.name == name for layer in site.layers or ()}
        missing = sorted(set(range(subject.depth)) - here)
        expect(
            not missing, f"{name!r} is not listed in the layers {missing}.", seen=sorted(here), wanted="all", call=CALL
        )


def check_standard(site: Site) -> None:
    """A standard site as the vocabulary has it."""
    row = STANDARD[site.name]
    for what, seen, wanted in (
        ("has other dims", site.dims, row.dims),
        ("is not where it should be, in the layers or outside", site.layers is not None, row.in_layer),
        ("does not say as the vocabulary does whether closed entries stay closed", site.keeps_masked, row.keeps_masked),
    ):
        expect(seen == wanted, f"the standard site {site.name!r} {what}.", seen=seen, wanted=wanted, call=CALL)


def check_sizes(subject: Subject, site: Site) -> None:
    """Every dim that a call does not decide has a size, and the model's own where it has one."""
    shape = subject.model.shape
    own = {"d_model": shape.d_model, "d_vocab": shape.d_vocab}
    for dim in site.dims:
        if dim == "batch" or dim in POSITION_DIMS:
            continue
        seen = site.sizes.get(dim)
        wanted = own.get(dim, seen)
        if seen is None or seen != wanted:
            refuse(
                f"the site {site.name!r} has a wrong size for {dim!r}.",
                seen=seen,
                wanted=wanted or "a number, so that selectors are refused before anything runs",
                call=CALL,
            )
    outside = [layer for layer in site.layers or () if not 0 <= layer < subject.depth]
    expect(not outside, f"the site {site.name!r} is in layers that do not exist.", seen=outside, wanted=[], call=CALL)


def keys(sites: object) -> list[tuple[str, int | None]]:
    """Each site in each of its layers."""
    assert isinstance(sites, list | tuple)
    return [(site.name, layer) for site in sites for layer in (site.layers if site.layers is not None else (None,))]


def lookalike(name: str) -> str | None:
    """The standard name that could be meant: spelled otherwise, or one word of it misspelled.

    >>> lookalike("attn.hook_patern"), lookalike("attn.pattern"), lookalike("mixer.hook_state")
    ('attn.hook_pattern', 'attn.hook_pattern', None)
    """
    words = re.split(r"[._]", name.lower())
    for standard in STANDARD:
        others = re.split(r"[._]", standard)
        if [word for word in words if word != "hook"] == [word for word in others if word != "hook"]:
            return standard
        differing = [pair for pair in zip(words, others, strict=False) if pair[0] != pair[1]]
        if len(words) == len(others) and len(differing) == 1 and misspelled(*differing[0]):
            return standard
    return None


def misspelled(word: str, other: str) -> bool:
    """Whether one word may be the other with a slip."""
    return min(len(word), len(other)) >= 4 and difflib.SequenceMatcher(None, word, other).ratio() >= 0.75


def check_points_fire_in_order(subject: Subject) -> None:
    """Every listed point fires once, in the listed order, with the declared dims, and nothing else fires."""
    wanted = [point.name for point in subject.points]

    def holds(prompt: Prompt) -> None:
        batch = batch_of(subject, prompt)
        for edits in (False, True):
            _, seen = watched(subject, batch, edits=edits)
            call = f"all sites wanted{' and written' if edits else ''}, inputs {prompt!r}"
            check_order(seen.names, wanted, call)
            for point in subject.points:
                value = seen.values[point.name]
                rows, columns = batch.inputs.shape[:2]
                sizes = {"batch": rows, **dict.fromkeys(POSITION_DIMS, columns), **point.site.sizes}
                declared = [sizes[dim] for dim in point.site.dims]
                expect(
                    list(value.shape) == declared,
                    f"{point.name!r} fired with another shape than {point.site.dims}.",
                    seen=list(value.shape),
                    wanted=declared,
                    call=call,
                )

    # as many rows as nothing else has: a transposed dim shows
    always = ({"prompt": Prompt.of([min(5, subject.longest)] * 7, subject.model.shape)},)
    for_examples(holds, always=always, prompt=prompts(subject))


def check_order(fired: list[str], wanted: list[str], call: str) -> None:
    """The same names in the same order."""
    if fired == wanted:
        return
    counts = Counter(fired)
    for what, names in (
        ("listed, but did not fire", [name for name in wanted if name not in counts]),
        ("fired, but is not listed", [name for name in fired if name not in wanted]),
        ("fired more than once", [name for name, count in counts.items() if count > 1]),
    ):
        if names:
            raise CheckFailed(f"{names[0]!r} is {what}, with {len(names) - 1} more.\n  call:   {call}", names=names)
    place = next(i for i, pair in enumerate(zip(fired, wanted, strict=True)) if pair[0] != pair[1])
    refuse(f"point {place} fired out of order.", seen=fired[place], wanted=wanted[place], call=call)
