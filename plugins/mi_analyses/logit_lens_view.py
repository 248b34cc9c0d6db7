"""The logit lens in a terminal, a line for each point of a position or a grid of likeliest tokens, and on its page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.table import Table
from rich.text import Text

from mi_analyses.heat_view import origin
from mi_analyses.logit_lens_steps import Step, page_rows, percent, short, steps, summary
from mi_core.labelled import visible
from mi_core.pages.heat import Heat, Strip
from mi_core.pages.terminal import Bands, Flow, bar

__all__ = ["page", "view"]

CERTAIN = Heat(0.0, 1.0)


def view(lens: Any) -> RenderableType:
    """A ladder for each row of which one position was read, a grid for the others."""
    parts: list[RenderableType] = [origin("logit lens", lens.provenance)]
    for row, tokens in enumerate(lens.provenance.tokens):
        columns = [i for i, position in enumerate(lens.position.values[row].tolist()) if position >= 0]
        parts.append(prompt(tokens, {int(lens.position.values[row, column]) for column in columns}))
        parts.append(Text())
        if len(columns) == 1:
            parts.extend(ladder(lens, row, columns[0]))
        else:
            parts.extend(grid(lens, row, columns))
        parts.append(Text())
    return Group(*parts[:-1])


def page(lens: Any) -> Mapping[str, Any]:
    """The rows as its template reads them."""
    return {"rows": page_rows(lens)}


def prompt(tokens: Sequence[str], read: set[int]) -> Text:
    """The tokens of a row, those at which the lens reads set off."""
    text = Text()
    for position, token in enumerate(tokens):
        text.append(visible(token), "bold underline" if position in read and len(read) < len(tokens) else "")
        text.append(" ")
    return text


def ladder(lens: Any, row: int, column: int) -> list[RenderableType]:
    """One position: how the answer rises, layer by layer, and what stands beside it."""
    position = int(lens.position.values[row, column])
    where = f"position {position} {visible(lens.provenance.tokens[row][position])}"
    parts: list[RenderableType] = [Ladder(steps(lens, row, column)), Text()]
    if lens.token_rank.coords["token"]:
        parts += [followed(lens, row, column), Text()]
    parts.append(Text(summary(lens, row, column), "bold"))
    parts.append(Text(f"At {where}. nats: entropy; KL: nats from the final distribution; a dot is a space.", "dim"))
    return parts


class Ladder:
    """One line for each point; where the width does not allow columns, its numbers one after the other."""

    def __init__(self, rungs: Sequence[Step]) -> None:
        self.rungs = rungs

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        table = self.table()
        if table.__rich_measure__(console, options.update(max_width=10_000)).minimum <= options.max_width:
            yield table
            return
        yield Text(f"p({visible(self.rungs[0].answer_text)}), its rank, entropy, KL, top tokens in %", "dim")
        for rung in self.rungs:
            numbers = (percent(rung.answer), f"#{rung.rank}", f"{rung.entropy:.2f} nats", f"KL {rung.kl:.2f}")
            yield Text(rung.label, "bold")
            yield Flow([Text(number) for number in numbers] + self.said(rung))

    def said(self, rung: Step) -> list[Text]:
        """The likeliest tokens of a point."""
        return [said(token, p, token == rung.answer_text) for token, p in rung.top]

    def table(self) -> Table:
        """The points in columns."""
        table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, pad_edge=False, header_style="dim")
        table.add_column("layer", no_wrap=True, style="dim")
        table.add_column(Text(f"p({visible(self.rungs[0].answer_text)})", "bold"), no_wrap=True)
        for heading in ("rank", "nats", "KL"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column(f"top {len(self.rungs[0].top)} in %")
        for rung in self.rungs:
            table.add_row(
                rung.label,
                Text(f"{bar(rung.answer, 8)} {percent(rung.answer):>6}", "green" if rung.rank == 1 else "yellow"),
                f"#{rung.rank}",
                f"{rung.entropy:.2f}",
                f"{rung.kl:.2f}",
                Flow(self.said(rung)),
            )
        return table


def said(token: str, probability: float, is_answer: bool) -> Text:
    """A token with its probability: bold where it is the answer, faint where it is unlikely."""
    style = "bold green" if is_answer else "" if probability >= 0.1 else "dim"
    return Text(f"{visible(token)} {whole_percent(probability)}", style)


def whole_percent(share: float) -> str:
    """A probability in percent without the sign, for narrow places."""
    return "<1" if 0 < share < 0.005 else f"{100 * share:.0f}"


def followed(lens: Any, row: int, column: int) -> Bands:
    """The given tokens: probability and rank at each point."""
    shares = lens.token_probability.values[:, row, column].tolist()
    ranks = lens.token_rank.values[:, row, column].tolist()
    labels = [short(point) for point in lens.token_rank.coords["point"]]
    texts = tuple(
        tuple(f"{percent(p)} #{rank}" for p, rank in zip(*pair, strict=True))
        for pair in zip(shares, ranks, strict=True)
    )
    strip = Strip("", tuple(zip(labels, map(tuple, shares), strict=True)), lens.token_rank.coords["token"], "layer")
    return Bands(strip, CERTAIN, "tokens followed: probability and rank", texts)


def grid(lens: Any, row: int, columns: Sequence[int]) -> list[RenderableType]:
    """Several positions: the likeliest next token at each point, coloured by its probability."""
    every = [steps(lens, row, column) for column in columns]
    positions = [int(lens.position.values[row, column]) for column in columns]
    names = tuple((position, lens.provenance.tokens[row][position]) for position in positions)
    rows = tuple((rungs[0].label, tuple(rung.top[0][1] for rung in rungs)) for rungs in zip(*every, strict=True))
    texts = tuple(tuple(best(rung) for rung in rungs) for rungs in zip(*every, strict=True))
    return [
        Bands(Strip("", rows, names, "layer"), CERTAIN, "", texts),
        Text("The likeliest next token at each position, with its probability in %; a dot is a space.", "dim"),
        *followed_grids(every, names),
    ]


def followed_grids(every: Sequence[Sequence[Step]], names: tuple[tuple[int, str], ...]) -> list[RenderableType]:
    """The rank of each given token at each point and position, coloured by its probability."""
    parts: list[RenderableType] = []
    for number, (token, _, _) in enumerate(every[0][0].followed):
        rungs = list(zip(*every, strict=True))
        rows = tuple((here[0].label, tuple(rung.followed[number][1] for rung in here)) for here in rungs)
        texts = tuple(tuple(f"#{rung.followed[number][2]}" for rung in here) for here in rungs)
        parts += [Text(), Bands(Strip("", rows, names, "layer"), CERTAIN, f"rank of {visible(token)}", texts)]
    return parts


def best(rung: Step) -> str:
    """The likeliest token of a point."""
    return f"{visible(rung.top[0][0])} {whole_percent(rung.top[0][1])}"
