"""Slow, plain oracles that the fast code is compared with. They share no code with it."""

import numpy as np

# --- learning rules --------------------------------------------------------------------------------


def _patches(x, y, kernel, stride, padding):
    """Each patch (C·kh·kw,) of x (B, C, H, W) with its activations (Q,), in float64."""
    (rows, columns) = (stride, stride) if isinstance(stride, int) else stride
    (top, left) = (padding, padding) if isinstance(padding, int) else padding
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (top, top), (left, left)))
    for image, activations in zip(x, y.astype(np.float64), strict=True):
        for i in range(activations.shape[1]):
            for j in range(activations.shape[2]):
                r, c = i * rows, j * columns
                patch = image[:, r : r + kernel[0], c : c + kernel[1]]
                yield patch.ravel(), activations[:, i, j]


def swta_patch_by_patch(x, y, w, *, stride=1, padding=0, temperature=0.02):
    """Each patch votes with its softmax; a neuron's update is the mean weighted with its votes."""
    b = w.reshape(len(w), -1).astype(np.float64)
    votes, deltas = [], []
    for patch, activations in _patches(x, y, w.shape[2:], stride, padding):
        exponentials = np.exp((activations - activations.max()) / temperature)
        s = exponentials / exponentials.sum()
        votes.append(s)
        deltas.append(np.stack([s[q] * (patch - b[q]) for q in range(len(b))]))
    votes, deltas = np.array(votes), np.array(deltas)
    update = np.zeros_like(b)
    for q in range(len(b)):
        if votes[:, q].sum() > 0:
            update[q] = np.average(deltas[:, q], axis=0, weights=votes[:, q])
    return update.reshape(w.shape)


def hpca_patch_by_patch(x, y, w, *, stride=1, padding=0):
    """Neuron q learns what neurons 1 … q leave of the patch; updates are averaged over patches."""
    b = w.reshape(len(w), -1).astype(np.float64)
    deltas = []
    for patch, a in _patches(x, y, w.shape[2:], stride, padding):
        rest, delta = patch.copy(), np.zeros_like(b)
        for q in range(len(b)):
            rest -= a[q] * b[q]
            delta[q] = a[q] * rest
        deltas.append(delta)
    return np.mean(deltas, axis=0).reshape(w.shape)
