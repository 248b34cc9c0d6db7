"""TransformerLens' names, shapes and habits on `mi.Model`.

    from mi_core.compat.transformer_lens import HookedTransformer, utils

    model = HookedTransformer.from_pretrained("tiny-world")
    logits, cache = model.run_with_cache("The capital of France is")
    cache["pattern", 3]

Nothing else of this library needs it. Source: TransformerLens 3.9.
"""

from __future__ import annotations

from mi_core.compat.transformer_lens import patching, utils
from mi_core.compat.transformer_lens.act_names import get_act_name
from mi_core.compat.transformer_lens.activation_cache import ActivationCache
from mi_core.compat.transformer_lens.config import HookedTransformerConfig
from mi_core.compat.transformer_lens.factored_matrix import FactoredMatrix
from mi_core.compat.transformer_lens.hook_functions import HookPoint
from mi_core.compat.transformer_lens.hooked_transformer import HookedTransformer

__all__ = [
    "ActivationCache",
    "FactoredMatrix",
    "HookPoint",
    "HookedTransformer",
    "HookedTransformerConfig",
    "get_act_name",
    "patching",
    "utils",
]
