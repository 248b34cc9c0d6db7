"""What notebooks reach for as ``transformer_lens.utils``: an index, under the name that it has there."""

from __future__ import annotations

from mi_core.compat.transformer_lens.act_names import get_act_name
from mi_core.compat.transformer_lens.slices import to_numpy

__all__ = ["get_act_name", "to_numpy"]
