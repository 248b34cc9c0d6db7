"""Stacks of what was written to the stream, and what each of them means for a token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mi_core.compat.transformer_lens.norms import at_scale, final_normed
from mi_core.compat.transformer_lens.slices import SliceInput, sliced
from mi_core.errors import SelectorError, UnsupportedAnalysis

if TYPE_CHECKING:
    from mi_core.compat.transformer_lens.hooked_transformer import HookedTransformer

__all__ = ["ResidualStacks"]

Stack = Float[Tensor, "component ..."]


class ResidualStacks:
    """The decompositions of an :class:`ActivationCache`. Layer ``L`` means its input; None, -1 and n_layers the end.

    Source: TransformerLens 3.9, ActivationCache; norms differ as :meth:`apply_ln_to_stack` says.
    """

    model: HookedTransformer
    cache_dict: dict[str, Tensor]

    def __getitem__(self, key: object) -> Tensor:
        raise NotImplementedError

    def __contains__(self, key: object) -> bool:
        raise NotImplementedError

    def accumulated_resid(
        self,
        layer: int | None = None,
        incl_mid: bool = False,
        apply_ln: bool = False,
        pos_slice: SliceInput = None,
        mlp_input: bool = False,
        return_labels: bool = False,
    ) -> Any:
        """The stream before each layer up to ``layer``: what a logit lens reads.

        With ``apply_ln`` at the end of the model the final norm is recomputed for each stream, gain and bias included.
        """
        last = self._end(layer)
        found: dict[str, Tensor] = {}
        for index in range(min(last + 1, self._n_layers)):
            found[f"{index}_pre"] = self["resid_pre", index]
            if (incl_mid and index < last) or (mlp_input and index == last):
                found[f"{index}_mid"] = self["resid_mid", index]
        if last == self._n_layers:
            found["final_post"] = self["resid_post", -1]
        stack = torch.stack([sliced(each, pos_slice, -2) for each in found.values()])
        if apply_ln:
            stack = self.apply_ln_to_stack(stack, last, mlp_input, pos_slice, recompute_ln=last == self._n_layers)
        return (stack, list(found)) if return_labels else stack

    def decompose_resid(
        self,
        layer: int | None = None,
        mlp_input: bool = False,
        mode: Literal["all", "mlp", "attn"] = "all",
        apply_ln: bool = False,
        pos_slice: SliceInput = None,
        incl_embeds: bool = True,
        return_labels: bool = False,
    ) -> Any:
        """What embeddings, attention and MLPs have added to the stream before ``layer``; their sum is the stream."""
        if mode not in ("all", "mlp", "attn"):
            raise SelectorError(f"mode={mode!r}: give 'all', 'mlp' or 'attn'.", mode=mode)
        last = self._end(layer)
        found: dict[str, Tensor] = {}
        if incl_embeds:
            found["embed"] = self["hook_embed"]
            if "hook_pos_embed" in self.model.model.points.by_name:
                found["pos_embed"] = self["hook_pos_embed"]
        for index in range(last):
            for part in ("attn", "mlp"):
                if mode in ("all", part) and f"blocks.{index}.hook_{part}_out" in self.model.model.points.by_name:
                    found[f"{index}_{part}_out"] = self[f"{part}_out", index]
        if mlp_input and mode != "mlp":
            found[f"{last}_attn_out"] = self["attn_out", last]
        if not found:
            raise SelectorError(f"nothing writes {mode!r} before layer {last}.", layer=last, mode=mode)
        stack = torch.stack([sliced(each, pos_slice, -2) for each in found.values()])
        if apply_ln:
            stack = self.apply_ln_to_stack(stack, last, mlp_input, pos_slice)
        return (stack, list(found)) if return_labels else stack

    def stack_head_results(
        self,
        layer: int | None = -1,
        return_labels: bool = False,
        incl_remainder: bool = False,
        pos_slice: SliceInput = None,
        apply_ln: bool = False,
    ) -> Any:
        """What each head of the layers before ``layer`` writes, computed from ``hook_z`` where it was not captured.

        The remainder is everything else in the stream, biases included.

        Raises:
            UnsupportedAnalysis: heads' results do not add up to what is written: a norm or a factor lies between.
        """
        last = self._end(layer)
        stacks, labels = [], []
        for index in range(last):
            result = self.head_results(index)
            stacks.append(sliced(result, pos_slice, -3).movedim(-2, 0))
            labels += [f"L{index}H{head}" for head in range(result.shape[-2])]
        if incl_remainder:
            whole = sliced(self["resid_pre", last] if last < self._n_layers else self["resid_post", -1], pos_slice, -2)
            stacks.append((whole - sum(each.sum(0) for each in stacks))[None])
            labels.append("remainder")
        if not stacks:
            raise SelectorError("there is no head before layer 0; with incl_remainder=True there is the remainder.")
        stack = torch.cat(stacks)
        if apply_ln:
            stack = self.apply_ln_to_stack(stack, last, pos_slice=pos_slice)
        return (stack, labels) if return_labels else stack

    def compute_head_results(self) -> None:
        """Put ``attn.hook_result`` of every layer into the cache."""
        for index in range(self._n_layers):
            self.cache_dict[f"blocks.{index}.attn.hook_result"] = self.head_results(index)

    def head_results(self, layer: int) -> Float[Tensor, "... head d_model"]:
        """What each head of a layer writes to the stream."""
        own, added = f"blocks.{layer}.attn.hook_out", f"blocks.{layer}.hook_attn_out"
        between = f"blocks.{layer}.ln1_post.hook_scale" in self.model.model.points.by_name
        if between or (own in self and added in self and not torch.equal(self[own], self[added])):
            raise UnsupportedAnalysis(
                f"heads of {self.model.cfg.model_name} do not write to the stream as they are: attention's output "
                f"({own!r}) goes through a norm or a factor first. Use the analysis of direct logit attribution.",
                layer=layer,
            )
        kept = f"blocks.{layer}.attn.hook_result"
        if kept in self.cache_dict:
            return self.cache_dict[kept]
        return torch.einsum("...hd,hdm->...hm", self["z", layer], self.model.model.weights[f"blocks.{layer}.attn.W_O"])

    def stack_activation(
        self, activation_name: str, layer: int | None = -1, sublayer_type: str | None = None
    ) -> Float[Tensor, "layer ..."]:
        """One activation of all layers before ``layer``."""
        return torch.stack([self[activation_name, index, sublayer_type] for index in range(self._end(layer))])

    def apply_ln_to_stack(
        self,
        residual_stack: Stack,
        layer: int | None = None,
        mlp_input: bool = False,
        pos_slice: SliceInput = None,
        batch_slice: SliceInput = None,
        has_batch_dim: bool = True,
        recompute_ln: bool = False,
    ) -> Stack:
        """Parts of the stream as the norm of ``layer`` passes them on, at the scale that it had in this run.

        The gain is applied, because weights here are as published; TransformerLens has folded it into the next matrix.
        The bias belongs to no part and is left out. ``pos_slice`` is taken to have been applied to the stack.
        """
        last = self._end(layer)
        if has_batch_dim:
            residual_stack = sliced(residual_stack, batch_slice, 1)
        if recompute_ln and last == self._n_layers:
            return final_normed(self.model.model, residual_stack)
        norm = self._norm(last, mlp_input)
        if f"{norm}.hook_scale" not in self.model.model.points.by_name:
            return residual_stack
        scale = sliced(self[f"{norm}.hook_scale"], pos_slice, -2)
        if has_batch_dim:
            scale = sliced(scale, batch_slice, 0)
        return at_scale(self.model.model, residual_stack, scale, norm, self.model.cfg.normalization_type)

    def logit_attrs(
        self,
        residual_stack: Stack,
        tokens: Any,
        incorrect_tokens: Any = None,
        pos_slice: SliceInput = None,
        batch_slice: SliceInput = None,
        has_batch_dim: bool = True,
    ) -> Float[Tensor, "component ..."]:
        """How much each part writes towards tokens (less incorrect ones), in logits before any soft-cap.

        Tokens are a text, an id, or ids ``[batch]`` or ``[batch pos]``.
        """
        directions = self.model.tokens_to_residual_directions(tokens)
        if incorrect_tokens is not None:
            directions = directions - self.model.tokens_to_residual_directions(incorrect_tokens)
        normed = self.apply_ln_to_stack(residual_stack, -1, False, pos_slice, batch_slice, has_batch_dim)
        if directions.ndim == 2 and normed.ndim == 4:
            directions = directions[:, None]  # one token for all positions of a row
        return (normed * directions).sum(-1)

    @property
    def _n_layers(self) -> int:
        return self.model.cfg.n_layers

    def _end(self, layer: int | None) -> int:
        if layer is None or layer == -1:
            return self._n_layers
        if not 0 <= layer <= self._n_layers:
            raise SelectorError(
                f"layer={layer!r}: a number from 0 to {self._n_layers}, which is the end of the model.", layer=layer
            )
        return layer

    def _norm(self, layer: int, mlp_input: bool) -> str:
        if layer == self._n_layers:
            return "ln_final"
        second = f"blocks.{layer}.ln2"
        own = f"{second}.hook_scale" in self.model.model.points.by_name or not self.model.cfg.parallel_attn_mlp
        # parallel layers whose two parts share a norm have but the first
        return second if mlp_input and own else f"blocks.{layer}.ln1"
