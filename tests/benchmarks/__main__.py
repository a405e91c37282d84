"""All benchmarks, one after the other: `python -m tests.benchmarks`."""

from tests.benchmarks import evaluation, harness, layers, memory, pipeline, pretraining, service

harness.main(
    layers.measure,
    memory.measure,
    evaluation.measure,
    service.measure,
    pipeline.measure,
    pretraining.measure,  # last: it sets the process up as a training run does
)
