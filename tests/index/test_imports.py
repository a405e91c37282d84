import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["codes", "catalogue", "hamming", "evaluation", "artifact"])
def test_the_index_does_without_torch_and_our_other_packages(module: str) -> None:
    script = f"import index.{module}, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert not {"torch", "training", "service"} & set(done.stdout.split())
