"""Products in bfloat16, where the device has instructions for them: an update then takes half of the time or less."""

import contextlib
from collections.abc import Iterable

import torch
from torch import Tensor


def in_bfloat16(terms: Iterable[Tensor]) -> contextlib.AbstractContextManager:
    """Autocast for a model whose moving terms are in float32 on a device that multiplies in bfloat16; else nothing."""
    device = next(iter(terms)).device.type
    is_wide = all(term.dtype == torch.float32 for term in terms)
    if not (is_wide and multiplies_in_bfloat16(device)):
        return contextlib.nullcontext()
    return torch.autocast(device, torch.bfloat16)


def multiplies_in_bfloat16(device: str) -> bool:
    """Of a processor, AVX-512 with BF16, or AMX: others do so in software, which is slower than float32."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device != "cpu":
        return False
    return any(getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
