"""How many mirrored and turned copies are grouped with their original, and how long groups take.

    python -m tests.benchmarks.groups --photographs FOLDER --others FOLDER [--counts 50000 1000000]

mirrors and turns each photograph and counts how often both are in one group. Then it groups so many hashes,
those of the other pictures and, where these do not reach, of pictures like them: as many ones turned to zeros
as zeros to ones, 60 bits in all, or 10 in one of twenty, which makes it a copy.
"""

import argparse
import os
import resource
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from index import near_pairs
from index.codes import Codes, pack, unpack
from index.duplicates import groups_within
from index.near_pairs import Ways
from tests.benchmarks.copies import SAME as TWICE
from tests.benchmarks.copies import images_of
from tests.benchmarks.harness import machine
from training.nets.images import picture_hashes
from training.nets.pdq import PLAIN, SAME, turned

SEED = 0
MOST = 10**12
SMALL = 256  # pixels of the shorter side: below, a photograph counts as small
STEP = 10_000
WAYS: dict[str, Ways | None] = {"as they are": None, "eight ways": turned}
TURNS = {
    "mirrored": Image.Transpose.FLIP_LEFT_RIGHT,
    "turned by a quarter": Image.Transpose.ROTATE_90,
    "turned by a half": Image.Transpose.ROTATE_180,
}


def detailed(images: Iterator[Image.Image]) -> Iterator[tuple[Image.Image, Codes]]:
    """The pictures with enough detail, and their hashes (32,)."""
    for image in images:
        hashes = picture_hashes(image)
        if hashes.quality >= PLAIN:
            yield image, hashes.upright


def linked(images: Iterator[Image.Image]) -> Iterator[str]:
    """In Markdown, of different photographs: which of their copies are found, of the larger and of the small
    ones; and which photographs are taken for each other."""
    kept, hashes = list[Image.Image](), list[Codes]()
    for image, hash_ in detailed(images):
        if all(np.bitwise_count(hash_ ^ other).sum() >= TWICE for other in hashes):
            kept.append(image)
            hashes.append(hash_)
    originals = np.stack(hashes)
    small = np.array([min(image.size) < SMALL for image in kept])
    yield f"| copy | of {(~small).sum()} photographs | of {small.sum()} small ones |"
    yield "|---|---|---|"
    for name, turn in TURNS.items():
        copies = np.stack([picture_hashes(image.transpose(turn)).upright for image in kept])
        for how, ways in WAYS.items():
            pairs = np.stack([originals, copies], axis=1)
            found = np.array([bool(groups_within(pair, SAME, most=MOST, ways=ways)) for pair in pairs])
            yield f"| {name}, {how} | {found[~small].sum()} | {found[small].sum()} |"
    for how, ways in WAYS.items():
        groups = [group.tolist() for group in groups_within(originals, SAME, most=MOST, ways=ways)]
        yield f"photographs that are grouped with another one, {how}: {groups}"


def like(hashes: Codes, count: int) -> Codes:
    """So many different hashes: these, and others made of them."""
    random, made = np.random.default_rng(SEED), [hashes[:count]]
    for start in range(len(hashes), count, STEP):
        bits = unpack(hashes[random.integers(0, len(hashes), min(STEP, count - start))])
        changed = np.where(random.random(len(bits)) < 0.05, 5, 30)[:, None]  # of the ones, and of the zeros
        off = np.zeros(bits.shape, np.bool_)
        for value in (False, True):
            chance = np.where(bits == value, random.random(bits.shape), 2)
            off |= chance.argsort(axis=1).argsort(axis=1) < changed
        made.append(pack(bits ^ off))
    return np.unique(np.concatenate(made), axis=0)


def seconds(codes: Codes, ways: Ways | None, *, all_: bool) -> tuple[float, int]:
    """Of processor time, and how many groups there are."""
    few, near_pairs.FEW = near_pairs.FEW, MOST if all_ else near_pairs.FEW
    begin = time.process_time()
    found = groups_within(codes, SAME, most=MOST, ways=ways)
    near_pairs.FEW = few
    return time.process_time() - begin, len(found)


def timed(codes: Codes, runs: int, all_up_to: int) -> Iterator[str]:
    """A line for each way to group them, each run after a run of the others."""
    cases = [(how, all_) for how in WAYS for all_ in (False, True) if not all_ or len(codes) <= all_up_to]
    taken: dict[tuple[str, bool], list[tuple[float, int]]] = {case: [] for case in cases}
    for _ in range(runs):
        for how, all_ in cases:
            taken[how, all_].append(seconds(codes, WAYS[how], all_=all_))
    for (how, all_), each in taken.items():
        which = "compared with all" if all_ else "by parts"
        times = ", ".join(f"{one:.1f}" for one, _ in each)
        yield (
            f"{len(codes):,} hashes, {how}, {which}: {median(one for one, _ in each):.1f} s "
            f"(median of {times}), {each[0][1]:,} groups"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photographs", type=Path, required=True)
    parser.add_argument("--others", type=Path, required=True, help="a folder of many images")
    parser.add_argument("--counts", type=int, nargs="+", default=[50_000], help="hashes to group")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--all-up-to", type=int, default=50_000, help="hashes that are compared with all")
    flags = parser.parse_args(arguments)
    print(f"{machine()}, seed {SEED}, load {os.getloadavg()}")
    print("\n".join(linked(images_of(flags.photographs))), flush=True)
    others = (hash_ for _, hash_ in detailed(images_of(flags.others)))
    hashes = np.unique(np.stack(list(islice(others, max(flags.counts)))), axis=0)
    for count in flags.counts:
        for line in timed(like(hashes, count), flags.runs, flags.all_up_to):
            print(line, flush=True)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"at most {peak:.2f} GiB so far; load {os.getloadavg()}", flush=True)


if __name__ == "__main__":
    main()
