"""Hook points, backend protocols, plans and loading for mechanistic interpretability.

    import mi_core as mi

    model = mi.load("tiny-world")
    run = model.run("The capital of France is", mi.capture("blocks.*.hook_resid_post"))

Names are imported at their first use, so that ``import mi_core`` and ``mi --help`` do not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mi_core import errors

if TYPE_CHECKING:  # what type checkers see; a test keeps it equal to the table
    from mi_core.analyses import analysis
    from mi_core.building import build, save_model
    from mi_core.carrying import carried
    from mi_core.chat import Chat
    from mi_core.edges import Knockout, Reweight
    from mi_core.folding import folded
    from mi_core.generation import Generation, GenerationInterrupted
    from mi_core.grids import Grid, ablation_grid, grid, patch_grid, steering_grid
    from mi_core.harvests.harvesting import HarvestInterrupted, harvest
    from mi_core.harvests.reading import Harvest
    from mi_core.inspecting import Inspection, inspect
    from mi_core.interventions import (
        Add,
        Apply,
        Clamp,
        ClampAlong,
        Detach,
        Interpolate,
        Intervention,
        Mean,
        Noise,
        ProjectOut,
        Replace,
        Resample,
        Scale,
        Zero,
    )
    from mi_core.labelled import Labelled
    from mi_core.loading import load
    from mi_core.looping import Loop, looped
    from mi_core.memory import ModelMemory
    from mi_core.memory_report import MemoryReport
    from mi_core.metrics import Metric, kl, log_prob, logit, logit_diff, loss, metric, prob, rank
    from mi_core.model import Model
    from mi_core.positions import GENERATED, PROMPT, Span, Token, Turn
    from mi_core.receipt import Receipt
    from mi_core.results import Result
    from mi_core.run import Run
    from mi_core.spec import HookSpec, capture, insert, intervene
    from mi_core.streaming import Streamed
    from mi_core.sweeping import Sweep, SweepInterrupted
    from mi_core.token_map import TokenMap

__all__ = [
    "GENERATED",
    "PROMPT",
    "Add",
    "Apply",
    "Chat",
    "Clamp",
    "ClampAlong",
    "Detach",
    "Generation",
    "GenerationInterrupted",
    "Grid",
    "Harvest",
    "HarvestInterrupted",
    "HookSpec",
    "Inspection",
    "Interpolate",
    "Intervention",
    "Knockout",
    "Labelled",
    "Loop",
    "Mean",
    "MemoryReport",
    "Metric",
    "Model",
    "ModelMemory",
    "Noise",
    "ProjectOut",
    "Receipt",
    "Replace",
    "Resample",
    "Result",
    "Reweight",
    "Run",
    "Scale",
    "Span",
    "Streamed",
    "Sweep",
    "SweepInterrupted",
    "Token",
    "TokenMap",
    "Turn",
    "Zero",
    "ablation_grid",
    "analysis",
    "build",
    "capture",
    "carried",
    "errors",
    "folded",
    "grid",
    "harvest",
    "insert",
    "inspect",
    "intervene",
    "kl",
    "load",
    "log_prob",
    "logit",
    "logit_diff",
    "looped",
    "loss",
    "metric",
    "patch_grid",
    "prob",
    "rank",
    "save_model",
    "steering_grid",
]

HOMES = {
    "analyses": ("analysis",),
    "building": (
        "build",
        "save_model",
    ),
    "carrying": ("carried",),
    "chat": ("Chat",),
    "edges": (
        "Knockout",
        "Reweight",
    ),
    "folding": ("folded",),
    "generation": (
        "Generation",
        "GenerationInterrupted",
    ),
    "grids": (
        "Grid",
        "ablation_grid",
        "grid",
        "patch_grid",
        "steering_grid",
    ),
    "harvests.harvesting": (
        "HarvestInterrupted",
        "harvest",
    ),
    "harvests.reading": ("Harvest",),
    "inspecting": (
        "Inspection",
        "inspect",
    ),
    "interventions": (
        "Add",
        "Apply",
        "Clamp",
        "ClampAlong",
        "Detach",
        "Interpolate",
        "Intervention",
        "Mean",
        "Noise",
        "ProjectOut",
        "Replace",
        "Resample",
        "Scale",
        "Zero",
    ),
    "labelled": ("Labelled",),
    "loading": ("load",),
    "looping": (
        "Loop",
        "looped",
    ),
    "memory": ("ModelMemory",),
    "memory_report": ("MemoryReport",),
    "metrics": (
        "Metric",
        "kl",
        "log_prob",
        "logit",
        "logit_diff",
        "loss",
        "metric",
        "prob",
        "rank",
    ),
    "model": ("Model",),
    "positions": (
        "GENERATED",
        "PROMPT",
        "Span",
        "Token",
        "Turn",
    ),
    "receipt": ("Receipt",),
    "results": ("Result",),
    "run": ("Run",),
    "spec": (
        "HookSpec",
        "capture",
        "insert",
        "intervene",
    ),
    "streaming": ("Streamed",),
    "sweeping": (
        "Sweep",
        "SweepInterrupted",
    ),
    "token_map": ("TokenMap",),
}
"""The module of each public name."""

MODULES = {name: module for module, names in HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"module 'mi_core' has no attribute {name!r}")
    value = getattr(import_module(f"mi_core.{MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *MODULES})
