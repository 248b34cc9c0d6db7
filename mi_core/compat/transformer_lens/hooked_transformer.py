"""A model under the methods that a `HookedTransformer` has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mi_core.building import build
from mi_core.compat.transformer_lens.activation_cache import ActivationCache
from mi_core.compat.transformer_lens.config import HookedTransformerConfig
from mi_core.compat.transformer_lens.hook_functions import Hook, NamesFilter, matching
from mi_core.compat.transformer_lens.hooking import Hooking
from mi_core.compat.transformer_lens.slices import SliceInput, sliced
from mi_core.compat.transformer_lens.stacked_weights import StackedWeights
from mi_core.compat.transformer_lens.state_dicts import StateDicts
from mi_core.compat.transformer_lens.texts import Texts
from mi_core.errors import InputError, SpecError
from mi_core.folding import folded
from mi_core.generation import Generation
from mi_core.model import Model
from mi_core.plans import Logits
from mi_core.run import Run
from mi_core.spec import HookSpec, capture
from mi_core.tokenizer import Tokenizer

__all__ = ["HookedTransformer", "Output"]

PROCESSING = {
    "fold_ln": "norms",
    "fold_value_biases": "value_biases",
    "center_writing_weights": "center_writing",
    "center_unembed": "center_unembed",
}
"""What weights can go through when they are loaded, and what `mi.folded` calls it."""
TOYS = "hooked_transformer"
"""The model_type of models that are made of its configs."""
RETURN_TYPES = ("logits", "loss", "both", None)
ATTENTION_INPUTS = {"attn_in": ("hook_attn_in",), "split_qkv_input": ("hook_q_input", "hook_k_input", "hook_v_input")}


class Output(NamedTuple):
    """What ``return_type="both"`` returns."""

    logits: Tensor
    loss: Tensor


class HookedTransformer(Hooking, Texts, StackedWeights, StateDicts):
    """A `mi.Model` as ``model``, and around it what notebooks written for TransformerLens call.

    Made of a config instead of a model it is a fresh toy model, trainable, with the config's seed or torch's.

    Weights are as published unless folding is asked for. Unknown names are errors, what hook functions return is
    what the model goes on with, and a hook that is not in ``fwd_hooks``, `hooks` or `add_hook` does not exist.

    Source: TransformerLens 3.9, HookedTransformer.
    """

    def __init__(
        self,
        model: Model | HookedTransformerConfig | Mapping[str, Any],
        tokenizer: Tokenizer | None = None,
        *,
        default_prepend_bos: bool = True,
    ) -> None:
        super().__init__()
        if isinstance(model, Model):
            self.model = model
            self.cfg = HookedTransformerConfig.of(model, default_prepend_bos)
            return
        self.cfg = model if isinstance(model, HookedTransformerConfig) else HookedTransformerConfig.from_dict(model)
        self.model = made_from(self.cfg, tokenizer)
        self.cfg.device, self.cfg.dtype = self.model.device, self.model.dtype

    @classmethod
    def from_pretrained(
        cls, model_name: str, *, default_prepend_bos: bool = True, device: Any = None, **options: Any
    ) -> HookedTransformer:
        """Load a model as `mi.load` does, which takes the ``options``: ``dtype``, ``revision``, ...

        Weights stay as published unless ``fold_ln``, ``fold_value_biases``, ``center_writing_weights`` or
        ``center_unembed`` is True: see `mi.folded`.

        Raises:
            UnsupportedAnalysis: that would change probabilities.
            LoadError: as `mi.load`.
        """
        from mi_core.loading import load

        asked = {ours: bool(options.pop(theirs, False)) for theirs, ours in PROCESSING.items()}
        model = load(model_name, device="auto" if device is None else device, **options)
        model = folded(model, **asked) if any(asked.values()) else model
        return cls(model, default_prepend_bos=default_prepend_bos)

    @classmethod
    def from_pretrained_no_processing(cls, model_name: str, **options: Any) -> HookedTransformer:
        """The same as :meth:`from_pretrained`, which processes nothing unless asked to."""
        return cls.from_pretrained(model_name, **options)

    def __repr__(self) -> str:
        return f"HookedTransformer({self.model!r})"

    # -- running ---------------------------------------------------------------------------------

    def __call__(
        self,
        input: Any,  # noqa: A002 - their name
        return_type: str | None = "logits",
        loss_per_token: bool = False,
        prepend_bos: bool | None = None,
        stop_at_layer: int | None = None,
    ) -> Any:
        """Logits ``[batch pos d_vocab]``, the loss (nats), both, or None, of a text, several, or ids.

        With ``stop_at_layer`` the stream before that layer, and layers from there on are not computed.
        """
        run = self._run(input, HookSpec(), return_type, prepend_bos, stop_at_layer)
        return self._returned(run, return_type, loss_per_token, stop_at_layer)

    def run_with_cache(
        self,
        input: Any,  # noqa: A002 - their name
        return_type: str | None = "logits",
        *,
        names_filter: NamesFilter = None,
        remove_batch_dim: bool = False,
        return_cache_object: bool = True,
        device: Any = None,
        loss_per_token: bool = False,
        prepend_bos: bool | None = None,
        stop_at_layer: int | None = None,
        incl_bwd: bool = False,
        clear_contexts: bool = False,
        pos_slice: SliceInput = None,
    ) -> tuple[Any, Any]:
        """The same as calling the model, and a cache of what the filter lets through.

        With ``incl_bwd`` the loss is differentiated, and the cache has the gradients, too, under names with ``_grad``.

        Raises:
            UnknownPoint: a name that the model does not have, or a filter that lets nothing through.
        """
        names, until = self._kept(names_filter, stop_at_layer), (prepend_bos, stop_at_layer)
        found: dict[str, Tensor] = {}
        back: list[Hook] = []
        if incl_bwd:
            found, _, back = self.get_caching_hooks(names, incl_bwd=True, device=device)
        with self.hooks(bwd_hooks=back, reset_hooks_end=True, clear_contexts=clear_contexts):
            run = self._run(input, capture(names, device=device) if names else HookSpec(), return_type, *until)
        output = self._returned(run, return_type, loss_per_token, stop_at_layer)
        if incl_bwd:
            if not isinstance(output, Tensor) or output.ndim:
                raise InputError("incl_bwd=True differentiates what the model returns: give return_type='loss'.")
            output.backward()  # type: ignore[no-untyped-call]
        found = {**{name: run[name].detach() for name in names}, **found}
        cache = ActivationCache(self._at(found, pos_slice), self)
        cache = cache.remove_batch_dim() if remove_batch_dim else cache
        return output, cache if return_cache_object else cache.cache_dict

    def run_with_hooks(
        self,
        input: Any,  # noqa: A002 - their name
        return_type: str | None = "logits",
        *,
        fwd_hooks: Sequence[Hook] = (),
        bwd_hooks: Sequence[Hook] = (),
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
        loss_per_token: bool = False,
        prepend_bos: bool | None = None,
        stop_at_layer: int | None = None,
    ) -> Any:
        """The same as calling the model within :meth:`hooks`.

        Backward hooks are called when somebody differentiates what is returned, whether hooks are reset or not.
        """
        with self.hooks(fwd_hooks, bwd_hooks, reset_hooks_end, clear_contexts):
            return self(input, return_type, loss_per_token, prepend_bos, stop_at_layer)

    def resumable(self, input: Any, prepend_bos: bool | None = None) -> Run:  # noqa: A002 - their name
        """A run of this library that `mi.Run.resume` goes on from, under the hooks that stand."""
        return self.model.run(self._ids(input, prepend_bos), self.as_spec(self._standing["fwd"]), resumable=True)

    # -- text generation ---------------------------------------------------------------------------

    def generate(
        self,
        input: Any,  # noqa: A002 - their name
        max_new_tokens: int = 10,
        *,
        stop_at_eos: bool = True,
        do_sample: bool = True,
        top_k: int | None = None,
        top_p: float | None = None,
        temperature: float = 1.0,
        use_past_kv_cache: bool = True,
        prepend_bos: bool | None = None,
        return_type: str = "input",
        seed: int | None = None,
        verbose: bool = True,
    ) -> Any:
        """Prompt and continuation: a text for a text, texts for texts, ids ``[batch pos]`` for ids or ``"tokens"``.

        Hooks that stand are called for the prompt, then for every new token.

        Raises:
            InputError: ``return_type`` is something else; ids of rows that end at different lengths are no tensor.
        """
        if return_type not in ("input", "str", "tokens"):
            raise InputError(f"return_type={return_type!r}: give 'input', 'str' or 'tokens'.", return_type=return_type)
        generation = self.model.generate(
            self._ids(input, prepend_bos),
            self.as_spec(self._standing["fwd"]),
            max_new_tokens=max_new_tokens,
            temperature=temperature if do_sample else 0.0,
            top_k=top_k,
            top_p=top_p,
            seed=seed if do_sample else None,
            stop_at_eos=stop_at_eos,
            cache=use_past_kv_cache,
        )
        if return_type == "tokens" or (return_type == "input" and not is_text(input)):
            return generation.tokens
        texts = self._texts_of(generation)
        return texts[0] if isinstance(input, str) else texts

    def _texts_of(self, generation: Generation) -> list[str]:
        rows = [tokens[real].tolist() for tokens, real in zip(generation.tokens, generation.mask, strict=True)]
        bos = self.tokenizer.bos
        return [self.tokenizer.decode(row[1:] if bos is not None and row[0] == bos else row) for row in rows]

    # -- switches and places -----------------------------------------------------------------------

    def set_use_attn_result(self, use_attn_result: bool) -> None:
        """Whether filters and whole caches have ``attn.hook_result``; by name it is always there."""
        self._offer(("attn.hook_result",), use_attn_result)

    def set_use_split_qkv_input(self, use_split_qkv_input: bool) -> None:
        """Whether filters and whole caches have ``hook_q_input`` and its like; by name they are always there."""
        self._offer(ATTENTION_INPUTS["split_qkv_input"], use_split_qkv_input)

    def set_use_attn_in(self, use_attn_in: bool) -> None:
        """Whether filters and whole caches have ``hook_attn_in``; by name it is always there."""
        self._offer(ATTENTION_INPUTS["attn_in"], use_attn_in)

    def set_use_hook_mlp_in(self, use_hook_mlp_in: bool) -> None:
        """Whether filters and whole caches have ``hook_mlp_in``; by name it is always there."""
        self._offer(("hook_mlp_in",), use_hook_mlp_in)

    def to(self, device: Any) -> HookedTransformer:
        """Move the model; returns itself."""
        self.model.module.to(device)
        self.cfg.device, self.cfg.dtype = self.model.device, self.model.dtype
        return self

    def eval(self) -> HookedTransformer:
        """The model as it always is: nothing is dropped out. Returns itself."""
        return self

    def parameters(self) -> Iterator[nn.Parameter]:
        """The parameters, as an optimiser takes them."""
        return self.model.module.parameters()

    # -- inside --------------------------------------------------------------------------------------

    def _offer(self, sites: Sequence[str], wanted: bool) -> None:
        known = {site.name for site in self.model.backend.sites()}
        for site in sites:
            if wanted and site not in known:
                self.model.points.match(f"blocks.*.{site}")  # says why it is not there
        self.cfg.on_demand = self.cfg.on_demand | set(sites) if wanted else self.cfg.on_demand - set(sites)

    def _ids(self, input: Any, prepend_bos: bool | None) -> Any:  # noqa: A002 - their name
        if not is_text(input):
            return input
        texts = [input] if isinstance(input, str) else input
        return [self.ids_of(text, prepend_bos) for text in texts]

    def _run(
        self, inputs: Any, spec: HookSpec, return_type: str | None, prepend_bos: bool | None, stop: int | None
    ) -> Run:
        if return_type not in RETURN_TYPES:
            raise InputError(f"return_type={return_type!r}: give 'logits', 'loss', 'both' or None.", seen=return_type)
        if stop is not None:
            spec += capture(self._before(stop))
        watched = [name for hook in self._standing["bwd"] for name in self._kept(hook[0], stop)]
        spec = self.as_spec(self._standing["fwd"]) + spec
        spec += capture(watched) if watched else HookSpec()
        wanted: Logits = None if return_type is None or stop is not None else "all"
        trained = torch.is_grad_enabled() and any(each.requires_grad for each in self.parameters())
        run = self.model.run(self._ids(inputs, prepend_bos), spec, logits=wanted, grad=bool(watched) or trained)
        self._listen(run)
        return run

    def _returned(self, run: Run, return_type: str | None, loss_per_token: bool, stop: int | None) -> Any:
        if stop is not None:
            return run[self._before(stop)]
        if return_type is None:
            return None
        if return_type == "logits":
            return run.logits
        loss: Float[Tensor, "..."] = run.token_losses[:, 1:] if loss_per_token else run.loss
        return loss if return_type == "loss" else Output(run.logits, loss)

    def _kept(self, names_filter: NamesFilter, stop: int | None) -> list[str]:
        """The names of a cache, of those that are computed before ``stop``."""
        points = self.model.points
        if not callable(names_filter) and names_filter is not None and not names_filter:
            return []
        names = matching(points, names_filter, self.cfg.on_demand)
        if stop is None:
            return names
        end = self._layer(stop)
        found = [points.by_name[name] for name in names]
        early = [p.name for p in found if (points.embedding(p) if p.layer is None else p.layer < end)]
        late = [name for name in names if name not in early]
        if late and names_filter is not None and not callable(names_filter):
            raise SpecError(f"stop_at_layer={stop}: {late[0]!r} is not computed before layer {end}.", points=late)
        return early

    def _at(self, found: Mapping[str, Tensor], pos_slice: SliceInput) -> dict[str, Tensor]:
        """Activations at some positions (patterns at some queries); what has none as it is."""
        if pos_slice is None:
            return dict(found)
        cut: dict[str, Tensor] = {}
        for name, value in found.items():
            dims = self.model.points.by_name[name.removesuffix("_grad")].site.dims
            axis = next((axis for axis, dim in enumerate(dims) if dim in ("pos", "query_pos")), None)
            cut[name] = value if axis is None else sliced(value, pos_slice, axis)
        return cut

    def _layer(self, stop: int) -> int:
        n_layers = self.cfg.n_layers
        if not -n_layers <= stop <= n_layers:
            raise SpecError(f"stop_at_layer={stop}: the model has {n_layers} layers.", layer=stop)
        return stop if stop >= 0 else stop + n_layers

    def _before(self, stop: int) -> str:
        """The stream before a layer, as what the layer before leaves: that one need not be begun."""
        end = self._layer(stop)
        return "blocks.0.hook_resid_pre" if end == 0 else f"blocks.{end - 1}.hook_resid_post"


def made_from(cfg: HookedTransformerConfig, tokenizer: Tokenizer | None) -> Model:
    """A fresh model of a config, as `mi.build` makes one.

    Raises:
        BadConfig: the config asks for what is not computed.
    """
    if cfg.d_vocab < 0 and tokenizer is not None:
        cfg.d_vocab = cfg.d_vocab_out = tokenizer.size
    seed = int(torch.randint(2**31, ())) if cfg.seed is None else cfg.seed
    device = "auto" if cfg.device is None else cfg.device
    config = {"model_type": TOYS, **cfg.for_file()}
    return build(config, seed=seed, device=device, dtype=cfg.dtype, tokenizer=tokenizer)


def is_text(input: Any) -> bool:  # noqa: A002 - their name
    """Whether an input is a text, or several.

    >>> is_text("a"), is_text(["a", "b"]), is_text([1, 2])
    (True, True, False)
    """
    return isinstance(input, str) or (
        isinstance(input, list | tuple) and bool(input) and all(isinstance(each, str) for each in input)
    )
