"""The Python API for pictures in memory."""

from __future__ import annotations

import os
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from srtrt.errors import InputError
from srtrt.runtime.backends.options import BackendOptions
from srtrt.runtime.session import open_session
from srtrt.weights import DEFAULT_MODEL

_EXPECTED = "expected a NumPy array of uint8, RGB, [H, W, 3] or [N, H, W, 3]"


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
            any_size=True,
        )
        self.scale = self._session.scale
        """Enlargement in each direction."""

    @property
    def description(self) -> str:
        """Model, engine, precision and device in a few words."""
        return self._session.description

    def __call__(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Enlarges one picture or a batch.

        Args:
            picture: uint8 RGB ``[H, W, 3]`` or ``[N, H, W, 3]``.

        Returns:
            uint8 RGB ``[4H, 4W, 3]`` or ``[N, 4H, 4W, 3]``.

        Raises:
            InputError: if it is no array, or shape or dtype are others.
            BackendError: if the engine fails.
        """
        _check(picture)
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


def _check(picture: object) -> None:
    if not isinstance(picture, np.ndarray):
        raise InputError(f"picture is {_kind(picture)}; {_EXPECTED}. {_conversion(picture)}")
    what = f"picture is a NumPy array of {picture.dtype}, {list(picture.shape)}"
    if picture.dtype != np.uint8:
        raise InputError(f"{what}; {_EXPECTED}, with values from 0 to 255.")
    if picture.ndim not in (3, 4) or picture.shape[-1] != 3:
        first = picture.ndim in (3, 4) and picture.shape[-3] == 3
        hint = " Colours come last: np.moveaxis(picture, -3, -1)." if first else ""
        raise InputError(f"{what}; {_EXPECTED}.{hint}")
    if 0 in picture.shape:
        raise InputError(f"{what}, which is empty.")


def _kind(value: object) -> str:
    """What a value is, for people."""
    kind = type(value)
    package = kind.__module__.partition(".")[0]
    return f"a {'' if package == 'builtins' else f'{package} '}{kind.__qualname__}"


def _conversion(value: object) -> str:
    """How to make an array of a value."""
    package = type(value).__module__.partition(".")[0]
    if isinstance(value, str | bytes | os.PathLike):
        return "For files there is srtrt.upscale_images; one is read by srtrt.images.read_image."
    if package == "torch":
        return (
            "From [3, H, W] with values from 0 to 1: "
            "(picture.permute(1, 2, 0) * 255).round().clamp(0, 255).byte().cpu().numpy()."
        )
    if package == "PIL":
        return 'Convert it: numpy.asarray(picture.convert("RGB")).'
    if package == "srtrt":
        return "Give its attribute rgb."
    if isinstance(value, list | tuple):
        return (
            "Give one picture at a time, or pictures of one size together: numpy.stack(pictures)."
        )
    return "Convert it with numpy.asarray(picture)."
