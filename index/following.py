"""An engine and the catalogue that it follows, whichever of the two is away."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from index.catalogue import Catalogue
from index.database import CatalogueAway
from index.engine import Engine, EngineError
from index.hamming import FaissEngine
from index.items import Changes
from index.ivf import IvfEngine
from index.remote import RemoteEngine
from index.snapshot import Part, Snapshot

RETRY = 1.0  # seconds after which an engine that did not take changes is asked again

log = logging.getLogger("hebbsearch")


class Absence:
    """Whether what others keep is away, which the log has once, as its return."""

    def __init__(self, what: str, meanwhile: str, *kinds: type[Exception]) -> None:
        self.reason: str | None = None  # at the latest look; None: it answers
        self._what, self._meanwhile, self._kinds = what, meanwhile, kinds

    @contextmanager
    def tolerated(self) -> Iterator[None]:
        """An error of these kinds ends what is within, and no more."""
        try:
            yield
        except self._kinds as error:
            if self.reason is None:
                log.warning("%s; %s", error, self._meanwhile)
            self.reason = str(error)
        else:
            if self.reason is not None:
                log.info("%s answers again", self._what)
                self.reason = None


class Following:
    """An engine that knows what its catalogue does whenever it is asked.

    While the catalogue is away, the engine stays as it was. While the engine takes no changes, what it has
    is searched, `behind` says how much it lacks, and what was removed is not found.
    """

    def __init__(self, engine: Engine, catalogue: Catalogue, contents: Changes) -> None:
        """`contents`: of the catalogue, as it was read to verify it. EngineError, and the engine is closed,
        where it does not follow this catalogue, or cannot now."""
        self.engine = engine
        self.catalogue_absence = Absence(
            "the catalogue's server", "searches are answered by what was read before", CatalogueAway
        )
        self.engine_absence = Absence("the engine", "searches are answered by what it has", EngineError)
        self._catalogue = catalogue
        self._applying = threading.Lock()
        self._again = 0.0
        self._leaving = False
        try:
            if isinstance(engine, RemoteEngine):
                engine.check_follows(catalogue.revision)
            engine.apply(contents)
        except EngineError:
            engine.close()
            raise

    @property
    def behind(self) -> int:
        """Images that were changed and that the engine does not have yet, as they are now."""
        return self.engine.behind if isinstance(self.engine, RemoteEngine) else 0

    def snapshot(self) -> Snapshot[Part]:
        """What can be found, now or, of a catalogue that is away, before that; the engine is no older unless
        it is `behind`. Followed where another process had another artifact take the place."""
        with self.catalogue_absence.tolerated():
            if self._lags():
                with self._applying:
                    if self._lags():
                        self._bring()
        return self.engine.snapshot

    @contextmanager
    def leaving(self) -> Iterator[None]:
        """Within, this process has another artifact take the place; if it does, searches that are under way
        end with what there is."""
        self._leaving = True
        try:
            yield
        except BaseException:
            self._leaving = False
            raise

    def contents(self) -> Changes:
        """All that can be found, with its codes: of an engine of this process, which has them, else of the
        catalogue, which takes a hundred times as long."""
        self.snapshot()
        if isinstance(self.engine, FaissEngine | IvfEngine):
            return self.engine.everything()
        return self._catalogue.changes(-1)

    def still(self) -> AbstractContextManager[object]:
        """This process changes nothing meanwhile."""
        return self._applying

    def _lags(self) -> bool:
        wanted = self._catalogue.revision
        if self.engine.snapshot.revision != wanted:
            return True
        return self.engine.revision != wanted and time.monotonic() >= self._again

    def _bring(self) -> None:
        changes = self._catalogue.changes(self.engine.revision)
        if isinstance(self._catalogue.path, str) and not self._leaving:
            # Otherwise a change that another process made to a successor would not be known here, such as
            # that an image was deleted. Asked after the changes were read: what is not told then, comes with
            # another revision. A file is served by one process, which knows.
            self._catalogue.check_in_place()
        with self.engine_absence.tolerated():
            self.engine.apply(changes)
        if self.engine_absence.reason is not None:
            self._again = time.monotonic() + RETRY
