"""Is a dictionary of this model? Two may be as wide as each other, and features of one mean nothing in the other.

Names are all that files hold, and one model has several: with an owner and without, ``gpt2`` and ``gpt2-small``.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import mi_core as mi
from mi_core.dictionaries import Dictionary
from mi_core.errors import ValueMismatch
from mi_core.provenance import Provenance
from mi_dictionaries.framing import Framed
from mi_dictionaries.sets import DictionarySet

__all__ = ["accepted_for", "check_model"]

D = TypeVar("D", Framed, DictionarySet)


def check_model(dictionary: Dictionary, model: Provenance) -> Iterator[str]:
    """Refuse the dictionary of another model; yields sentences about what is not certain.

    - The same name, without owner and folder: nothing to say.
    - One name is the other and something more (``gemma-2-2b`` and ``gemma-2-2b-it``): a sentence. Features of a base
      model are used on what is tuned from it, which cannot be told from a sibling (``pythia-70m-deduped``) by name.
    - No name, a folder of another name, a model that was built: a sentence.
    - Two other names: refused, unless `accepted_for` said that they fit.

    Raises:
        ValueMismatch: both have names, and they are of two models.
    """
    about = dictionary.about
    name, here = getattr(about, "model", None), model.ref
    where = f"the dictionary at {dictionary.site_in!r}"
    if here in getattr(about, "accepted", ()):
        yield f"{where} is of {name!r} and was accepted for {here!r}"
    elif name is None:
        yield f"{where} does not say which model it is of"
    elif not (same := parts(name) == parts(here)) and (begins(name, here) or begins(here, name)):
        yield f"{where} is of {name!r}; {here!r} is a variant of it, or another name"
    elif not same and (here == "build" or is_folder(name) or is_folder(here)):
        yield f"{where} is of {name!r}; whether that is {here!r} its name does not say"
    elif not same:
        raise ValueMismatch(
            f"{where} is of {name!r}, and this model is {here!r}: features of one model mean nothing in another. If "
            "these are two names of one, or one is tuned from the other, take "
            "mi_dictionaries.accepted_for(dictionary, model).",
            of=name,
            model=here,
        )


def accepted_for(dictionary: D, model: mi.Model) -> D:
    """The same dictionary, or set, for a model that its files do not name: the model has another name, or is tuned.

    >>> from mi_dictionaries import load
    >>> sae = load("tiny-world/sae/blocks.3.hook_resid_post")
    >>> accepted_for(sae, mi.build("gpt2", n_layer=4, n_embd=128)).about.accepted
    ('build',)
    """
    about = dataclasses.replace(dictionary.about, accepted=(*dictionary.about.accepted, model.provenance.ref))
    changes: dict[str, Any] = {"about": about}
    if isinstance(dictionary, DictionarySet):
        held: Any = dictionary.dictionaries
        changes["dictionaries"] = tuple(accepted_for(one, model) for one in held)
    return dataclasses.replace(dictionary, **changes)


def parts(name: str) -> str:
    """A model's name without its owner, its folder, and what is written differently.

    >>> parts("meta-llama/Meta-Llama-3.1-8B") == parts("llama3.1-8b")
    True
    """
    return "".join(words(name))


def words(name: str) -> list[str]:
    """What a name is put together from."""
    last = name.rstrip("/").rpartition("/")[2].partition("@")[0].lower()
    return re.split(r"[-_\s]+", last.removeprefix("meta-"))


def begins(short: str, long: str) -> bool:
    """Whether a name is the beginning of another, up to a word's end.

    >>> begins("google/gemma-2-2b", "gemma-2-2b-it"), begins("gemma-2-2b", "gemma-2-27b")
    (True, False)
    """
    every = words(long)
    return any("".join(every[:count]) == parts(short) for count in range(1, len(every)))


def is_folder(name: str) -> bool:
    """Whether a name is a place on somebody's disk, which says little."""
    return name.startswith((".", "~", "/", "\\")) or name.count("/") > 1 or Path(name).is_dir()
