"""Pixels in memory or decoded on demand, and the batches that they come in."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.training.test_data import put
from training import data
from training.config import configure
from training.data import DataError
from training.pixels import PixelsOnDemand, batches, load, opened, progress, read, stream


@pytest.fixture
def mixed(tmp_path):
    """Two good images of each class, one truncated, one that is text."""
    for name, colour in (("a", "red"), ("b", "blue")):
        for number in (1, 2):
            put(tmp_path / name / f"{number}.png", colour)
    (tmp_path / "a" / "0.png").write_bytes((tmp_path / "a" / "1.png").read_bytes()[:50])
    (tmp_path / "notes.txt").write_text("hello")
    return data.folder(tmp_path)


@pytest.mark.parametrize("limit", [1 << 30, 0])
def test_unreadable_files_are_skipped_and_listed(mixed, limit, monkeypatch):
    monkeypatch.setattr("training.pixels.MEMORY_LIMIT", limit)
    images, pixels, skipped, _ = read(mixed, 8)
    assert isinstance(pixels, torch.Tensor) == (limit > 0)
    assert [entry["path"] for entry in skipped] == ["a/0.png", "notes.txt"]
    assert "damaged" in skipped[0]["reason"]
    assert "not an image" in skipped[1]["reason"]
    assert images.paths == ("a/1.png", "a/2.png", "b/1.png", "b/2.png")
    assert images.labels.tolist() == [0, 0, 1, 1]
    chosen = pixels[torch.tensor([3, 0])]
    assert chosen.shape == (2, 3, 8, 8)
    assert chosen[0, :, 4, 4].tolist() == [0, 0, 255]
    assert chosen[1, :, 4, 4].tolist() == [255, 0, 0]
    assert len(pixels) == 4
    assert images.open(3).getpixel((0, 0)) == (0, 0, 255)


def test_a_pipe_is_skipped_and_nobody_waits_for_it(mixed, tmp_path):
    os.mkfifo(tmp_path / "a" / "pipe.png")
    images, _, skipped, _ = read(data.folder(tmp_path), 8)
    assert {"path": "a/pipe.png", "reason": "not a regular file"} in skipped
    assert images.paths == ("a/1.png", "a/2.png", "b/1.png", "b/2.png")


@pytest.mark.parametrize("divided", [False, True])
def test_class_of_which_nothing_can_be_read_is_left_out(tmp_path, divided, caplog):
    train, test = ("train/", "test/") if divided else ("", "")
    for name in ("a", "c"):
        put(tmp_path / f"{train}{name}" / "1.png")
        put(tmp_path / f"{test}{name}" / "2.png")
    put(tmp_path / f"{test}b" / "2.png")
    (tmp_path / f"{train}b").mkdir(exist_ok=True)
    (tmp_path / f"{train}b" / "1.png").write_bytes(b"nothing")
    if not divided:
        (tmp_path / "b" / "2.png").write_bytes(b"nothing")
    images, _, _, _ = read(data.folder(tmp_path), 8)
    assert images.classes == ("a", "c")
    labels = dict(zip(images.paths, images.labels.tolist(), strict=True))
    expected = {f"{train}a/1.png": 0, f"{test}a/2.png": 0, f"{train}c/1.png": 1, f"{test}c/2.png": 1}
    assert labels == expected | ({"test/b/2.png": -1} if divided else {})
    assert "no image to learn from can be read of 'b': left out" in caplog.text


@pytest.mark.parametrize("limit", [1 << 30, 0])
def test_deep_grey_is_read_at_the_depth_that_is_set(tmp_path, limit, monkeypatch):
    """In memory, on demand and where it is indexed."""
    monkeypatch.setattr("training.pixels.MEMORY_LIMIT", limit)
    for name in ("a", "b"):
        Image.fromarray(np.full((8, 8), 2048, np.uint16)).save(tmp_path / f"{name}.png")
    for bits, expected in ((0, 8), (12, 128), (14, 32)):
        chosen = {"data": str(tmp_path), "grey_bits": bits, "image_size": 32}
        images, pixels, _, _ = load(configure(chosen))
        assert pixels[torch.tensor([1])].unique().tolist() == [expected]
        assert opened(images, 0)[0].getpixel((0, 0)) == (expected,) * 3


def test_without_a_terminal_lines_say_how_many_are_done(monkeypatch, caplog, capsys):
    caplog.set_level("INFO")
    clock = iter(range(0, 100, 4))  # seconds, when somebody looks
    monkeypatch.setattr("training.pixels.time", SimpleNamespace(monotonic=lambda: next(clock)))
    assert list(progress("decoding", iter("abcdefgh"), 8)) == list("abcdefgh")
    assert caplog.messages == ["decoding: 3 of 8", "decoding: 6 of 8"]


class Opened:
    """Images of one colour each that note which were asked for."""

    def __init__(self):
        self.seen = []

    def __len__(self):
        return 12

    def open(self, position):
        self.seen.append(position)
        return Image.new("RGB", (8, 8), (position, 0, 0))


def groups_of_two():
    return torch.arange(12).flip(0).split(2)


def test_next_groups_are_decoded_while_one_is_used():
    images = Opened()
    pixels = PixelsOnDemand(images, 8)
    streamed = stream(pixels, groups_of_two(), torch.device("cpu"))
    at, found = next(streamed)
    pixels.pool.shutdown(wait=True)  # what was begun is done; nothing new can begin
    assert sorted(images.seen) == [6, 7, 8, 9, 10, 11]  # this group and the next two, no more
    assert at.tolist() == [11, 10]
    assert found[:, 0, 4, 4].tolist() == [11, 10]


def test_stream_is_complete_and_in_order_wherever_the_pixels_lie():
    on_demand = PixelsOnDemand(Opened(), 8)
    in_memory = on_demand[torch.arange(12)]
    for pixels in (on_demand, in_memory):
        streamed = list(stream(pixels, groups_of_two(), torch.device("cpu")))
        assert torch.cat([at for at, _ in streamed]).tolist() == list(range(11, -1, -1))
        assert torch.cat([found[:, 0, 0, 0] for _, found in streamed]).tolist() == list(range(11, -1, -1))


def test_whoever_stops_early_leaves_no_work_behind():
    images, hold = Opened(), threading.Event()
    pixels = PixelsOnDemand(images, 8)
    pixels.pool = ThreadPoolExecutor(1)
    opened = images.open

    def open_and_wait(position):
        picture = opened(position)
        assert position >= 10 or hold.wait(60)
        return picture

    images.open = open_and_wait
    streamed = pixels.ahead(groups_of_two())
    next(streamed)
    streamed.close()
    hold.set()
    pixels.pool.shutdown(wait=True)
    assert images.seen in ([11, 10], [11, 10, 9])  # at most the one that was being decoded


def test_a_name_that_is_no_text_is_as_good_as_another(tmp_path):
    for name, byte in (("1", b"\xff"), ("2", b"\xfe")):
        put(tmp_path / "a" / f"{name}.png")
        os.rename(tmp_path / "a" / f"{name}.png", os.fsencode(tmp_path) + b"/a/" + byte + b".png")
    (tmp_path / "a" / "b\udcfd.png").write_bytes(b"no image")
    images, _, skipped, _ = read(data.folder(tmp_path), 8)
    assert images.paths == ("a/\udcfe.png", "a/\udcff.png")
    assert [each["path"] for each in skipped] == ["a/b\ufffd.png"]
    assert images.fingerprint() != data.folder(tmp_path).select(np.array([0])).fingerprint()


def test_nothing_readable(tmp_path):
    (tmp_path / "x.txt").write_text("hello")
    with pytest.raises(DataError, match=r"none of its 1 files is a readable image .*x\.txt"):
        read(data.folder(tmp_path), 8)


def test_batches_are_of_equal_length_and_complete():
    sizes = [len(batch) for batch in batches(np.arange(129), 64)]
    assert sizes == [43, 43, 43]  # never a last batch of one
    shuffled = torch.cat(list(batches(np.arange(129), 64, seed=1)))
    assert sorted(shuffled.tolist()) == list(range(129))
    assert shuffled.tolist() != list(range(129))
    assert torch.equal(shuffled, torch.cat(list(batches(np.arange(129), 64, seed=1))))
