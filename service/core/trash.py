"""What is deleted and can come back, and what was done and can be undone. No HTTP in it.

Everything here blocks, and whoever calls it changes the index alone.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch

from index.codes import Codes
from index.items import Embedding, Item
from service.core.library import Library, rows
from service.core.pictures.decoding import Decode
from service.core.pictures.originals import NoOriginal
from training.nets.images import MAX_PIXELS, ImageError

DAY = 86_400  # seconds
NEVER = 2**62  # a time that does not come
PART = 1000  # images forgotten in one transaction: so long others wait
TOGETHER = 16  # images in memory at a time, each with its file

GONE = "there is no such image"
HELD_OUT = "it is held out to measure the answers and must stay as it is"
THROWN = "it lies in the trash already"
NOT_THROWN = "it does not lie in the trash"
CHANGED = "it was changed since"
UNREADABLE = "its file, which the new encoder needs, cannot be read ({}); put it back as it was"


@dataclass(frozen=True)
class Done:
    """What became of many images."""

    done: tuple[int, ...]  # ids
    left: dict[int, str] = field(default_factory=dict)  # why, by id


class Trash:
    """The trash of a library, in which images lie for so many days; with 0 they do not go there."""

    def __init__(self, library: Library, *, days: int, decode: Decode) -> None:
        self.days = days
        self._library = library
        self._catalogue = library.searcher.catalogue
        self._decode = decode

    def delete(
        self, item_id: int, *, sha256: str | None = None, forever: bool = False, batch: str | None = None
    ) -> bool:
        """Put an image into the trash; with `forever`, or where there is no trash, forget it. Whether it can
        come back. Raises as `Library.changeable`, and KeyError for one that lies there already."""
        item = self._library.changeable(item_id, sha256)
        if forever or not self.days:
            if not self._library.forget([item]):
                raise KeyError(item_id)
            return False
        if not self._throw([item_id], batch):
            raise KeyError(item_id)
        return True

    def throw(self, ids: Iterable[int], *, batch: str | None = None) -> Done:
        """Put images into the trash, or forget them where there is none; all at once."""
        found = self._found(ids)
        good = [item for item in found.values() if item is not None and item.split == "database"]
        if not good:
            done = []  # nothing is written where nothing changes
        else:
            done = self._throw(ids_of(good), batch) if self.days else self._library.forget(good)
        return _told(found, done, {"query": HELD_OUT, "trash": THROWN})

    def restore(self, ids: Iterable[int], *, batch: str | None = None) -> Done:
        """Let images that lie in the trash be found again, all at once."""
        found = self._found(ids)
        thrown = [item for item in found.values() if item is not None and item.split == "trash"]
        made, unreadable = self._made(thrown)
        done = self._catalogue.take_out(ids_of(thrown), made, batch=batch) if thrown else []
        self._library.searcher.snapshot()
        told = _told(found, done, {"query": NOT_THROWN, "database": NOT_THROWN})
        return Done(told.done, told.left | unreadable)

    def empty(self, ids: Sequence[int], *, until: int = NEVER) -> int:
        """Forget those of at most PART images that lie in the trash since that time or longer, for good; how
        many."""
        thrown = [item for item in self._found(ids).values() if item is not None and item.split == "trash"]
        return len(self._library.forget(thrown, thrown_until=until)) if thrown else 0

    def tidy(self) -> int:
        """Forget at most PART images that have lain there for all their days; how many."""
        until = int(time.time()) - self.days * DAY
        return self.empty(self._catalogue.trash.ids(until)[:PART], until=until)

    def undo(self, name: str, *, batch: str | None = None) -> Done:
        """Let the images of a batch be as they were before it, but for those that somebody has changed since.
        What came with it goes into the trash, or is forgotten where there is none. KeyError for a batch that
        is not kept."""
        undone = self._catalogue.history.named(name)
        undoable = self._catalogue.history.undoable(undone, batch)
        thrown = [id_ for id_, what in undoable.items() if what == "trashed"]
        made, unreadable = self._made([item for item in self._found(thrown).values() if item])
        done = self._catalogue.undo(undone, made, name=batch) if undoable else []
        if not self.days:
            self._library.forget(
                [item for item in self._catalogue.get_many(done) if item.trashed is not None]
            )
        self._library.searcher.snapshot()
        left = dict.fromkeys(sorted(set(undone.ids) - set(done)), CHANGED)
        return Done(tuple(done), left | unreadable)

    def _throw(self, ids: Sequence[int], batch: str | None) -> list[int]:
        thrown = self._catalogue.throw(ids, batch=batch)
        self._library.searcher.snapshot()
        return thrown

    def _found(self, ids: Iterable[int]) -> dict[int, Item | None]:
        """What is known of each; None: there is none."""
        wanted = list(dict.fromkeys(ids))
        known = self._catalogue.there(wanted)
        return {id_: known.get(id_) for id_ in wanted}

    def _made(
        self, items: Sequence[Item]
    ) -> tuple[dict[int, tuple[Codes, Embedding | None]], dict[int, str]]:
        """Codes and embeddings of those that have no code of this encoder, and, by id, why one has none."""
        made: dict[int, tuple[Codes, Embedding | None]] = {}
        unreadable: dict[int, str] = {}
        uncoded = set(self._catalogue.trash.uncoded([item.id for item in items]))
        waiting = [item for item in items if item.id in uncoded]
        searcher = self._library.searcher
        for at in range(0, len(waiting), TOGETHER):
            some = waiting[at : at + TOGETHER]
            kept = self._catalogue.embeddings_of([item.id for item in some])
            made |= {id_: (searcher.code(each[None])[0], None) for id_, each in kept.items()}
            pixels: dict[int, torch.Tensor] = {}
            for item in some:
                if item.id not in made:
                    try:
                        file = searcher.original_of(item).read_bytes()
                        made_of = searcher.decoded(file, self._decode, max_pixels=MAX_PIXELS)
                        pixels[item.id] = made_of.pixels
                    except (ImageError, NoOriginal, OSError) as error:
                        unreadable[item.id] = UNREADABLE.format(error)
            if pixels:
                encoded = searcher.encode_and_embed(torch.stack(list(pixels.values())))
                made |= zip(pixels, rows(encoded), strict=True)
        return made, unreadable


def ids_of(items: Iterable[Item]) -> list[int]:
    return [item.id for item in items]


def _told(found: dict[int, Item | None], done: Sequence[int], reasons: dict[str, str]) -> Done:
    """`reasons`: why an item of a split is left."""
    left = {
        id_: GONE if item is None else reasons.get(item.split, CHANGED)
        for id_, item in found.items()
        if id_ not in set(done)
    }
    return Done(tuple(done), left)
