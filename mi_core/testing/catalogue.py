"""Every check, and which subjects it applies to."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from mi_core.testing import (
    attention,
    capturing,
    experts,
    forking,
    generating,
    gradients,
    inputs,
    layouts,
    memory,
    precision,
    recurrence,
    refusals,
    residual,
    running,
    sites,
    specs,
    weights,
    writing,
)
from mi_core.testing.subject import Subject

__all__ = ["CATALOGUE", "Check", "checks"]


def always(_: Subject) -> bool:
    """It applies to every model."""
    return True


def causal(subject: Subject) -> bool:
    """It applies where a position sees no later one."""
    return subject.model.shape.causal


def per_head(subject: Subject) -> bool:
    """It applies where keys or values can be reached for one query head alone."""
    return subject.offers("attn.hook_k_per_head") or subject.offers("attn.hook_v_per_head")


@dataclass(frozen=True)
class Check:
    """One property of a model: a function that raises `CheckFailed` where it does not hold."""

    function: Callable[[Subject], None]
    needs: tuple[str, ...] = ()
    """The sites without which there is nothing to check."""
    when: Callable[[Subject], bool] = always

    @property
    def name(self) -> str:
        """The function's name."""
        return self.function.__name__

    @property
    def meaning(self) -> str:
        """The first line of its docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    def applies(self, subject: Subject) -> bool:
        """Whether the subject has what it is about."""
        return subject.offers(*self.needs) and self.when(subject)


SCORES: Final = "attn.hook_attn_scores"
PATTERN: Final = "attn.hook_pattern"

CATALOGUE: Final = (
    Check(weights.check_weights_are_finite),
    Check(sites.check_names_are_standard),
    Check(sites.check_points_fire_in_order),
    Check(capturing.check_capturing_changes_nothing),
    Check(capturing.check_captures_commute),
    Check(capturing.check_selected_captures_are_slices),
    Check(capturing.check_early_stop_equals_the_full_run),
    Check(writing.check_writing_back_changes_nothing),
    Check(writing.check_writable_points_are_live),
    Check(writing.check_interventions_compose_in_order),
    Check(writing.check_earlier_layers_are_untouched),
    Check(writing.check_earlier_positions_are_untouched, when=causal),
    Check(residual.check_residual_equations),
    Check(residual.check_norms_divide_by_their_scale),
    Check(residual.check_unembedding_the_last_stream_gives_the_logits),
    Check(weights.check_weights_lead_to_the_next_activation),
    Check(attention.check_patterns_are_causal_softmaxes, needs=(PATTERN,)),
    Check(attention.check_knockouts_cut_exactly, needs=(SCORES, PATTERN)),
    Check(attention.check_blocked_queries_give_zeros, needs=(SCORES, PATTERN, "attn.hook_z")),
    Check(attention.check_scores_stay_masked, needs=(SCORES, PATTERN)),
    Check(attention.check_head_results_sum_to_the_output, needs=("attn.hook_result", "attn.hook_z", "attn.hook_out")),
    Check(attention.check_heads_are_reached_alone, needs=("attn.hook_z",), when=per_head),
    Check(inputs.check_heads_read_their_own_inputs, needs=("hook_resid_pre",), when=inputs.heads_read_apart),
    Check(inputs.check_mlps_read_their_own_input, needs=("hook_mlp_in", "hook_mlp_out")),
    Check(experts.check_sinks_leave_the_rest, needs=("attn.hook_sink", PATTERN)),
    Check(experts.check_experts_sum_to_the_output, needs=(experts.INDICES,)),
    Check(experts.check_router_logits_route, needs=(experts.INDICES,)),
    Check(experts.check_given_weights_call_experts, needs=(experts.INDICES,)),
    Check(layouts.check_rows_in_a_batch_equal_rows_alone),
    Check(layouts.check_padding_is_never_looked_at),
    Check(layouts.check_chunks_equal_the_whole),
    Check(layouts.check_noise_depends_on_seed_row_and_position),
    Check(memory.check_memory_is_the_prefix, when=causal),
    Check(recurrence.check_steps_equal_the_whole, when=recurrence.is_recurrent),
    Check(recurrence.check_carried_values_are_the_prefix, when=recurrence.states_are_written),
    Check(recurrence.check_write_gates_close, needs=(recurrence.GATE, recurrence.VALUES, recurrence.READ)),
    Check(
        recurrence.check_effective_attention_reads_the_values,
        needs=(recurrence.PATTERN, recurrence.VALUES, recurrence.READ),
    ),
    Check(forking.check_last_logits_are_the_last_of_all),
    Check(forking.check_going_on_equals_the_full_run, when=causal),
    Check(forking.check_sweeps_equal_the_loop, when=causal),
    Check(generating.check_generation_equals_full_runs, when=generating.room_to_write),
    Check(gradients.check_gradients_reach_every_point),
    Check(gradients.check_gradients_agree_with_finite_differences),
    Check(specs.check_saved_specs_give_equal_results),
    Check(specs.check_identity_inserts_change_nothing),
    Check(running.check_values_from_runs_equal_tensors),
    Check(running.check_saved_runs_come_back),
    Check(running.check_runs_do_not_depend_on_earlier_runs),
    Check(running.check_a_failing_run_leaves_nothing_behind),
    Check(weights.check_nothing_given_is_changed),
    Check(refusals.check_mistakes_are_refused_before_anything_runs),
    Check(precision.check_bfloat16_stays_close, when=precision.convertible),
)
"""In the order in which they run: what explains most comes first."""


def checks(subject: Subject) -> Iterator[tuple[str, Callable[[], None]]]:
    """The checks that apply to a subject, by name, ready to be called."""
    for check in CATALOGUE:
        if check.applies(subject):
            yield check.name, functools.partial(check.function, subject)
