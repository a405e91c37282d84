"""The artifact that is being served, and its change for another one while requests run.

Everything here but what it calls in threads runs in the event loop.
"""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from anyio import CancelScope, CapacityLimiter, to_thread

from index.artifact import BUILT, PREDECESSOR, PREDECESSOR_AT, TAKEN_OVER, Artifact, read_manifest
from index.backup import copy_artifact
from index.database import CatalogueError, Superseded
from index.engines import is_elsewhere, making, shown
from index.items import SUCCESSOR
from index.postgres_catalogue import beside, schema_of
from index.schemas import alone, brought, in_service_at, is_brought
from service.core.artifacts.carrying import Carried, Comparison, carry, compare
from service.core.batching import Batcher
from service.core.library import Library
from service.core.pictures.decoding import Decode
from service.core.searcher import Answer, Question, Searcher
from service.core.trash import Trash
from service.settings import Settings

T = TypeVar("T")
Answering = Callable[[Sequence[Question]], Sequence[Answer]]
Counting = Callable[[Answering], Answering]  # the same, and its questions are counted

LARGEST_BATCH = 64  # beyond it a batch is no faster an image, and whoever comes next waits longer
ANSWERING = 2  # threads: one encodes while the other decodes or ranks

BUSY = "the artifact is being replaced or copied at this moment; try again when that is done"

log = logging.getLogger("hebbsearch")


class NotReplaced(ValueError):
    """The artifact that is served stays; the message says why and what to do."""


@dataclass(frozen=True)
class Replaced:
    """What a change of artifacts did."""

    before: str  # folder names
    after: str
    carried: Carried
    comparison: Comparison | None  # None: there was nothing to compare by


def opened(path: Path, settings: Settings, *, url: str | None = None) -> Searcher:
    """The artifact in this folder, with its catalogue at `url` if there is one, as the settings say.
    ArtifactError and EngineError."""
    engine = making(settings.engine_name, recall=settings.recall, catalogue=url)
    return Searcher.open(path, max_pixels=settings.max_pixels, url=url, engine=engine)


class Generation:
    """An open artifact with all that answers from it. Made within the event loop."""

    def __init__(self, searcher: Searcher, settings: Settings, counting: Counting, decode: Decode) -> None:
        self.searcher = searcher
        self.library = Library(
            searcher,
            max_bytes=settings.max_image_bytes,
            max_pixels=settings.max_pixels,
            keep=settings.keep_originals,
        )
        self.trash = Trash(self.library, days=settings.trash_days, decode=decode)
        self.batches: Batcher[Question, Answer] = Batcher(
            counting(searcher.answer), largest=LARGEST_BATCH, threads=ANSWERING
        )
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()

    @contextmanager
    def used(self) -> Iterator[None]:
        """It stays open meanwhile."""
        self._users += 1
        self._unused.clear()
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                self._unused.set()

    async def close(self) -> None:
        """Once nobody uses it any more."""
        await self._unused.wait()
        await to_thread.run_sync(self._close)

    def _close(self) -> None:
        self.batches.close()
        self.searcher.close()


class Live:
    """What is served now. `writing`: whoever changes the index does it within, one after the other."""

    def __init__(self, searcher: Searcher, settings: Settings, *, counting: Counting, decode: Decode) -> None:
        self._settings = settings
        self._counting = counting
        self._decode = decode
        self._current = Generation(searcher, settings, counting, decode)
        self._retired: set[asyncio.Task[None]] = set()
        self._replacing = asyncio.Lock()
        self.writing = CapacityLimiter(1)  # decoding takes what the cores have

    @contextmanager
    def lease(self) -> Iterator[Generation]:
        """The current generation, for one request; it stays open until then, whatever takes its place."""
        generation = self._current
        with generation.used():
            yield generation

    async def in_use(self) -> set[str]:
        """The names of the folders that are served, or that `back` would serve."""
        with self.lease() as generation:
            searcher = generation.searcher
            before = await to_thread.run_sync(searcher.catalogue.noted, PREDECESSOR)
            return {searcher.name, *([before] if before else [])}

    async def write(self, work: Callable[[Generation], T], *, ids_of: Generation | None = None) -> T:
        """Do `work` in a thread, alone, with the generation that is current when its turn comes.

        NotReplaced where ids of another one were meant: here they are those of other images. Superseded where
        another process has served a successor since: also what would change nothing would be acknowledged.
        """

        def in_place(generation: Generation) -> T:
            generation.searcher.catalogue.check_in_place()
            return work(generation)

        async with self.writing:
            with self.lease() as generation:
                if ids_of not in (None, generation):
                    raise NotReplaced(
                        f"{generation.searcher.name} has just taken the place of another artifact and has "
                        "other ids; look for the image again"
                    )
                return await to_thread.run_sync(in_place, generation)

    async def tidy(self) -> int:
        """Forget what lies in the trash for all its days, some at a time, so that others write between, and
        what a process that was killed began to forget; how many images. Nothing of an index that cannot be
        changed."""
        forgotten = 0
        while (some := await self.write(_tidied)) > 0:
            forgotten += some
        return forgotten

    async def close(self) -> None:
        """Close what is served and what was."""
        await asyncio.gather(self._current.close(), *self._retired)

    async def replace(self, path: Path, *, force: bool = False, as_it_is: bool = False) -> Replaced:
        """Serve the artifact in this folder, beside the one that is served, from now on and after a restart.

        It is verified, warmed, given what was done to the one served, and compared with it, while requests go
        on; only at the end those who write wait. With `as_it_is` it is neither given anything nor compared.
        Raises ArtifactError, CannotCarry and NotReplaced, which `force` overrules where it is about the
        comparison; what is served then goes on being served.
        """
        async with self._alone():
            return await self._replace(path, force=force, as_it_is=as_it_is, since=BUILT)

    async def back(self) -> Replaced:
        """Serve the artifact again whose place the one served took, with what was done since. Raises as
        `replace`."""
        async with self._alone():
            served = self._current.searcher
            path = served.artifact.path.resolve()
            name, schema = await to_thread.run_sync(_predecessor, served)
            if name is None:
                raise NotReplaced(f"{path.name} took no other artifact's place: there is none to go back to")
            before, at = path.parent / name, _beside(served.artifact.url, schema)
            return await self._replace(before, force=True, as_it_is=False, since=TAKEN_OVER, at=at)

    async def follow(self) -> None:
        """Serve what took the place of what is served, where another process had it do so. ArtifactError,
        CatalogueError and EngineError."""
        searcher = self._current.searcher
        artifact = searcher.artifact
        if artifact.url is None or self._replacing.locked():
            return
        if await to_thread.run_sync(searcher.catalogue.noted, SUCCESSOR) is None:  # by a connection there is
            return
        path, url = await to_thread.run_sync(in_service_at, artifact.path, artifact.url)
        if url != artifact.url:
            async with self._replacing, self._opened(path, url, self._settings) as after:
                await to_thread.run_sync(after.searcher.check)
                await to_thread.run_sync(after.searcher.catalogue.check_in_place)  # meanwhile too
                before, self._current = self._current, after
            self._retire(before)
            log.info("%s took the place of %s and is served", after.searcher.name, before.searcher.name)

    async def copy(self, target: Path) -> Artifact:
        """The artifact that is served, as it is now, in the new folder `target`. Raises ArtifactError, and
        NotReplaced while it is being replaced."""
        async with self._alone():
            with self.lease() as generation:
                source = generation.searcher.artifact
                return await to_thread.run_sync(copy_artifact, source.path, target, source.url)

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Only whoever is within may replace or copy what is served. NotReplaced while another is, and where
        another process has served a successor since: a copy would lack what came later."""
        if self._replacing.locked():
            raise NotReplaced(BUSY)
        async with self._replacing, _only_here(self._current.searcher):
            try:
                await to_thread.run_sync(self._current.searcher.catalogue.check_in_place)
            except Superseded as error:
                raise NotReplaced(str(error)) from error
            yield

    async def _replace(
        self, path: Path, *, force: bool, as_it_is: bool, since: str, at: str | None = None
    ) -> Replaced:
        """`replace`, alone, with what was done after the revision that the one served notes as `since`. `at`:
        the URL of the new one's catalogue; None: it is a file, or is brought to where the one served is."""
        before, path = self._current, path.resolve()
        served = before.searcher.artifact.path.resolve()
        if path.parent != served.parent:
            raise NotReplaced(f"{path} does not lie beside {served}, which is served; move it there")
        if path == served:
            raise NotReplaced(f"{path.name} is what is served; name another artifact beside it")
        _refuse_elsewhere(self._settings)
        _refuse_fixed(before.searcher, path)
        prepare = partial(self._prepare, before, since=since, force=force, as_it_is=as_it_is)
        tried = Carried()
        if at is None and (url := before.searcher.artifact.url) is not None:
            read_manifest(path)  # what is none shall be told as such
            async with _explained():
                if not await to_thread.run_sync(
                    is_brought, path
                ):  # what is refused stays the file that it is
                    async with self._opened(path, None, self._settings.ranking_here()) as trial:
                        _, tried, _ = await prepare(trial)
                    with CancelScope(shield=True):
                        await trial.close()
                at = await to_thread.run_sync(brought, path, url)
        async with _explained(), self._opened(path, at, self._settings) as after:
            until, carried, comparison = await prepare(after)
            async with self.writing:
                with CancelScope(shield=True):  # what a restart serves is what is served
                    carried += await to_thread.run_sync(self._hand_over, before, after, until)
                    self._current = after
        self._retire(before)
        return Replaced(before.searcher.name, after.searcher.name, tried + carried, comparison)

    async def _prepare(
        self, before: Generation, after: Generation, *, since: str, force: bool, as_it_is: bool
    ) -> tuple[int | None, Carried, Comparison | None]:
        """Verify and warm the new one, give it what was done, until which revision, and compare both."""
        _refuse_fixed(after.searcher, after.searcher.artifact.path)
        begin = int(before.searcher.catalogue.noted(since) or 0)
        await to_thread.run_sync(after.searcher.catalogue.come_back)
        await to_thread.run_sync(after.searcher.check)
        if as_it_is:
            return None, Carried(), None
        until, carried = await to_thread.run_sync(self._carry, before, after, begin)
        return until, carried, await to_thread.run_sync(self._compared, before, after, force)

    @asynccontextmanager
    async def _opened(self, path: Path, url: str | None, settings: Settings) -> AsyncIterator[Generation]:
        """A generation of this folder, closed again if it does not come to be served."""
        searcher = await to_thread.run_sync(partial(opened, path, settings, url=url))
        generation = Generation(searcher, settings, self._counting, self._decode)
        try:
            yield generation
        except BaseException:
            self._retire(generation)
            raise

    def _carry(self, before: Generation, after: Generation, since: int) -> tuple[int, Carried]:
        return carry(before.searcher, after.library, since, decode=self._decode)

    def _hand_over(self, before: Generation, after: Generation, until: int | None) -> Carried:
        """Let a restart serve `after`, once it was given what was done since `until`, if anything shall be.

        No process changes the one before meanwhile, nor afterwards: all that was acknowledged is in the one
        that a restart finds.
        """
        left, new = before.searcher, after.searcher
        had, rest = dict[str, str | None](), Carried()
        try:
            handing_over = left.catalogue.handing_over(new.name, _schema(new))
            with left.following.leaving(), handing_over as transaction:
                if until is not None:
                    _, rest = self._carry(before, after, until)
                predecessor = {PREDECESSOR: left.name, PREDECESSOR_AT: _schema(left)}
                had = new.catalogue.take_over(predecessor, since=TAKEN_OVER, within=transaction)
                if transaction is not None:
                    had = {}  # both change at once, or neither
        except CatalogueError as error:
            with suppress(CatalogueError):
                if had:  # as it was: a restart must find what goes on being served
                    new.catalogue.note_all(had)
            raise NotReplaced(f"{error}; what was served is still served") from error
        log.info("%s takes the place of %s", new.name, left.name)
        return rest

    def _compared(self, before: Generation, after: Generation, force: bool) -> Comparison | None:
        try:
            comparison = compare(before.searcher, after.searcher)
        except ValueError as error:
            if force:
                return None
            raise NotReplaced(f"{error}; force it if it shall be served all the same") from None
        margin = self._settings.reload_margin
        if comparison and not force and comparison.after < comparison.before - margin:
            raise NotReplaced(
                f"on the {comparison.queries:,} images that both hold out {after.searcher.name} reaches a "
                f"mAP of {comparison.after:.4f}, {before.searcher.name} {comparison.before:.4f}; more than "
                f"{margin:g} less is refused; force it if it shall be served all the same"
            )
        return comparison

    def _retire(self, generation: Generation) -> None:
        async def end() -> None:
            await generation.close()
            gc.unfreeze()  # what was there at the start is garbage now in part
            gc.collect()
            gc.freeze()

        task = asyncio.create_task(end())
        self._retired.add(task)
        task.add_done_callback(self._retired.discard)


def _tidied(generation: Generation) -> int:
    if not generation.searcher.catalogue.writable:
        return 0
    generation.library.finish_forgetting()
    return generation.trash.tidy()


@asynccontextmanager
async def _explained() -> AsyncIterator[None]:
    """What a disk that is full or cannot be written to does, in words."""
    try:
        yield
    except CatalogueError as error:
        raise NotReplaced(f"{error}; what was served is still served") from error
    except OSError as error:
        raise NotReplaced(
            f"{error.filename or 'a file'}: {error.strerror}; what was served is still served"
        ) from error


def _predecessor(searcher: Searcher) -> tuple[str | None, str | None]:
    """The folder whose place it took, and the schema of that one's catalogue."""
    noted = searcher.catalogue.noted
    return noted(PREDECESSOR), noted(PREDECESSOR_AT)


def _schema(searcher: Searcher) -> str | None:
    """Where its catalogue lies in PostgreSQL; None: it is a file."""
    url = searcher.artifact.url
    return None if url is None else schema_of(url)


def _beside(url: str | None, schema: str | None) -> str | None:
    return None if url is None or schema is None else beside(url, schema)


@asynccontextmanager
async def _only_here(searcher: Searcher) -> AsyncIterator[None]:
    """NotReplaced while another process on the same catalogue has another artifact take the place."""
    held = ExitStack()
    try:
        if (url := searcher.artifact.url) is not None:
            async with _explained():
                if not await to_thread.run_sync(held.enter_context, alone(url)):
                    raise NotReplaced(BUSY)
        yield
    finally:
        with CancelScope(shield=True):
            await to_thread.run_sync(held.close)


def _refuse_elsewhere(settings: Settings) -> None:
    """NotReplaced where codes are ranked elsewhere, where there is a place for those of one artifact."""
    if is_elsewhere(settings.engine_name):
        raise NotReplaced(
            f"its codes are ranked in {shown(settings.engine_name)}, and those of another artifact need "
            "another place; restart the service with other HEBBSEARCH_ARTIFACT and HEBBSEARCH_ENGINE"
        )


def _refuse_fixed(searcher: Searcher, path: Path) -> None:
    """Before anything is done: NotReplaced where this one of the two cannot be written to. `path`: of the one
    that is asked for."""
    if not searcher.catalogue.writable:
        raise NotReplaced(
            f"{searcher.catalogue.path}: cannot be written to, and both artifacts note which one a restart "
            f"serves; make it writable, or restart the service with HEBBSEARCH_ARTIFACT={path}, which takes "
            "nothing along"
        )
