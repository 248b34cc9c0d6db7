"""Analyses: one module for each, imported here as the functions that they are.

Importing one imports the core and nothing heavy beside it; views and commands are loaded when they are used.
"""

from mi_analyses.activation_patching import ActivationPatching, activation_patching
from mi_analyses.attention_knockout import AttentionKnockout, attention_knockout
from mi_analyses.attention_patterns import AttentionPatterns, attention_patterns
from mi_analyses.direct_logit_attribution import DirectLogitAttribution, direct_logit_attribution
from mi_analyses.head_scores import HeadScores, head_scores
from mi_analyses.logit_lens import LogitLens, logit_lens
from mi_analyses.path_patching import PathPatching, path_patching
from mi_analyses.pattern_views import PATTERN_VIEWS

__all__ = [
    "PATTERN_VIEWS",
    "ActivationPatching",
    "AttentionKnockout",
    "AttentionPatterns",
    "DirectLogitAttribution",
    "HeadScores",
    "LogitLens",
    "PathPatching",
    "activation_patching",
    "attention_knockout",
    "attention_patterns",
    "direct_logit_attribution",
    "head_scores",
    "logit_lens",
    "path_patching",
]
