"""Where a capture is kept, and in which dtype."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mi_core.errors import SpecError

__all__ = ["AS_COMPUTED", "Placement", "device_name", "dtype_name"]


@dataclass(frozen=True)
class Placement:
    """Where captured entries go as soon as they are selected; None leaves them as they were computed."""

    device: str | None = None
    dtype: str | None = None

    def put(self, value: Tensor) -> Tensor:
        """The entries there; numbers that are no floating-point numbers keep their dtype.

        >>> Placement(dtype="bfloat16").put(torch.ones(2)).dtype
        torch.bfloat16
        """
        if self.dtype is not None and value.is_floating_point():
            value = value.to(getattr(torch, self.dtype))
        return value if self.device is None else value.to(self.device)

    def check(self) -> None:
        """Refuse a device that is not there, before anything runs."""
        if self.device is not None:
            try:
                torch.empty(0, device=self.device)
            except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
                reason = str(error).partition("\n")[0]
                raise SpecError(
                    f'captures cannot be kept on device={self.device!r}: {reason}. Use "host", or a device of this '
                    "machine.",
                    device=self.device,
                ) from None


AS_COMPUTED = Placement()


def device_name(device: str | torch.device | None) -> str | None:
    """A device as a spec writes it: ``"host"`` is the machine's own memory, ``"cpu"``.

    >>> device_name("host"), device_name(torch.device("cuda", 1))
    ('cpu', 'cuda:1')
    """
    if device is None:
        return None
    try:
        known = torch.device("cpu" if device == "host" else device)
    except (RuntimeError, TypeError):
        known = torch.device("meta")
    if known.type == "meta":  # which keeps no numbers
        raise SpecError(
            f'device={device!r} is no place to keep a capture: give "host", or a device such as "cuda:0".',
            device=device,
        )
    return str(known)


def dtype_name(dtype: str | torch.dtype | None) -> str | None:
    """A floating-point dtype as a spec writes it.

    >>> dtype_name(torch.float16), dtype_name("bfloat16")
    ('float16', 'bfloat16')
    """
    if dtype is None:
        return None
    known = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(known, torch.dtype) or not known.is_floating_point:
        raise SpecError(
            f'dtype={dtype!r} is no dtype to keep activations in: give a floating-point one, such as "bfloat16".',
            dtype=dtype,
        )
    return str(known).removeprefix("torch.")
