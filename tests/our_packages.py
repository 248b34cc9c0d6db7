"""The packages that this project installs."""

from __future__ import annotations

PACKAGES = (
    "mi_core",
    "mi_decoder",
    "mi_recurrent",
    "mi_families",
    "mi_analyses",
    "mi_dictionaries",
    "mi_graphs",
    "mi_algzoo",
    "mi_probing",
    "mi_registry",
)
