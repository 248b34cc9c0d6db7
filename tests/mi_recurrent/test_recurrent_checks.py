"""The kit's checks of recurrence hold in every version; the whole kit runs on the families in its own test."""

from __future__ import annotations

import pytest

import mi_core as mi
from mi_core import plugins
from mi_core.building import initialise_randomly
from mi_core.testing import CATALOGUE, Check, Subject, effort, subjects

CHECKS = [
    check
    for check in CATALOGUE
    if check.function.__module__ == "mi_core.testing.recurrence" or check.name == "check_memory_is_the_prefix"
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
@pytest.mark.parametrize("family", ["rwkv", "rwkv5", "rwkv6", "rwkv7", "mamba", "mamba2"])
def test_recurrence_has_the_properties_of_the_kit(family: str, check: Check) -> None:
    subject = subjects(family)[0]
    with effort(2, shrink=False):
        assert check.applies(subject)
        check.function(subject)


def delta_nets() -> Subject:
    """A decoder of gated delta nets alone, which the families have beside attention only.

    In double precision: what they read is normed, which scales rounding up where it nearly cancels.
    """
    (config, *_) = plugins.plugin("mi_core.families", "qwen3_5_text").call("mi_family_examples")
    config = {**config, "layer_types": ["linear_attention"] * 3, "num_hidden_layers": 3}
    model = mi.build(config, trainable=False, device="cpu", dtype="float64")
    initialise_randomly(model, 0)
    return Subject(model, config, 0, "delta nets")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_delta_nets_have_the_properties_of_the_kit(check: Check) -> None:
    subject = delta_nets()
    with effort(2, shrink=False):
        assert check.applies(subject)
        check.function(subject)
