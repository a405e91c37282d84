"""The machine that a run computes on: which device, in which numbers, and what makes it fast."""

import ctypes
import platform
import re
import sys
from pathlib import Path
from typing import Any

import torch

from training.config import ConfigError

# glibc's names for what mallopt sets, from malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


def choose_device(name: str) -> torch.device:
    """`auto` is a GPU if torch sees one. Raises ConfigError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        if torch.zeros(1, device=name).item() != 0:  # also refuses devices that hold no values
            raise RuntimeError("it does not compute")
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"device {name}: not usable here ({str(error).splitlines()[0]})") from None
    device = torch.device(name)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # streams and graphs are made on the current one
    return device


def choose_precision(name: str, device: torch.device) -> str:
    """`auto` is bf16 where the device has instructions for it, else fp32. Raises ConfigError for tf32 on
    a device without it; bf16 runs everywhere, but is slow where it is emulated."""
    if name == "auto":
        return "bf16" if multiplies_bf16(device) else "fp32"
    if name == "tf32" and not (device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)):
        raise ConfigError(
            f"precision tf32: only NVIDIA GPUs since Ampere have it, not {device}; use fp32 or bf16"
        )
    return name


def multiplies_bf16(device: torch.device) -> bool:
    """Whether products in bfloat16 are faster there than in 32 bits: tensor cores, AMX, AVX512-BF16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    known = getattr(torch.cpu, "get_capabilities", None)  # older torch cannot tell
    capabilities = known() if known else {}
    return any(capabilities.get(name, False) for name in ("amx_bf16", "avx512_bf16"))


def activation_type(precision: str) -> torch.dtype:
    """The type that activations have in this precision; weights have 32 bits in all of them."""
    return torch.bfloat16 if precision == "bf16" else torch.float32


def set_up_process(precision: str) -> None:
    """What holds for the whole process; to be called before the first thread computes."""
    # Sharp softmaxes produce denormal numbers, which are many times slower. Threads inherit this.
    torch.set_flush_denormal(True)
    round_products(precision)
    keep_freed_memory()


def round_products(precision: str) -> None:
    """Whether GPUs may round what they multiply to TF32; torch's own default lets convolutions."""
    reduced = "tf32" if precision == "tf32" else "ieee"
    cudnn: Any = torch.backends.cudnn
    for products in (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn):
        products.fp32_precision = reduced


def keep_freed_memory() -> None:
    """Let glibc keep up to 2 GB of freed memory for the next batch. By default every large block goes back to
    the kernel, which clears each page before it gives it out again: a fifth of a training step."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(M_TOP_PAD, 64 << 20)


def describe(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor()}, {torch.get_num_threads()} threads"


def processor() -> str:
    """The CPU's model where the system says it, as figures of two models do not compare; else its kind."""
    try:
        about = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        about = ""
    models = re.findall(r"^model name\s*:\s*(.+)$", about, re.MULTILINE)
    return models[0].strip() if models else f"{platform.machine()} CPU"
