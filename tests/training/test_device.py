"""Which numbers a run computes in, what is set for the whole process, and what is said of the machine."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests import forking
from training.config import ConfigError
from training.device import activation_type, choose_device, choose_precision, describe

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capabilities", "chosen"),
    [
        ({"amx_bf16": True, "avx512_bf16": True}, "bf16"),
        ({"amx_bf16": False, "avx512_bf16": True}, "bf16"),
        ({"amx_bf16": False, "avx512_bf16": False, "avx2": True}, "fp32"),
        ({}, "fp32"),
    ],
)
def test_auto_takes_bf16_where_the_processor_has_it(capabilities, chosen, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert choose_precision("auto", CPU) == chosen


def test_auto_is_fp32_where_torch_cannot_tell(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert choose_precision("auto", CPU) == "fp32"


def test_a_named_precision_is_taken_as_it_is():
    assert [choose_precision(name, CPU) for name in ("fp32", "bf16")] == ["fp32", "bf16"]
    with pytest.raises(ConfigError, match="precision tf32: only NVIDIA GPUs since Ampere have it, not cpu"):
        choose_precision("tf32", CPU)


def test_only_bf16_changes_the_type_of_activations():
    types = {name: activation_type(name) for name in ("fp32", "tf32", "bf16")}
    assert types == {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}


def test_auto_device_is_one_that_computes():
    device = choose_device("auto")
    assert torch.ones(2, device=device).sum().item() == 2


def printed(script, start=forking.Popen):
    """What a process of its own prints: these settings outlast whoever makes them."""
    with start([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        printed, _ = process.communicate()
    assert process.returncode == 0
    return printed.split()


@pytest.mark.process
@pytest.mark.parametrize(("precision", "reduced"), [("fp32", "ieee"), ("bf16", "ieee"), ("tf32", "tf32")])
def test_gpus_round_products_only_if_told(precision, reduced):
    assert printed(
        "import torch\n"
        "from training.device import set_up_process\n"
        f"set_up_process({precision!r})\n"
        "print(torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision)\n"
        "print((torch.tensor([1e-30]) * 1e-10).item())"  # a denormal number
    ) == [reduced, reduced, "0.0"]


@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's own")
def test_freed_memory_is_kept():
    resident = """
import re, torch
from pathlib import Path
from training.device import keep_freed_memory
def megabytes():
    return int(re.search(r"VmRSS:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
def left():
    before = megabytes()
    block = torch.ones(64 << 20, dtype=torch.uint8)
    del block
    return megabytes() - before
print(left())
keep_freed_memory()
print(left())
"""
    returned, kept = map(float, printed(resident, subprocess.Popen))  # with a heap of its own
    # The whole block goes or stays. Linux counts resident pages per thread and adds them up late (proc(5):
    # "inaccurate"), and torch takes and frees other memory meanwhile: a megabyte or two of the 64.
    assert returned < 16
    assert kept > 48


def test_a_cpu_is_called_by_its_model(monkeypatch):
    facts = "processor\t: 0\nmodel name\t: A CPU @ 3 GHz\nprocessor\t: 1\nmodel name\t: A CPU @ 3 GHz\n"
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: facts)
    assert describe(torch.device("cpu")) == f"A CPU @ 3 GHz, {torch.get_num_threads()} threads"


def test_where_the_system_does_not_tell_the_model_a_cpu_is_called_by_its_kind(monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError

    for read in (missing, lambda *_, **__: "Processor\t: ARMv8\n"):
        monkeypatch.setattr(Path, "read_text", read)
        assert describe(torch.device("cpu")).startswith(f"{platform.machine()} CPU, ")


@pytest.mark.parametrize("time", range(2))
def test_what_is_set_for_a_process_ends_with_its_test(time):
    smallest = torch.tensor(sys.float_info.min, dtype=torch.float64)
    assert smallest / 2 > 0
    torch.set_flush_denormal(True)
    assert smallest / 2 == 0
