"""The schedule, the best epoch, and codes without labels."""

import numpy as np
import pytest
import torch
from torch import nn

from training.config import configure
from training.learning.finetune import JointHead, Supervised, accuracy, folded, halvings, head_without_labels
from training.nets.head import Head


def test_rate_halves_every_two_epochs_after_the_tenth():
    factors = [halvings(epoch, 20) for epoch in range(20)]
    assert factors == [1.0] * 10 + [0.5] * 2 + [0.25] * 2 + [0.125] * 2 + [1 / 16] * 2 + [1 / 32] * 2
    assert [halvings(epoch, 10) for epoch in range(10)] == [1.0] * 5 + [0.5, 0.25, 0.125, 1 / 16, 1 / 32]
    assert halvings(0, 1) == 0.5**5


def test_rate_of_the_code_halves_in_each_epoch_after_the_tenth():
    factors = [halvings(epoch, 20, "code") for epoch in range(20)]
    torch_steps = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    steps = torch.optim.lr_scheduler.MultiStepLR(torch_steps, milestones=range(10, 20), gamma=0.5)
    for factor in factors:
        assert steps.get_last_lr() == [factor]
        torch_steps.step()
        steps.step()
    assert [halvings(epoch, 10, "code") for epoch in range(10)] == [1.0] * 5 + [4.0**-n for n in range(1, 6)]


def learner(epochs=20, lr=0.1, **options):
    torch.manual_seed(0)
    return Supervised(nn.Linear(4, 3), configure(options), lr=lr, epochs=epochs)


def test_learns_at_the_rate_of_its_schedule():
    for schedule, rate in [("text", 0.1 / 32), ("code", 0.1 / 1024)]:
        learning = learner(schedule=schedule)
        learning.epoch(19, [clusters()])
        assert [group["lr"] for group in learning.optimizer.param_groups] == [rate]


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
    learning = Supervised(head, configure({}), lr=0.1, epochs=20)
    for epoch in range(20):
        learning.epoch(epoch, [clusters()] * 5)
    inputs, labels = clusters()
    assert accuracy(head, [(inputs, labels)]) == 1.0
    assert head.units(inputs).abs().max() <= 1


def joint_head(inputs=20, bits=512, seed=0):
    """A joint head on given features, its batch norm as far from the beginning as it may come."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    head = JointHead(nn.Sequential(nn.Identity()), inputs, bits, 3, dropout=0.5)
    with torch.no_grad():
        head.norm.weight.copy_(torch.randn(bits, generator=generator))
        head.norm.weight[::8] = 0
        head.norm.bias.copy_(torch.randn(bits, generator=generator))
        head.norm.running_mean.copy_(torch.rand(bits, generator=generator))
        head.norm.running_var.copy_(torch.rand(bits, generator=generator) + 0.01)
    return head.eval()


def test_plain_head_gives_the_bits_of_the_joint_one():
    head, x = joint_head(), torch.randn(400, 20, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        own, exported = head.units(x), head.plain().hash(x)
        rectified = head.hash(x) < 0
    assert own.abs().min() > 1e-6  # no bit is a matter of rounding
    assert torch.equal(own >= 0, exported > 0)
    slope, at_zero = head.norm.weight, own[rectified.int().argmax(0), torch.arange(512)]
    for case in (slope > 0, slope < 0, slope == 0):  # each with a threshold within ReLU's range and below it
        assert min((case & (at_zero >= 0)).sum(), (case & (at_zero < 0)).sum()) > 5
    varying = (exported > 0).float().mean(0).remainder(1) > 0
    seen = ~rectified & varying
    torch.testing.assert_close(exported[seen], own[seen], rtol=1e-3, atol=1e-4)  # the values too, where h > 0


def test_unit_at_its_threshold_is_set():
    linear, norm = nn.Linear(3, 4), nn.BatchNorm1d(4).eval()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.0, 0.0, 2.0, 2.0]))
        norm.bias.copy_(torch.tensor([0.0, -1.0, 0.0, 1.0]))  # n(0) = 0, -1, 0, 1 with mean 0
    weight, bias = folded(linear, norm)
    assert bias.tolist() == [1, -1, 1, 1]
    assert not weight.any()


def test_joint_head_learns_through_its_features():
    torch.manual_seed(0)
    features = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
    before = features[0].weight.detach().clone()
    head = JointHead(features, 8, 16, 3, dropout=0.1)
    learning = Supervised(head, configure({}), lr=0.05, epochs=20)
    for epoch in range(20):
        learning.epoch(epoch, [clusters()] * 5)
    assert accuracy(head.eval(), [clusters()]) == 1.0
    assert not torch.equal(features[0].weight, before)
