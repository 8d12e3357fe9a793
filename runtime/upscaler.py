"""The Python API for pictures in memory."""

from __future__ import annotations

from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from srtrt.errors import InputError
from srtrt.runtime.backends.options import BackendOptions
from srtrt.runtime.session import open_session
from srtrt.weights import DEFAULT_MODEL


class Upscaler:
    """Enlarges pictures 4x; a context manager, called on arrays.

    ::

        with Upscaler() as upscale:
            big = upscale(picture)
    """

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        *,
        backend: str = "auto",
        device: str = "auto",
        precision: str = "auto",
        tile: str | int = "auto",
        backend_options: BackendOptions = None,
    ) -> None:
        """Opens a model; the arguments and errors are those of :func:`open_session`."""
        self._session = open_session(
            model=model,
            form="rgb8",
            backend=backend,
            device=device,
            precision=precision,
            tile=tile,
            backend_options=backend_options,
        )
        self.description = self._session.description
        """Model, engine, precision and device in a few words."""
        self.scale = self._session.scale
        """Enlargement in each direction."""

    def __call__(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Enlarges one picture or a batch.

        Args:
            picture: uint8 RGB ``[H, W, 3]`` or ``[N, H, W, 3]``.

        Returns:
            uint8 RGB ``[4H, 4W, 3]`` or ``[N, 4H, 4W, 3]``.

        Raises:
            InputError: if shape or dtype are others.
            BackendError: if the engine fails.
        """
        if picture.dtype != np.uint8 or picture.ndim not in (3, 4) or picture.shape[-1] != 3:
            raise InputError(
                f"picture is {picture.dtype} {list(picture.shape)}; "
                "expected uint8 RGB of shape [H, W, 3] or [N, H, W, 3]."
            )
        if 0 in picture.shape:
            raise InputError(f"picture of shape {list(picture.shape)} is empty.")
        batch = picture if picture.ndim == 4 else picture[None]
        result = self._session.infer({"rgb": np.ascontiguousarray(batch)})["rgb_x4"]
        return result if picture.ndim == 4 else result[0]

    def close(self) -> None:
        """Releases the engine; harmless when repeated."""
        self._session.close()

    def __enter__(self) -> Upscaler:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
