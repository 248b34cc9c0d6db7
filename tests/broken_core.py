"""What the core does, broken in the core."""

from __future__ import annotations

from typing import Any
from unittest import mock

import torch
from torch import Tensor

from mi_core.run import Run
from mi_core.spec import HookSpec


def forgetful_specs() -> Any:
    load = HookSpec.load
    return mock.patch.object(HookSpec, "load", lambda path: HookSpec(load(path).entries[1:]))


def inexact_values() -> Any:
    values_at = Run.values_at

    def shifted(self: Run, *arguments: Any) -> Any:
        value, real = values_at(self, *arguments)
        return value + 1e-3, real

    return mock.patch.object(Run, "values_at", shifted)


def inexact_runs() -> Any:
    load = Run.load

    def shifted(path: Any) -> Run:
        run = load(path)
        run._logits = run._logits + 1e-3
        return run

    return mock.patch.object(Run, "load", shifted)


def noise_by_shape() -> Any:
    def drawn(x: Tensor, seed: int, scene: Any) -> Tensor:
        return torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))

    return mock.patch("mi_core.interventions.normal_like", drawn)
