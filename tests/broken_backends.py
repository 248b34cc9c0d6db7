"""Backends that are broken on purpose, one for each check of the conformance kit; run as a script, who refuses whom."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from weakref import WeakSet

import broken_attention as heads
import broken_experts as mixtures
import broken_recurrent as recurrent
import torch
from broken_core import forgetful_specs, inexact_runs, inexact_values, noise_by_shape
from torch import Tensor
from wrapped_backends import CONFIG, Wrapped, plain

from mi_core.model import Model
from mi_core.testing import CATALOGUE, Subject, effort


class HoldsNaN(Wrapped):
    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        with torch.no_grad():
            next(iter(inner.parameters()))[0, 0] = torch.nan


class MisspellsASite(Wrapped):
    def change(self, tap: Any, name: str, value: Tensor) -> Tensor:
        return tap("mlp.hook_pots" if name == "mlp.hook_post" else name, value)

    def sites(self) -> Any:
        return [
            dataclasses.replace(site, name="mlp.hook_pots" if site.name == "mlp.hook_post" else site.name)
            for site in self.inner.sites()
        ]


class TransposesAStandardSite(Wrapped):
    def sites(self) -> Any:
        dims = ("batch", "head", "pos", "d_head")
        return [dataclasses.replace(s, dims=dims) if s.name == "attn.hook_q" else s for s in self.inner.sites()]

    site = "attn.hook_q"

    def meddle(self, tap: Any, name: str, value: Tensor) -> Tensor:
        return tap(name, value.transpose(1, 2)).transpose(1, 2)


class ListsInAnotherOrder(Wrapped):
    def sites(self) -> Any:
        sites = list(self.inner.sites())
        q = next(i for i, site in enumerate(sites) if site.name == "attn.hook_q")
        sites[q], sites[q + 1] = sites[q + 1], sites[q]
        return sites


class ListsWhatNeverFires(Wrapped):
    site = "mlp.hook_in"

    def meddle(self, tap: Any, name: str, value: Tensor) -> Tensor:
        return value


class FiresHeadsFirst(Wrapped):
    site = "attn.hook_z"

    def meddle(self, tap: Any, name: str, value: Tensor) -> Tensor:
        return tap(name, value.transpose(1, 2)).transpose(1, 2)


class ChangesWhenRead(Wrapped):
    site = "mlp.hook_out"

    def meddle(self, tap: Any, name: str, value: Tensor) -> Tensor:
        return tap(name, value) * 1.0001 if tap.wants(name) else value


class ReadsAnotherByTheWay(Wrapped):
    site = "mlp.hook_in"

    def meddle(self, tap: Any, name: str, value: Tensor) -> Tensor:
        if tap.wants("attn.hook_q") and not tap.edits(name):
            tap(name, value * 1.01)
            return value
        return tap(name, value)


class ReusesTheTensorThatItOffered(Wrapped):
    def change(self, tap: Any, name: str, value: Tensor) -> Tensor:
        seen = tap(name, value)
        if torch.is_grad_enabled():
            return seen
        kept = seen.clone()
        seen.data.mul_(2)
        return kept


class NormsAcrossPositions(Wrapped):
    def unembed(self, resid: Tensor, tap: Any) -> Tensor:
        return super().unembed(resid - 0.05 * resid.mean(-2, keepdim=True) if resid.ndim > 2 else resid, tap)


class ChangesWhenWritten(Wrapped):
    site = "attn.hook_v"

    def meddle(self, tap: Any, name: str, value: Tensor) -> Tensor:
        return tap(name, value) + 1e-3 if tap.edits(name) else tap(name, value)


class IgnoresTheTap(Wrapped):
    site = "mlp.hook_pre_linear"

    def meddle(self, tap: Any, name: str, value: Tensor) -> Tensor:
        tap(name, value)
        return value


class TapsTwice(Wrapped):
    site = "attn.hook_q"

    def meddle(self, tap: Any, name: str, value: Tensor) -> Tensor:
        return tap(name, tap(name, value))


class EditsTheStreamInPlace(Wrapped):
    def block(self, layer: int, block: Any, stream: Any, batch: Any, tap: Any, memory: Any) -> Any:
        if tap.edits("mlp.hook_post"):
            stream.resid.data.mul_(1.01)
        return block(stream, batch, tap, memory)


class LooksAhead(Wrapped):
    site = "attn.hook_z"

    def meddle(self, tap: Any, name: str, value: Tensor) -> Tensor:
        z = tap(name, value)
        return z + 0.05 * z.mean(1, keepdim=True)


class ScalesTheEmbeddingBehindTheHook(Wrapped):
    def embed(self, batch: Any, tap: Any) -> Any:
        stream = super().embed(batch, tap)
        return dataclasses.replace(stream, resid=stream.resid * 1.5)


class CallsTheVarianceAScale(Wrapped):
    site = "ln2.hook_scale"

    def meddle(self, tap: Any, name: str, value: Tensor) -> Tensor:
        return tap(name, value.square()).abs().sqrt()


class UnembedsVectorsOtherwise(Wrapped):
    def unembed(self, resid: Tensor, tap: Any) -> Tensor:
        return super().unembed(resid, tap) * (1.0 if resid.ndim == 3 else 1.01)


class NamesAnotherWeight(Wrapped):
    def weight(self, name: str) -> Tensor:
        return self.inner.weight(name) * (2 if name.endswith("W_out") else 1)


class CountsColumns(Wrapped):
    def embedded(self, batch: Any, value: Tensor) -> Tensor:
        return value + 0.01 * batch.inputs.shape[1]


class LooksBehindTheLength(Wrapped):
    def embedded(self, batch: Any, value: Tensor) -> Tensor:
        behind = torch.arange(value.shape[1]) >= batch.length[:, None]
        return value + 0.1 * (value * behind[..., None]).sum(1, keepdim=True)


class CountsRows(Wrapped):
    def embedded(self, batch: Any, value: Tensor) -> Tensor:
        return value + 0.01 * len(batch.inputs)


class ForgetsALittle(Wrapped):
    def block(self, layer: int, block: Any, stream: Any, batch: Any, tap: Any, memory: Any) -> Any:
        if memory is not None:
            memory = dataclasses.replace(memory, values=memory.values * 0.9)
        return block(stream, batch, tap, memory)


class MixesUpMemories(Wrapped):
    def block(self, layer: int, block: Any, stream: Any, batch: Any, tap: Any, memory: Any) -> Any:
        if memory is not None:
            # every row goes on from where the longest prefix ends
            start = batch.start.max().expand_as(batch.start)
            batch = dataclasses.replace(batch, start=start, shared={})
            memory = dataclasses.replace(memory, length=start)
        return block(stream, batch, tap, memory)


class KeepsTheFirstColumn(Wrapped):
    def block(self, layer: int, block: Any, stream: Any, batch: Any, tap: Any, memory: Any) -> Any:
        if batch.keep is not None:
            batch = dataclasses.replace(batch, keep=torch.zeros_like(batch.keep), shared={})
        return block(stream, batch, tap, memory)


class ForgetsWhatItIsAskedToContinue(Wrapped):
    def block(self, layer: int, block: Any, stream: Any, batch: Any, tap: Any, memory: Any) -> Any:
        stream, after = block(stream, batch, tap, memory)
        if memory is not None:
            stream = dataclasses.replace(stream, resid=stream.resid + 0.05 * stream.resid.roll(1, -1))
        return stream, after


class TakesPartsForOneRow(Wrapped):
    def block(self, layer: int, block: Any, stream: Any, batch: Any, tap: Any, memory: Any) -> Any:
        """Tokens see those of the other parts."""
        return block(stream, dataclasses.replace(batch, parts=()), tap, memory)


class CountsRowsInEveryBlock(Wrapped):
    def block(self, layer: int, block: Any, stream: Any, batch: Any, tap: Any, memory: Any) -> Any:
        stream, after = block(stream, batch, tap, memory)
        turned = 0.01 * len(stream.resid) * stream.resid.roll(1, -1)
        return dataclasses.replace(stream, resid=stream.resid + turned), after


class WearsOut(Wrapped):
    """Going on from a memory works once: what is made from a memory forgets."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.second: WeakSet[Any] = WeakSet()

    def block(self, layer: int, block: Any, stream: Any, batch: Any, tap: Any, memory: Any) -> Any:
        worn = memory in self.second
        stream, after = block(
            stream, batch, tap, dataclasses.replace(memory, values=memory.values * 0.9) if worn else memory
        )
        if memory is not None and after is not None:
            self.second.add(after)
        return stream, after


class CutsTheGraph(Wrapped):
    site = "mlp.hook_pre"

    def meddle(self, tap: Any, name: str, value: Tensor) -> Tensor:
        return tap(name, value).detach()


class BendsTheGradient(Wrapped):
    site = "mlp.hook_pre"

    def meddle(self, tap: Any, name: str, value: Tensor) -> Tensor:
        seen = tap(name, value)
        return seen + (seen * 0.5 - (seen * 0.5).detach())


class RemembersTheLongestPrompt(Wrapped):
    longest = 0

    def embedded(self, batch: Any, value: Tensor) -> Tensor:
        self.longest = max(self.longest, batch.inputs.shape[1])
        return value * (1 + 0.01 * self.longest)


class ForgetsToCleanUp(Wrapped):
    inside = 0

    def block(self, layer: int, block: Any, stream: Any, batch: Any, tap: Any, memory: Any) -> Any:
        self.inside += 1
        result = block(stream, batch, tap, memory)
        self.inside -= 1
        return result

    def embedded(self, batch: Any, value: Tensor) -> Tensor:
        return value * (1 + 0.01 * self.inside)


class WritesToItsWeights(Wrapped):
    def embedded(self, batch: Any, value: Tensor) -> Tensor:
        with torch.no_grad():
            next(iter(self.inner.parameters())).add_(0)
        return value


class KeepsSizesToItself(Wrapped):
    def sites(self) -> Any:
        return [dataclasses.replace(s, sizes={}) if s.name == "mlp.hook_post" else s for s in self.inner.sites()]


class OffersAnotherDtype(Wrapped):
    site = "hook_attn_out"

    def meddle(self, tap: Any, name: str, value: Tensor) -> Tensor:
        return tap(name, value.float()).to(value.dtype)


Break = type[Wrapped] | Callable[[], Any]

BROKEN: Mapping[str, tuple[Break, ...]] = {
    "check_weights_are_finite": (HoldsNaN,),
    "check_names_are_standard": (MisspellsASite, TransposesAStandardSite),
    "check_points_fire_in_order": (ListsInAnotherOrder, ListsWhatNeverFires, FiresHeadsFirst, TapsTwice),
    "check_capturing_changes_nothing": (ChangesWhenRead,),
    "check_captures_commute": (ReadsAnotherByTheWay,),
    "check_selected_captures_are_slices": (ReusesTheTensorThatItOffered,),
    "check_early_stop_equals_the_full_run": (NormsAcrossPositions,),
    "check_writing_back_changes_nothing": (ChangesWhenWritten,),
    "check_writable_points_are_live": (IgnoresTheTap,),
    "check_interventions_compose_in_order": (TapsTwice,),
    "check_earlier_layers_are_untouched": (EditsTheStreamInPlace,),
    "check_earlier_positions_are_untouched": (LooksAhead,),
    "check_residual_equations": (ScalesTheEmbeddingBehindTheHook,),
    "check_norms_divide_by_their_scale": (CallsTheVarianceAScale,),
    "check_unembedding_the_last_stream_gives_the_logits": (UnembedsVectorsOtherwise,),
    "check_weights_lead_to_the_next_activation": (NamesAnotherWeight,),
    "check_patterns_are_causal_softmaxes": (heads.ShowsAnotherPattern,),
    "check_knockouts_cut_exactly": (heads.CutsOnlyWhereSomebodyLooks,),
    "check_blocked_queries_give_zeros": (heads.DividesByNothing, heads.CutsOnlyWhereSomebodyLooks),
    "check_scores_stay_masked": (heads.MasksWithALargeNumber,),
    "check_head_results_sum_to_the_output": (heads.MixesUpHeads,),
    "check_heads_are_reached_alone": (heads.WritesToTheWholeGroup,),
    "check_heads_read_their_own_inputs": (heads.HandsInputsToOtherHeads,),
    "check_mlps_read_their_own_input": (heads.ReadsTwiceWhatIsWritten,),
    "check_sinks_leave_the_rest": (mixtures.ShowsWhereSinksTakeNothing,),
    "check_experts_sum_to_the_output": (mixtures.ShowsExpertsInAnotherOrder, mixtures.ForgetsTheSharedExpert),
    "check_router_logits_route": (mixtures.RoutesByWhatWasThere,),
    "check_given_weights_call_experts": (mixtures.CallsOnlyWhomTheRouterChose,),
    "check_rows_in_a_batch_equal_rows_alone": (CountsColumns,),
    "check_padding_is_never_looked_at": (LooksBehindTheLength,),
    "check_chunks_equal_the_whole": (CountsRows,),
    "check_noise_depends_on_seed_row_and_position": (noise_by_shape,),
    "check_memory_is_the_prefix": (ForgetsALittle, MixesUpMemories, recurrent.ForgetsHalfItsState),
    "check_steps_equal_the_whole": (recurrent.TakesOtherSteps,),
    "check_carried_values_are_the_prefix": (recurrent.LosesSomeOfWhatIsWritten, recurrent.CarriesWhatHasNoName),
    "check_write_gates_close": (recurrent.LeavesTheGateAjar, recurrent.OpensTheGateTooFar),
    "check_effective_attention_reads_the_values": (recurrent.ShowsSizesOnly, recurrent.SharesOutWhatIsCut),
    "check_last_logits_are_the_last_of_all": (KeepsTheFirstColumn,),
    "check_going_on_equals_the_full_run": (ForgetsWhatItIsAskedToContinue,),
    "check_sweeps_equal_the_loop": (
        ForgetsWhatItIsAskedToContinue,
        TakesPartsForOneRow,
        CountsRowsInEveryBlock,
    ),
    "check_generation_equals_full_runs": (WearsOut, ForgetsALittle),
    "check_gradients_reach_every_point": (CutsTheGraph,),
    "check_gradients_agree_with_finite_differences": (BendsTheGradient,),
    "check_saved_specs_give_equal_results": (forgetful_specs,),
    "check_identity_inserts_change_nothing": (ChangesWhenWritten,),
    "check_values_from_runs_equal_tensors": (inexact_values,),
    "check_saved_runs_come_back": (inexact_runs,),
    "check_runs_do_not_depend_on_earlier_runs": (RemembersTheLongestPrompt,),
    "check_a_failing_run_leaves_nothing_behind": (ForgetsToCleanUp,),
    "check_nothing_given_is_changed": (WritesToItsWeights,),
    "check_mistakes_are_refused_before_anything_runs": (KeepsSizesToItself,),
    "check_bfloat16_stays_close": (OffersAnotherDtype,),
}


@contextlib.contextmanager
def broken(what: Break) -> Iterator[Subject]:
    """A subject that is broken in one way."""
    if isinstance(what, type):
        model = plain(what.config)
        wrapped = Model(what(model.backend), name=model.name, config=model.config)
        yield Subject(wrapped, what.config, 0, what.__name__)
        return
    model = plain()
    with what():
        yield Subject(model, CONFIG, 0, what.__name__)


def refusing(what: Break, examples: int = 5) -> list[str]:
    """The checks that refuse one broken thing."""
    found = []
    for check in CATALOGUE:
        with broken(what) as subject, effort(examples, shrink=False):
            try:
                if check.applies(subject):
                    check.function(subject)
            except Exception:
                found.append(check.name)
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name, ways in BROKEN.items():
        for way in ways:
            others = [other for other in refusing(way) if other != name]
            print(f"{way.__name__}: {name}; also {', '.join(others) or 'none'}", flush=True)
