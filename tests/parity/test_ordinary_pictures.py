"""Ordinary pictures of hard edges are upscaled by every bundled model in every precision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest
from hard_pictures import PICTURES, Picture
from overflow_graphs import session_of

from srtrt.errors import OutputCheckError
from srtrt.metrics import mod_crop
from srtrt.resample import resize_bicubic
from srtrt.runtime.backends import backend_class
from srtrt.runtime.models import bundled_models, find_model
from srtrt.runtime.parity import form_inputs
from srtrt.runtime.session import Session, open_session
from srtrt.spec import Form, Precision

TWINS: tuple[Precision, ...] = ("fp16", "bf16")
"""Precisions that are shown with their rounding where the processor does not compute them."""


def engines(model: str) -> Iterator[tuple[str, Precision]]:
    """Engines and precisions of this processor that have the model; ``twin`` emulates one."""
    found = find_model(model)
    for name in ("openvino", "onnxruntime", "torch"):
        for capability in backend_class(name).capabilities():
            for precision in capability.precisions if capability.device == "cpu" else ():
                if precision != "int8" or "int8" in found.calibrated_paths:
                    yield name, precision
    for precision in TWINS:
        yield "twin", precision


def opened(model: str, engine: str, precision: Precision, form: Form) -> Session:
    if engine == "twin":
        return session_of(find_model(model).graph(form, precision), form, precision)
    return open_session(model=model, form=form, backend=engine, precision=precision)


def verdicts(session: Session, form: Form, pictures: Mapping[str, Picture]) -> dict[str, str]:
    """What the output check says of each picture, by name."""
    check, found = session.output_check, {}
    for name, picture in pictures.items():
        suspected, notes = check.suspected, len(session.notes)
        try:
            session.infer(form_inputs(picture, form))
        except OutputCheckError:
            found[name] = "refused"
            continue
        innocent = check.suspected > suspected
        found[name] = "proven innocent" if innocent else "not suspected"
        assert len(session.notes) == notes
    return found


def drawn() -> dict[str, Picture]:
    return {name: draw() for name, draw in PICTURES.items()}


def shared_pictures(folder: Path) -> dict[str, Picture]:
    """Pages that were refused once, and a slide of Set14 reduced to a quarter."""
    slide = mod_crop(_read(folder / "bench" / "Set14" / "ppt3.png"), 8)
    height, width = slide.shape[:2]
    return {
        "page": _read(folder / "faults" / "page.png"),
        "page-small": _read(folder / "faults" / "page-small.png"),
        "ppt3": resize_bicubic(slide, height // 4, width // 4),
    }


def _read(path: Path) -> Picture:
    picture = cv2.imread(str(path))
    assert picture is not None
    return np.ascontiguousarray(mod_crop(picture[..., ::-1].astype(np.uint8), 2))


Case = tuple[str, str, Precision, Form]
CASES: list[Case] = [
    (model, *engine, form)
    for model in bundled_models()
    for engine in engines(model)
    for form in ("rgb8", "yuv420p8")
]


def is_quick(case: Case) -> bool:
    """The smallest model in what users run, and the others in what they run by default."""
    model, engine, precision, form = case
    if model == "fast":
        return engine == "openvino" or (engine, precision, form) == ("twin", "fp16", "rgb8")
    return engine == "openvino" and precision != "fp32" and (model == "video" or form == "rgb8")


MARKED = [pytest.param(*c, marks=[] if is_quick(c) else [pytest.mark.slow]) for c in CASES]


@pytest.mark.parametrize(("model", "engine", "precision", "form"), MARKED)
def test_no_drawn_picture_is_refused(
    model: str, engine: str, precision: Precision, form: Form
) -> None:
    large = model in ("srresnet", "srgan")
    pictures = {n: p[:48, :64].copy() if large else p for n, p in drawn().items()}
    with opened(model, engine, precision, form) as session:
        found = verdicts(session, form, pictures)
    assert set(found.values()) == {"not suspected"}, found


@pytest.mark.parametrize("model", ["fast", pytest.param("srresnet", marks=pytest.mark.slow)])
@pytest.mark.parametrize("form", ["rgb8", "yuv420p8"])
def test_no_page_or_slide_is_refused(model: str, form: Form, shared: Path) -> None:
    for precision in backend_class("openvino").capabilities()[0].precisions:
        if precision == "int8" and "int8" not in find_model(model).calibrated_paths:
            continue
        with opened(model, "openvino", precision, form) as session:
            found = verdicts(session, form, shared_pictures(shared))
        assert set(found.values()) == {"not suspected"}, found
