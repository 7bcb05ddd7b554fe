"""Products in bfloat16 on devices with instructions for them: an update takes two thirds of the time or less."""

import contextlib
from collections.abc import Iterable

import torch
from torch import Tensor


def in_bfloat16(parameters: Iterable[Tensor]) -> contextlib.AbstractContextManager[object]:
    """Autocast if all parameters are in float32 on a device that multiplies in bfloat16; otherwise a null context."""
    parameters = [*parameters]
    device = parameters[0].device.type
    is_wide = all(parameter.dtype == torch.float32 for parameter in parameters)
    if not (is_wide and multiplies_in_bfloat16(device)):
        return contextlib.nullcontext()
    return torch.autocast(device, torch.bfloat16)


def multiplies_in_bfloat16(device: str) -> bool:
    """Whether the device has bfloat16 instructions: GPUs, and CPUs with AVX512-BF16 or AMX. Others are slower than in float32."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device != "cpu":
        return False
    return any(getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
