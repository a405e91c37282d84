"""What an artifact and a table's row say of the machine."""

import platform
from pathlib import Path

import torch

from training.export import describe


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
