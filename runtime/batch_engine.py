"""The engine of many pictures, some of which may make it fail."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from srtrt.errors import BackendError
from srtrt.runtime.session import Session


class BatchEngine:
    """The model, opened when a picture first needs it, and again after it failed on one."""

    def __init__(self, open_session: Callable[[], Session]) -> None:
        """Opens nothing yet; ``open_session`` is called when a picture needs it."""
        self._open = open_session
        self._session: Session | None = None
        self._failed = False

    def session(self) -> Session:
        """The opened model.

        Raises:
            SrtrtError: if it cannot be opened.
        """
        if self._session is None:
            self._session = self._open()
        return self._session

    def worked(self) -> None:
        """A picture was computed."""
        self._failed = False

    def drop(self) -> bool:
        """Closes the model because it failed.

        Returns:
            Whether to open it again for the next picture. An engine that cannot be opened, or that
            fails on two pictures in a row, is dead.
        """
        session, failed = self._session, self._failed
        self._session, self._failed = None, True
        if session is not None:
            with suppress(BackendError):
                session.close()
        return session is not None and not failed

    def close(self) -> None:
        """Closes the model."""
        if self._session is not None:
            self._session.close()
