"""The schedule, the best epoch, and codes without labels."""

import numpy as np
import pytest
import torch
from torch import nn

from training.finetune import Supervised, accuracy, halvings, head_without_labels
from training.nets.head import Head


def test_rate_halves_every_two_epochs_after_the_tenth():
    factors = [halvings(epoch, 20) for epoch in range(20)]
    assert factors == [1.0] * 10 + [0.5] * 2 + [0.25] * 2 + [0.125] * 2 + [1 / 16] * 2 + [1 / 32] * 2
    assert [halvings(epoch, 10) for epoch in range(10)] == [1.0] * 5 + [0.5, 0.25, 0.125, 1 / 16, 1 / 32]
    assert halvings(0, 1) == 0.5**5


def learner(epochs=20, lr=0.1):
    torch.manual_seed(0)
    return Supervised(nn.Linear(4, 3), lr=lr, momentum=0.9, weight_decay=0.0, epochs=epochs)


def clusters(count=60):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 3
    return torch.eye(4)[labels] + 0.1 * torch.randn(count, 4, generator=generator), labels


def test_learns_to_tell_clusters_apart():
    learning, batch = learner(), clusters()
    for epoch in range(20):
        learning.epoch(epoch, [batch] * 5)
    assert accuracy(learning.model, [batch]) == 1.0


def test_best_epoch_is_kept_and_the_later_of_equals():
    learning = learner()
    states = []
    for epoch, score in enumerate([0.5, 0.9, 0.9, 0.7]):
        learning.epoch(epoch, [clusters()])
        learning.consider(score)
        states.append(learning.model.weight.detach().clone())
    learning.finish()
    assert torch.equal(learning.model.weight, states[2])
    assert not torch.equal(states[2], states[1])


def test_without_validation_the_last_epoch_stays():
    learning = learner()
    learning.epoch(0, [clusters()])
    last = learning.model.weight.detach().clone()
    learning.finish()
    assert torch.equal(learning.model.weight, last)


def test_going_on_from_a_saved_state_changes_nothing():
    straight, first = learner(), learner()
    for epoch in range(4):
        straight.epoch(epoch, [clusters()])
    for epoch in range(2):
        first.epoch(epoch, [clusters()])
    first.consider(0.5)
    second = learner()
    second.model.load_state_dict(first.model.state_dict())
    second.load_state_dict(first.state_dict())
    for epoch in range(2, 4):
        second.epoch(epoch, [clusters()])
    assert torch.equal(second.model.weight, straight.model.weight)
    assert second.best_accuracy == 0.5


def test_divergence_is_said():
    inputs, labels = clusters()
    with pytest.raises(FloatingPointError, match=r"diverged in epoch 1 with learning rate 0\.1"):
        learner().epoch(0, [(inputs * torch.inf, labels)])


def test_accuracy_counts():
    logits = torch.eye(3)[[0, 1, 2, 2]]
    assert accuracy(lambda x: x, [(logits, torch.tensor([0, 1, 2, 0]))]) == 0.75


def features(count, length, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((count, length)) @ rng.standard_normal((length, length)) + 3).astype("f")


def test_itq_head_gives_faiss_signs():
    import faiss

    x = features(600, 40)
    head, method = head_without_labels(x, 16, seed=3)
    itq = faiss.ITQTransform(40, 16, True)
    itq.itq.seed = 3
    itq.train(x)
    with torch.no_grad():
        signs = head.hash(torch.from_numpy(x)).numpy() > 0
    assert method == "ITQ"
    assert (signs == (itq.apply(x) > 0)).mean() > 0.999


def test_itq_keeps_neighbours_near():
    x = features(600, 40)
    head, _ = head_without_labels(x, 32, seed=0)
    with torch.no_grad():
        bits = head.hash(torch.from_numpy(x)).numpy() > 0
    assert 0.4 < bits.mean() < 0.6
    distances = np.linalg.norm(x[:1] - x, axis=1)
    hamming = (bits[:1] != bits).sum(1)
    assert np.corrcoef(distances[1:], hamming[1:])[0, 1] > 0.5


@pytest.mark.parametrize(("count", "length", "bits"), [(20, 300, 256), (300, 40, 64), (256, 300, 256)])
def test_too_little_for_itq_is_a_random_rotation(count, length, bits):
    head, method = head_without_labels(features(count, length), bits, seed=0)
    assert "random rotation" in method
    weight = head.hash.weight.detach()
    group = weight[: min(bits, length)]
    torch.testing.assert_close(group @ group.T, torch.eye(len(group)), atol=1e-4, rtol=0)
    assert head.classifier is None
    with pytest.raises(ValueError, match="without labels"):
        head(torch.zeros(1, length))


def test_head_learns_through_tanh_units():
    torch.manual_seed(0)
    head = Head(4, 16, 3)
    learning = Supervised(head, lr=0.1, momentum=0.9, weight_decay=0.0, epochs=20)
    for epoch in range(20):
        learning.epoch(epoch, [clusters()] * 5)
    inputs, labels = clusters()
    assert accuracy(head, [(inputs, labels)]) == 1.0
    assert head.units(inputs).abs().max() <= 1
