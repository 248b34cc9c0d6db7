"""Texts as tokens and back, with TransformerLens' habits: a BOS in front, ids in a padded tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_core.compat.transformer_lens.config import HookedTransformerConfig
from mi_core.errors import InputError, TokenizerError
from mi_core.model import Model
from mi_core.rows import reader_of
from mi_core.tokenizer import Tokenizer

__all__ = ["Texts"]


class Texts:
    """The text side of a :class:`HookedTransformer`."""

    model: Model
    cfg: HookedTransformerConfig

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer.

        Raises:
            NoTokenizer: the model has none.
        """
        return reader_of(self.model.tokenizer)

    def ids_of(self, text: str, prepend_bos: bool | None = None) -> list[int]:
        """The ids of one text, with one BOS in front or none.

        Raises:
            TokenizerError: a BOS is demanded and the tokenizer has none.
        """
        reader = self.tokenizer
        wanted = self.cfg.default_prepend_bos if prepend_bos is None else prepend_bos
        ids = list(reader.encode(text).ids)
        if reader.bos is None:
            if prepend_bos:
                raise TokenizerError(f"prepend_bos=True, but the tokenizer of {self.model.name} names no BOS token.")
            return ids
        if not wanted:
            # only what the tokenizer itself adds is taken off, not what the text says
            added = len(ids) > len(reader.encode(text, special=False).ids) and ids[0] == reader.bos
            return ids[1:] if added else ids
        return ids if ids[:1] == [reader.bos] else [reader.bos, *ids]

    def to_tokens(
        self,
        input: str | Sequence[str],  # noqa: A002 - their name
        prepend_bos: bool | None = None,
        truncate: bool = False,
    ) -> Int[Tensor, "batch pos"]:
        """The ids of a text, or of several padded on the right.

        Raises:
            InputError: texts of different lengths, and the tokenizer has neither a pad nor an end-of-text token.
        """
        texts = [input] if isinstance(input, str) else list(input)
        rows = [self.ids_of(text, prepend_bos) for text in texts]
        rows = [row[: self.cfg.n_ctx] for row in rows] if truncate else rows
        width = max(map(len, rows), default=0)
        pad = next((each for each in (self.tokenizer.pad, self.tokenizer.eos) if each is not None), None)
        if pad is None and any(len(row) < width for row in rows):
            raise InputError(
                f"texts of {sorted({len(row) for row in rows})} tokens fit into no tensor: the tokenizer has no pad "
                "token. Give the list of texts to the model itself, which masks what is not there."
            )
        padded = [[*row, *[pad] * (width - len(row))] for row in rows]
        return torch.tensor(padded, dtype=torch.long, device=self.cfg.device).reshape(len(rows), width)

    def to_string(self, tokens: Any) -> str | list[str]:
        """The text of ids ``[pos]`` (or one id); of ids ``[batch pos]`` a list."""
        ids = torch.as_tensor(tokens)
        if ids.ndim == 2:
            return [self.tokenizer.decode(row) for row in ids.tolist()]
        return self.tokenizer.decode(ids.reshape(-1).tolist())

    def to_str_tokens(self, input: Any, prepend_bos: bool | None = None) -> Any:  # noqa: A002 - their name
        """Each token as a text; a list of texts gives a list for each."""
        if isinstance(input, str):
            return [self.tokenizer.text(token) for token in self.ids_of(input, prepend_bos)]
        if isinstance(input, list | tuple) and input and isinstance(input[0], str):
            return [self.to_str_tokens(text, prepend_bos) for text in input]
        ids = torch.as_tensor(input)
        if ids.ndim == 2 and len(ids) > 1:
            raise InputError(f"ids of shape {list(ids.shape)} are several rows: give one row, or a list of texts.")
        return [self.tokenizer.text(token) for token in ids.reshape(-1).tolist()]

    def to_single_token(self, string: str) -> int:
        """The one token that is this text.

        Raises:
            NotSingleToken: it is several; the message lists them.
        """
        return self.tokenizer.single(string)

    def to_single_str_token(self, int_token: int) -> str:
        """The text of one token."""
        return self.tokenizer.text(int_token)

    def get_token_position(
        self,
        single_token: str | int,
        input: str | Tensor,  # noqa: A002 - their name
        mode: str = "first",
        prepend_bos: bool | None = None,
    ) -> int:
        """Where a token stands in a text or a row of ids: its first or its last place.

        Raises:
            InputError: it is not there, or there are several rows.
        """
        if mode not in ("first", "last"):
            raise InputError(f"mode={mode!r}: give 'first' or 'last'.", mode=mode)
        ids = self.ids_of(input, prepend_bos) if isinstance(input, str) else self._row(input)
        token = self.to_single_token(single_token) if isinstance(single_token, str) else int(single_token)
        places = [place for place, each in enumerate(ids) if each == token]
        if not places:
            raise InputError(f"{single_token!r} (token {token}) does not occur in {ids}.", token=token)
        return places[0] if mode == "first" else places[-1]

    def _row(self, ids: Tensor) -> list[int]:
        if ids.ndim == 2 and len(ids) != 1:
            raise InputError(f"ids of shape {list(ids.shape)} are several rows: give one.")
        row: list[int] = ids.reshape(-1).tolist()
        return row

    def tokens_to_residual_directions(self, tokens: Any) -> Float[Tensor, "... d_model"]:
        """The column of W_U of each token: ``[d_model]`` for one token, else a dim for each dim of the ids."""
        ids = torch.as_tensor(self.to_single_token(tokens) if isinstance(tokens, str) else tokens)
        directions = self.model.weights["unembed.W_U"].T[ids.to(self.cfg.device)]
        return directions.reshape(-1) if ids.numel() == 1 else directions
