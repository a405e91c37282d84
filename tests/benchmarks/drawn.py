"""A smaller set to choose settings by: some of the training images, and others of them as queries.

`python -m tests.benchmarks.drawn --data DIR --out DIR` draws from DIR/train, evenly from its classes, so that
no test image is looked at while something is chosen. The same seed draws the same images.
"""

import argparse
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def draw(data: Path, out: Path, images: int, queries: int, seed: int) -> None:
    """Link images of the folders of `data`, a class each, into out/train and so many others into out/test.
    ValueError where a class has too few."""
    classes = sorted(path for path in data.iterdir() if path.is_dir())
    for number, folder in enumerate(classes):
        files = np.array(sorted(path.name for path in folder.iterdir()))
        rng = np.random.default_rng([seed, number])
        learned, asked = (len(range(number, count, len(classes))) for count in (images, queries))
        if learned + asked > len(files):
            raise ValueError(f"{folder}: has {len(files):,} images, wanted {learned + asked:,}")
        chosen = rng.permutation(files)[: learned + asked]
        for part, names in (("train", chosen[:learned]), ("test", chosen[learned:])):
            target = out / part / folder.name
            target.mkdir(parents=True)
            for name in names:
                _link(folder / name, target / name)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)


def main(arguments: Sequence[str] | None = None) -> None:
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    command.add_argument("--data", type=Path, required=True, help="with a folder train")
    command.add_argument("--out", type=Path, required=True, help="a folder that is not there yet")
    command.add_argument("--images", type=int, default=10_000)
    command.add_argument("--queries", type=int, default=2_000)
    command.add_argument("--seed", type=int, default=0)
    flags = command.parse_args(arguments)
    flags.out.mkdir(parents=True)
    draw(flags.data / "train", flags.out, flags.images, flags.queries, flags.seed)


if __name__ == "__main__":
    main()
