"""One function per data set; each gives an ImageSet."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from index.items import UNLABELLED, Item
from index.labels import LabelError, label_of, read_labels
from index.names import shown
from index.originals import Originals
from index.walking import DataError as DataError  # what people give the functions here
from index.walking import walk
from training.config import Config
from training.nets.images import AS_SHOWN, Reading, open_image

CIFAR_VALIDATION = 0.2  # 10,000 of the 50,000 training images, as in the paper

Positions = NDArray[np.int64]  # of images in a set
# path -> label's name or None, SHA-256 in hexadecimal or "", and GROUP if that is its label's source
Listing = Mapping[str, Sequence[str | None]]
GROUP = "group"

log = logging.getLogger("hebbsearch")


@dataclass(frozen=True)
class ImageSet:
    """Images with the labels that are known of them.

    `labels` (n,) are class indices or UNLABELLED; `queries` (n,) marks the held-out images, None where they
    are still to be drawn; `open(i)` gives image i in RGB. `validation_share` is the part of the training
    images that the paper's protocol validates on, None for a user's own images.
    """

    name: str
    where: str
    root: Path | None
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    labels: NDArray[np.int64]
    queries: NDArray[np.bool_] | None
    open: Callable[[int], Image.Image]
    validation_share: float | None = None
    unreadable: tuple[tuple[str, str], ...] = ()  # places in the folder, and why nobody knows what is there
    hashes: tuple[bytes, ...] | None = None  # SHA-256 of each file, once all have been read
    reading: Reading = AS_SHOWN  # of files
    grouped: NDArray[np.bool_] | None = None  # (n,) whose labels were accepted in groups; None: of none

    def __len__(self) -> int:
        return len(self.paths)

    def select(self, keep: NDArray[np.int64]) -> "ImageSet":
        """The images at the positions `keep`."""
        return replace(
            self,
            paths=tuple(self.paths[i] for i in keep),
            labels=self.labels[keep],
            queries=None if self.queries is None else self.queries[keep],
            open=lambda i: self.open(int(keep[i])),
            hashes=None if self.hashes is None else tuple(self.hashes[i] for i in keep),
            grouped=None if self.grouped is None else self.grouped[keep],
        )

    @property
    def looked_at(self) -> NDArray[np.int64]:
        """The labels (n,) that may judge: UNLABELLED where they were accepted in groups, which nobody did."""
        return self.labels if self.grouped is None else np.where(self.grouped, UNLABELLED, self.labels)

    def counts(self) -> NDArray[np.int64]:
        """How many images of each class (classes,) there are that are not kept to ask with."""
        learned_from = self.labels if self.queries is None else self.labels[~self.queries]
        return np.bincount(learned_from[learned_from != UNLABELLED], minlength=len(self.classes))

    def of_classes(self, keep: NDArray[np.bool_]) -> "ImageSet":
        """The same images, those of the other classes without a label; `keep` (classes,)."""
        numbers = np.append(np.where(keep, np.cumsum(keep) - 1, UNLABELLED), UNLABELLED)  # the last: of -1
        classes = tuple(name for name, kept in zip(self.classes, keep, strict=True) if kept)
        return replace(self, classes=classes, labels=numbers[self.labels])

    def copies(self, queries: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which images (n,) are no queries, and are one of them byte for byte."""
        if self.hashes is None:
            return np.zeros(len(self), bool)
        asked = {self.hashes[position] for position in np.flatnonzero(queries)}
        return ~queries & np.fromiter((each in asked for each in self.hashes), bool, len(self))

    def contradictions(self) -> list[tuple[str, str]]:
        """Paths of equal files with two labels: of the first that has these bytes, and of the other one."""
        first, found = dict[bytes, int](), list[tuple[str, str]]()
        for position in np.flatnonzero(self.labels != UNLABELLED).tolist() if self.hashes else ():
            before = first.setdefault(self.hashes[position], position)  # type: ignore[index]
            if self.labels[before] != self.labels[position]:
                found.append((self.paths[before], self.paths[position]))
        return found

    def listed(self) -> Listing:
        """Each path with its label's name, the SHA-256 of its file, and whether the label came in a group."""
        names = (*self.classes, None)  # the last: of UNLABELLED, -1
        hashes = self.hashes or (b"",) * len(self)
        grouped = [False] * len(self) if self.grouped is None else self.grouped.tolist()
        each = zip(self.paths, self.labels.tolist(), hashes, grouped, strict=True)
        return {
            path: (names[label], sha256.hex(), *[GROUP] * came_so) for path, label, sha256, came_so in each
        }

    def fingerprint(self) -> str:
        """What names the images and labels, in their order, and which of these came in groups."""
        names = "\0".join(self.paths).encode(errors="surrogateescape")
        grouped = b"" if self.grouped is None else np.packbits(self.grouped).tobytes()
        return hashlib.sha256(names + self.labels.tobytes() + grouped).hexdigest()


# --- the data sets ---------------------------------------------------------------------------------


def digits() -> ImageSet:
    """scikit-learn's handwritten digits: 1,797 grey images of 8 × 8 pixels, part of the package."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    grey = (bunch.images * (255 / 16)).round().astype(np.uint8)
    return ImageSet(
        name="digits",
        where="digits",
        root=None,
        classes=tuple(str(name) for name in bunch.target_names),
        paths=tuple(f"digits/{number:04d}" for number in range(len(grey))),
        labels=bunch.target.astype(np.int64),
        queries=None,
        open=lambda i: Image.fromarray(grey[i]).convert("RGB"),
    )


def folder(root: Path, labels_file: Path | None = None) -> ImageSet:
    """A user's own images: `train/<class>/*` + `test/<class>/*`, `<class>/*`, or a flat folder.

    With a CSV file (`path,label`, paths relative to `root`) the labels come from it alone.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; --data names the folder that holds your images")
    log.info("reading the folder %s", root)
    walked = walk(root, without=labels_file)
    files = walked.files
    for place, reason in walked.unreadable.items():
        log.warning("%s: %s; what lies there is left out", root / place, reason)
    if not files:
        raise DataError(f"{root}: the folder is empty; put images into it, or name another with --data")
    parts = {path.name.lower(): path.name for path in root.iterdir() if path.is_dir()}
    queries = None
    if "train" in parts and "test" in parts:
        chosen = {parts["train"], parts["test"]}
        ignored = sum(path.parts[0] not in chosen for path in files)
        if ignored:
            log.warning("%s: %d files outside train and test are ignored", root, ignored)
        files = [path for path in files if path.parts[0] in chosen]
        names = [path.parts[1] if len(path.parts) > 2 else None for path in files]
        queries = np.array([path.parts[0] == parts["test"] for path in files], bool)
        for part, present in (("train", ~queries), ("test", queries)):
            if not present.any():
                raise DataError(f"{root / parts[part]}: the folder is empty; put <class>/* folders into it")
    elif "train" in parts:
        raise DataError(
            f"{root}: there is a folder {parts['train']!r} but none named 'test' beside it; rename the one "
            f"with the queries to 'test', or use --data {root / parts['train']}"
        )
    else:
        names = [path.parts[0] if len(path.parts) > 1 else None for path in files]
    grouped = None
    if labels_file is None:
        labels_of = {name: _label_of(name, root) for name in set(names)}
        names = [labels_of[name] for name in names]
    else:  # the folders still say what is held out, but no longer what is what
        read = read_labels(labels_file, root, files)
        if read.elsewhere:
            log.warning(
                "%s: the files of %d labels are not below %s (first: %s); these are left out",
                labels_file, len(read.elsewhere), root, read.elsewhere[0],
            )  # fmt: skip
        names = [read.labels.get(file) for file in files]
        grouped = np.array([file in read.grouped for file in files], bool) if read.grouped else None
    unreadable = tuple((place.as_posix(), reason) for place, reason in walked.unreadable.items())
    made = _from_files(shown(root.name or str(root)), root, files, names, queries)
    return replace(made, unreadable=unreadable, grouped=grouped)


def cifar10(root: Path) -> ImageSet:
    """CIFAR-10 through torchvision, or as image files: `train/<class>/*` and `test/<class>/*`."""
    from torchvision.datasets import CIFAR10

    return _cifar("cifar10", CIFAR10, root, "cifar-10-batches-py (from cifar-10-python.tar.gz)")


def cifar100(root: Path) -> ImageSet:
    """CIFAR-100, likewise."""
    from torchvision.datasets import CIFAR100

    return _cifar("cifar100", CIFAR100, root, "cifar-100-python (from cifar-100-python.tar.gz)")


def tinyimagenet(root: Path) -> ImageSet:
    """Tiny ImageNet as its archive unpacks: `train/<wnid>/images/*`, `val/images/*` and their annotations."""
    base = root / "tiny-imagenet-200" if (root / "tiny-imagenet-200").is_dir() else root
    annotations = base / "val" / "val_annotations.txt"
    if not (base / "train").is_dir() or not annotations.is_file():
        raise DataError(
            f"{root}: Tiny ImageNet is not there, and this program cannot download it; unpack "
            f"tiny-imagenet-200.zip so that {base / 'train'} (<wnid>/images/*.JPEG) and {annotations} exist"
        )
    rows = (line.split("\t") for line in annotations.read_text().splitlines() if line)
    validation = {Path("val", "images", row[0]): row[1] for row in rows}
    walked = walk(base / "train")
    for place, reason in walked.unreadable.items():
        raise DataError(f"{base / 'train' / place}: {reason}; the data set is to be whole")
    train = [Path("train") / path for path in walked.files if path.suffix.lower() != ".txt"]
    files = train + sorted(validation)
    names = [path.parts[1] for path in train] + [validation[path] for path in sorted(validation)]
    queries = np.arange(len(files)) >= len(train)
    return replace(_from_files("tinyimagenet", base, files, names, queries), validation_share=0.1)


def imagenet(root: Path) -> ImageSet:
    """ImageNet in torchvision's ImageFolder layout: `train/<wnid>/*`, `val/<wnid>/*`."""
    from torchvision.datasets import ImageFolder

    for part in ("train", "val"):
        if not (root / part).is_dir():
            raise DataError(
                f"{root}: ImageNet cannot be downloaded without an account; put its images into "
                f"{root / 'train'}/<wnid>/*.JPEG and {root / 'val'}/<wnid>/*.JPEG"
            )
    parts = [ImageFolder(str(root / part)) for part in ("train", "val")]
    files = [Path(path).relative_to(root) for part in parts for path, _ in part.samples]
    names = [path.parts[1] for path in files]
    queries = np.array([path.parts[0] == "val" for path in files])
    # 1.2 M of the 1,281,167 training images are trained on.
    share = 1 - 1_200_000 / 1_281_167
    return replace(_from_files("imagenet", root, files, names, queries), validation_share=share)


NAMED: dict[str, Callable[[Path], ImageSet]] = {
    "cifar10": cifar10,
    "cifar100": cifar100,
    "tinyimagenet": tinyimagenet,
    "imagenet": imagenet,
}


def images_of(config: Config) -> ImageSet:
    """The images that the configuration names. Raises DataError."""
    images, reading = _named(config), Reading(grey_bits=config.grey_bits)
    if images.root is None:
        return images
    return replace(images, reading=reading, open=partial(_open_file, images.root, images.paths, reading))


def _named(config: Config) -> ImageSet:
    labels = config.labels_file()
    if config.dataset in NAMED:
        if labels is not None:
            raise DataError(
                f"{labels}: --dataset {config.dataset} has its own labels; use --labels 1% to 100%"
            )
        if config.data is None:
            raise DataError(f"--dataset {config.dataset} needs --data DIR, where its files lie or shall lie")
        return NAMED[config.dataset](Path(config.data))
    if config.data is not None:
        return folder(Path(config.data), labels)
    if labels is not None:
        raise DataError(f"{labels}: a file of labels needs --data DIR, the folder of the images it names")
    return digits()


def indexed(
    root: Path, kept: Originals, items: Sequence[Item], classes: Sequence[str], reading: Reading = AS_SHOWN
) -> ImageSet:
    """The images of an index, some of which may be gone, with the labels that they have now: files of the
    folder `root`, and those that were sent, whose paths are those of the `kept` files."""
    paths = tuple(
        item.path if item.folder is None else str(kept.path(bytes.fromhex(item.sha256 or "")).absolute())
        for item in items
    )
    number: dict[str | None, int] = {name: number for number, name in enumerate(classes)} | {None: UNLABELLED}
    return ImageSet(
        name=shown(root.name or str(root)),
        where=str(root),
        root=root,
        classes=tuple(classes),
        paths=paths,
        labels=np.array([number[item.label] for item in items], np.int64),
        queries=None,
        open=partial(_open_file, root, paths, reading),
        reading=reading,
    )


def changes(before: Listing, now: Listing, unreadable: Mapping[str, str]) -> list[str]:
    """How images have changed: what is gone, new, labelled anew or of another content, each with the first of
    them. `unreadable`: why some are not there."""
    gone, new = (sorted(one.keys() - other.keys()) for one, other in ((before, now), (now, before)))
    both = sorted(before.keys() & now.keys())
    labelled = [path for path in both if before[path][0] != now[path][0]]
    written = [path for path in both if before[path][1] != now[path][1]]
    looked_at = [path for path in both if (GROUP in before[path]) != (GROUP in now[path])]
    found = []
    if gone:
        reason = unreadable.get(gone[0])
        found.append(f"{len(gone)} gone, first {gone[0]}" + (f": {reason}" if reason else ""))
    if new:
        found.append(f"{len(new)} new, first {new[0]}")
    if labelled:
        was, label = before[labelled[0]][0], now[labelled[0]][0]
        found.append(f"{len(labelled)} with another label, first {labelled[0]}: {label!r}, was {was!r}")
    if written:
        found.append(f"{len(written)} with other content, first {written[0]}")
    if looked_at:
        found.append(f"{len(looked_at)} whose label has another source, first {looked_at[0]}")
    return found


def changed_since(listing: Path, now: ImageSet, skipped: Iterable[Mapping[str, str]]) -> str:
    """How images differ from those of the file `listing`, which a run writes when it begins."""
    try:
        before = json.loads(listing.read_text())
    except (OSError, ValueError):  # an earlier version wrote none
        return ""
    return "; ".join(changes(before, now.listed(), {each["path"]: each["reason"] for each in skipped}))


# --- their parts -----------------------------------------------------------------------------------


def _label_of(name: str | None, root: Path) -> str | None:
    try:
        return None if name is None else label_of(shown(name)) or None
    except LabelError as error:
        raise DataError(f"{root}: {error}; rename that folder, or give labels in a file") from None


def _from_files(
    name: str,
    root: Path,
    files: list[Path],
    names: list[str] | list[str | None],
    queries: NDArray[np.bool_] | None,
) -> ImageSet:
    classes = tuple(sorted({label for label in names if label is not None}))
    paths = tuple(path.as_posix() for path in files)
    index_of = {label: number for number, label in enumerate(classes)}
    return ImageSet(
        name=name,
        where=str(root),
        root=root.resolve(),
        classes=classes,
        paths=paths,
        labels=np.array([UNLABELLED if label is None else index_of[label] for label in names], np.int64),
        queries=queries,
        open=partial(_open_file, root, paths, AS_SHOWN),
    )


def _open_file(root: Path, paths: tuple[str, ...], reading: Reading, position: int) -> Image.Image:
    return open_image(root / paths[position], reading=reading)


def _cifar(name: str, dataset: Callable[..., Any], root: Path, needed: str) -> ImageSet:
    if (root / "train").is_dir():
        return replace(folder(root), name=name, validation_share=CIFAR_VALIDATION)
    try:
        parts = [_downloaded(dataset, root, train) for train in (True, False)]
    except Exception as error:  # torchvision raises RuntimeError, URLError, OSError … for a failed download
        raise DataError(
            f"{root}: {name} is not there and could not be downloaded ({error}); put {needed} into {root}"
        ) from error
    arrays = np.concatenate([part.data for part in parts])
    train_count = len(parts[0].data)
    numbers = [*range(train_count), *range(len(parts[1].data))]
    return ImageSet(
        name=name,
        where=str(root),
        root=None,
        classes=tuple(parts[0].classes),
        paths=tuple(
            f"{'train' if i < train_count else 'test'}/{number:05d}" for i, number in enumerate(numbers)
        ),
        labels=np.concatenate([part.targets for part in parts]).astype(np.int64),
        queries=np.arange(len(arrays)) >= train_count,
        open=lambda i: Image.fromarray(arrays[i]),
        validation_share=CIFAR_VALIDATION,
    )


def _downloaded(dataset: Callable[..., Any], root: Path, train: bool) -> Any:
    try:
        return dataset(str(root), train=train, download=False)
    except RuntimeError:  # not there yet
        return dataset(str(root), train=train, download=True)
