"""All benchmarks, one after the other: `python -m tests.benchmarks`."""

from tests.benchmarks import evaluation, harness, layers, service

harness.main(layers.measure, evaluation.measure, service.measure)
