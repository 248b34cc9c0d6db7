"""How fast is a sweep of probes? ``python docs/benchmarks/probing.py [--layers 12] [--positions 2] [--json FILE]``.

Logistic probes over layers and positions, 768 wide, 5,000 examples, against a loop of scikit-learn's
``LogisticRegression`` (its defaults but for ``max_iter=1000``, behind a ``StandardScaler``) over the same cells, folds
and penalties:

- ``one fit``: one probe a cell, the penalty given;
- ``sweep``: as `probing` does it: five penalties over five folds, and a fit with the chosen one.

Activations are random, with the spectrum of a residual stream (variances fall as a power) and a few features of large
scale; the label is a direction with noise, so that accuracies are between chance and one. Times are processor time of
one thread; the ratio is ours to scikit-learn's; accuracies are on a held-out fifth.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sklearn  # type: ignore[import-untyped]
import torch
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]
from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]
from torch import Tensor

from mi_probing import Examples, Logistic, Protocol, probing_of
from mi_probing.splits import folds_of, split_of

PENALTIES = (0.1, 1.0, 10.0, 100.0, 1000.0)
FOLDS = 5


def main() -> None:
    """Both ways of sweeping, by ours and by scikit-learn's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--positions", type=int, default=2)
    parser.add_argument("--examples", type=int, default=5000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name, penalties in (("one fit", (1.0,)), ("sweep", PENALTIES)):
        row = {"name": name, **compared(chosen, penalties)}
        rows.append(row)
        print(
            f"{name:8} ratio {row['ratio']:.2f}  seconds {row['ours']:.1f} and {row['theirs']:.1f}  accuracy "
            f"{row['accuracy']:.4f} and {row['their_accuracy']:.4f}, at most {row['apart']:.4f} apart",
            flush=True,
        )
    if chosen.json:
        about = {**vars(chosen), "json": None, "torch": torch.__version__, "sklearn": sklearn.__version__}
        chosen.json.write_text(json.dumps({**about, "rows": rows}, indent=1), encoding="utf-8")


def compared(sizes: argparse.Namespace, penalties: tuple[float, ...]) -> dict[str, float]:
    """Seconds and accuracies: ours of all cells in one sweep, scikit-learn's one after the other."""
    drawn = [activations(sizes, layer) for layer in range(sizes.layers)]
    labels, x = drawn[0][0], torch.stack([layer for _, layer in drawn], 1)
    del drawn
    examples = Examples.of(x, labels.tolist(), dims=("layer", "pos"))
    method, protocol = Logistic(penalties=penalties), Protocol((0.8, 0.0, 0.2), FOLDS, control=False)
    ours, result = timed(lambda: probing_of(examples, probe=method, protocol=protocol))
    test = split_of(examples.groups, labels, protocol.shares, seed=protocol.seed).test
    folds = folds_of(examples.groups, labels, ~test, FOLDS, seed=protocol.seed)
    theirs, found = timed(lambda: [looped(cell, labels, folds, penalties) for cell in examples.x])
    mine = result.score.values.flatten().tolist()
    return {
        "ratio": ours / theirs,
        "ours": ours,
        "theirs": theirs,
        "accuracy": statistics.fmean(mine),
        "their_accuracy": statistics.fmean(found),
        "apart": max(abs(one - other) for one, other in zip(mine, found, strict=True)),
    }


def activations(sizes: argparse.Namespace, layer: int) -> tuple[Tensor, Tensor]:
    """Labels, the same for all layers, and activations ``[example pos d]``; deeper layers tell the label better."""
    labels = torch.randint(2, (sizes.examples,), generator=torch.Generator().manual_seed(0))
    draw = torch.Generator().manual_seed(1 + layer)
    spectrum = torch.arange(1, sizes.width + 1).float() ** -0.7
    rotation = torch.linalg.qr(torch.randn(sizes.width, sizes.width, generator=draw)).Q
    inner = torch.randn(sizes.examples, sizes.positions, sizes.width, generator=draw) * spectrum
    direction = torch.randn(sizes.width, generator=draw) * spectrum
    strength = 0.5 + 2 * layer / max(1, sizes.layers - 1)
    inner = inner + strength * (labels - 0.5)[:, None, None] * direction / (direction / spectrum).norm()
    x = inner @ rotation
    x[..., :4] = 30 * x[..., :4] + 10
    return labels, x


def looped(x: Tensor, labels: Tensor, folds: Tensor, penalties: tuple[float, ...]) -> float:
    """scikit-learn's accuracy in one cell, on the same folds: the penalty by cross-validation, fit by fit."""
    at, test = x.numpy(), (folds < 0).numpy()
    best, least = penalties[0], float("inf")
    for penalty in penalties if len(penalties) > 1 else ():
        loss = 0.0
        for out in range(FOLDS):
            inside, outside = ~test & (folds != out).numpy(), (folds == out).numpy()
            fitted = estimator(penalty).fit(at[inside], labels[inside])
            odds = torch.from_numpy(fitted.predict_proba(at[outside]).clip(1e-12)).log()
            loss -= float(odds.gather(1, labels[outside][:, None]).sum())
        if loss <= least:
            best, least = penalty, loss
    fitted = estimator(best).fit(at[~test], labels[~test])
    return float(fitted.score(at[test], labels[test]))


def estimator(penalty: float) -> Any:
    """What is looped over."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=1 / penalty, max_iter=1000))


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Processor time, and what was made."""
    begin = time.process_time()
    made = work()
    return time.process_time() - begin, made


if __name__ == "__main__":
    main()
