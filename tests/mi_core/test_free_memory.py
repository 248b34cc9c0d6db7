"""How much memory is free on a device, and which errors say that there was none: told by a CUDA that is not there."""

import pytest
import torch

from mi_core.budget import free_bytes, halved_on_out_of_memory

FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:126] DefaultCPUAllocator: can't allocate memory"),
]


def test_memory_that_torch_keeps_for_later_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, found in {"mem_get_info": (1000, 9000), "memory_reserved": 700, "memory_allocated": 300}.items():
        monkeypatch.setattr(torch.cuda, name, lambda _, found=found: found)
    assert free_bytes(torch.device("cuda", 1)) == 1400


@pytest.mark.parametrize("error", FULL, ids=lambda error: str(error)[:24])
def test_fewer_tokens_are_tried_whoever_had_no_memory(error: RuntimeError) -> None:
    tried = []

    def attempt(tokens: int) -> None:
        tried.append(tokens)
        if tokens > 4:
            raise error

    halved_on_out_of_memory(attempt, 16)
    assert tried == [16, 8, 4]


def test_other_errors_of_a_device_are_raised() -> None:
    def attempt(_: int) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal"):
        halved_on_out_of_memory(attempt, 16)
