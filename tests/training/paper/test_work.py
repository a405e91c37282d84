"""What experiments share: checkpoints of one process at a time, fewer images, the time that is left."""

from threading import Thread

import numpy as np
import torch

from training.data import ImageSet
from training.paper.work import Countdown, alone, smaller
from training.pixels import Loaded


def test_processes_that_share_checkpoints_wait_for_each_other(tmp_path):
    entered = []

    def enter():
        with alone(tmp_path / "0-1%"):
            entered.append(True)

    with alone(tmp_path / "0-1%"):
        other = Thread(target=enter)
        other.start()
        other.join(0.2)
        assert not entered
    other.join(10)
    assert entered


def test_a_smaller_set_keeps_classes_and_parts(tmp_path):
    labels = np.tile(np.arange(4), 100)
    queries = np.arange(400) >= 300
    images = ImageSet("x", "x", None, tuple("abcd"), tuple(map(str, range(400))), labels, queries, None, 0.2)
    pixels = torch.arange(400, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    part = smaller(Loaded(images, pixels, []), 40)
    for asked in (True, False):
        counts = np.bincount(part.images.labels[part.images.queries == asked])
        assert counts.tolist() == [10] * 4
    assert part.pixels[:, 0, 0, 0].tolist() == [int(path) % 256 for path in part.images.paths]


def test_what_is_left_takes_as_long_as_what_was_done():
    now = iter([1000.0, 1060.0, 1300.0, 1300.0])
    countdown = Countdown("cells", clock=lambda: next(now))
    assert countdown.one_done(3) == "1 of 4 cells, about 3 min left"
    assert countdown.one_done(2) == "2 of 4 cells, about 5 min left"
    assert countdown.one_done(0) == "3 of 3 cells, about 0 min left"  # another process took one
