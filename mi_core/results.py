"""What an analysis returns: labelled arrays with their provenance, to be shown, saved and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Self

from mi_core.errors import NotSerialisable, SelectorError
from mi_core.labelled import Labelled
from mi_core.model import Model
from mi_core.plain import from_plain, frozen, read_json, to_plain, write_json
from mi_core.run import Run
from mi_core.spec import HookSpec
from mi_core.spec_files import spec_to_json

__all__ = ["Result", "ResultProvenance"]


@dataclass(frozen=True, kw_only=True)
class ResultProvenance:
    """Everything that the numbers of a result depend on."""

    model: str
    """What was asked for: an embedded name, a folder, a Hub id, or ``"build"``."""
    family: str
    """The plugin that read it: a model_type."""
    plugin: str = ""
    """The distribution of the plugin, with its version."""
    revision: str | None = None
    seed: int | None = None
    dtype: str = ""
    device: str = ""
    ignored_config: tuple[str, ...] = ()
    ignored_tensors: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    prompts: tuple[str, ...] = ()
    """The text of each row."""
    tokens: tuple[tuple[str, ...], ...] = ()
    """The real tokens of each row, BOS included."""
    ids: tuple[tuple[int, ...], ...] = ()
    spec: Any = None
    """What was captured and changed, as ``HookSpec`` writes it to JSON."""

    def __post_init__(self) -> None:
        for each in fields(self):
            object.__setattr__(self, each.name, frozen(getattr(self, each.name)))

    @classmethod
    def of(cls, model: Model, run: Run, spec: HookSpec, inputs: Any = None) -> Self:
        """The provenance of whatever is computed from ``run``: of ``model`` on ``inputs``, with ``spec``."""
        rows = [ids[mask].tolist() for ids, mask in zip(run.tokens.cpu(), run.mask.cpu(), strict=True)]
        tokens = frozen(run.text_tokens)
        given = (inputs,) if isinstance(inputs, str) else inputs
        texts = isinstance(given, Sequence) and all(isinstance(text, str) for text in given)
        return replace(
            cls.of_weights(model),
            prompts=tuple(given) if texts else tuple("".join(row) for row in tokens),
            tokens=tokens,
            ids=frozen(rows),
            spec=spec_to_json(spec),
        )

    @classmethod
    def of_weights(cls, model: Model) -> Self:
        """The provenance of what is computed from the weights of ``model`` alone."""
        source = model.provenance
        return cls(
            model=source.ref,
            family=source.family,
            plugin=source.plugin,
            revision=source.revision,
            seed=source.seed,
            dtype=str(model.dtype).removeprefix("torch."),
            device=str(model.device),
            ignored_config=source.ignored_config,
            ignored_tensors=source.ignored_tensors,
            versions=source.versions,
        )

    def to_data(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {each.name: to_plain(getattr(self, each.name)) for each in fields(self)}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Self:
        """The provenance that ``to_data`` wrote."""
        return cls(**{name: from_plain(value) for name, value in data.items()})


@dataclass(frozen=True, kw_only=True)
class Result:
    """The base of all results.

    A subclass is a frozen dataclass and declares fields: ``Labelled`` arrays, and numbers, text, tuples and mappings
    beside them. All else comes from here, and may be overridden.

    Invariant: ``cls.from_json(result.to_json()) == result``, bit for bit.
    """

    provenance: ResultProvenance

    title: ClassVar[str] = ""
    """What the result is called on its page; the class's name where empty."""
    template: ClassVar[str] = "mi_core/result.html"
    """The page that ``to_html`` fills, as ``PACKAGE/FILE``; it sees the result as ``result``."""
    views: ClassVar[str] = ""
    """The module, imported when it is needed, whose ``view(result)`` is printed and whose ``page(result)`` is a mapping
    of what the template sees beside ``result`` and ``title``; all arrays are shown where there is none."""

    def __post_init__(self) -> None:
        for each in fields(self):
            object.__setattr__(self, each.name, frozen(getattr(self, each.name)))

    def arrays(self) -> dict[str, Labelled]:
        """Its labelled arrays by the name of their field."""
        found = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in found.items() if isinstance(value, Labelled)}

    def to_json(self, path: str | Path | None = None) -> str:
        """JSON text, written to ``path`` if one is given.

        Raises:
            NotSerialisable: a field holds something else than numbers, text, tuples, mappings and labelled arrays.
        """
        data = {each.name: to_plain(getattr(self, each.name)) for each in fields(self)}
        return write_json({"result": type(self).__name__, "fields": data}, path)

    @classmethod
    def from_json(cls, source: str | Path) -> Self:
        """The result in a JSON text or in a file.

        On ``Result`` itself the class is found by its name among those that are imported.

        Raises:
            NotSerialisable: the text holds another kind of result, or one whose class is not imported.
        """
        data = read_json(source)
        name = data.get("result") if isinstance(data, dict) else None
        known = {kind.__name__: kind for kind in kinds(cls)}
        if name not in known:
            raise NotSerialisable(
                f"this JSON holds {f'a {name}' if name else 'no result'}, which {cls.__name__}.from_json cannot read: "
                f"it knows {', '.join(sorted(known))}. Import the analysis that made it, and use its class",
                name=name,
                known=sorted(known),
            )
        readers = {"labelled": Labelled.from_data, "resultprovenance": ResultProvenance.from_data}
        values = {field: from_plain(value, readers) for field, value in data["fields"].items()}
        result: Self = known[name](**values)
        return result

    def to_frame(self, *names: str) -> Any:
        """A pandas data frame of these arrays; without names of the first one and those along its axes.

        Raises:
            MiError: pandas is not installed.
            SelectorError: no array has that name.
        """
        from mi_core.frames import frame

        arrays = self.arrays()
        if unknown := [name for name in names if name not in arrays]:
            raise SelectorError(
                f"no array {unknown[0]!r} in {type(self).__name__}: it has {', '.join(arrays)}", names=unknown
            )
        first = arrays[names[0] if names else next(iter(arrays))]
        along = [name for name, array in arrays.items() if set(array.dims) <= set(first.dims)]
        return frame([arrays[name] for name in names or along])

    def to_html(self, path: str | Path | None = None) -> str:
        """One self-contained page that needs no network, written to ``path`` if one is given."""
        from mi_core.pages import render, write

        title = self.title or type(self).__name__
        return write(render(self.template, result=self, title=title, **self.page_values()), path)

    def page_values(self) -> Mapping[str, Any]:
        """What its template sees beside ``result`` and ``title``."""
        values: Mapping[str, Any] = import_module(self.views).page(self) if self.views else {}
        return values

    def show(self) -> None:
        """Print it to the terminal."""
        from rich.console import Console

        Console().print(self)

    def __rich__(self) -> Any:
        if self.views:
            return import_module(self.views).view(self)

        from rich.console import Group

        return Group(*(array.__rich__() for array in self.arrays().values()))

    def _repr_html_(self) -> str:
        from mi_core.pages import framed

        return framed(self.to_html(), "42em")


def kinds(cls: type[Result]) -> list[Any]:
    """The class and all that are derived from it, as far as they are imported."""
    return [cls, *(kind for below in cls.__subclasses__() for kind in kinds(below))]
