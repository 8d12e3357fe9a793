"""What overflowed is refused, with proof in float32; what only looks like it is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hard_pictures import PICTURES
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from overflow_graphs import overflowing, poster, session_of, with_end

from srtrt.errors import BackendError, MissingPackageError, OutputCheckError
from srtrt.forms import Nodes
from srtrt.graph import dress, to_typed
from srtrt.runtime import output_check
from srtrt.runtime.backends.onnxruntime import OnnxRuntimeBackend, OnnxRuntimeOptions
from srtrt.runtime.models import Model, find_model
from srtrt.runtime.output_check import open_exact
from srtrt.runtime.parity import form_inputs, graph_backend, read_pictures
from srtrt.runtime.ring import RingOptions, in_order
from srtrt.runtime.session import Session, open_session
from srtrt.spec import Form
from srtrt.twin import float32_twin

FORM_NAMES: tuple[Form, ...] = ("rgb8", "yuv420p8")
FORMS = pytest.mark.parametrize("form", FORM_NAMES)
DIM = (read_pictures()[0][:48, :112] // 3 + 20).astype(np.uint8)
"""A picture in which nothing is brighter than 105."""


def spotted(size: int = 12, colour: tuple[int, int, int] = (190, 180, 200)) -> NDArray[np.uint8]:
    """The same picture with a bright square."""
    picture = DIM.copy()
    picture[20 : 20 + size, 30 : 30 + size] = colour
    return picture


@FORMS
def test_an_overflow_is_refused_in_a_picture(form: Form) -> None:
    with session_of(with_end(form, overflowing), form) as session:
        session.infer(form_inputs(DIM, form))
        with pytest.raises(
            OutputCheckError, match=r"made on onnxruntime fp16 \(cpu\): the picture came out"
        ) as info:
            session.infer(form_inputs(spotted(), form))
        session.infer(form_inputs(DIM, form))
    message = str(info.value)
    assert "numbers left the range of fp16" in message
    assert "near x " in message
    assert "--precision fp32" in message
    assert "--precision fp16" not in message
    assert not session.notes


@FORMS
@pytest.mark.parametrize("frame", [1, 7])
@pytest.mark.parametrize("way", ["one by one", "tiles", "ring"])
def test_an_overflow_is_refused_in_whichever_frame(form: Form, frame: int, way: str) -> None:
    graph = with_end(form, overflowing)
    session = session_of(graph, form, tile=80 if way == "tiles" else "none")
    if way == "ring":
        options = OnnxRuntimeOptions(optimise=False, ring=RingOptions(), threads=1)
        model = Model.from_graph("made", graph)
        backend = OnnxRuntimeBackend(
            model, form=form, device="cpu", precision="fp16", options=options
        )
        session = Session(backend, radius=backend.spec.receptive_radius, scale=4, tile="none")
    with session:
        session.prepare(112, 48)
        assert (session.plan(form_inputs(DIM, form)).count > 1) == (way == "tiles")
        assert (session.in_flight > 1) == (way == "ring")
        frames = [spotted() if k == frame else DIM for k in range(1, 9)]
        inputs = (form_inputs(each, form) for each in frames)
        results = in_order(session.submit, lambda: session.in_flight, inputs)
        for _ in range(frame - 1):
            next(results)
        with pytest.raises(OutputCheckError, match=f"frame {frame} came out"):
            next(results)


@FORMS
@pytest.mark.parametrize("channel", [0, 1, 2])
def test_nan_in_one_channel_is_refused(form: Form, channel: int) -> None:
    def one_channel(g: Nodes, sr: str) -> str:
        return overflowing(g, sr, tuple(float(k == channel) for k in range(3)))

    with session_of(with_end(form, one_channel), form) as session:
        where = (
            r" in (luma|U|V)| at 0"
            if form == "yuv420p8"
            else f" in {('red', 'green', 'blue')[channel]} in"
        )
        with pytest.raises(OutputCheckError, match=where):
            session.infer(form_inputs(spotted(), form))


def test_weights_that_overflow_in_float16_are_refused_and_pass_in_bfloat16() -> None:
    from networks import loud_generator

    from srtrt.export.onnx_graph import network_graph
    from srtrt.networks.checkpoint import generator_state, make_spec

    net = loud_generator(3e5)
    spec = make_spec(generator_state(net), net.config, "loud")
    network = network_graph(net)
    for precision in ("bf16", "fp16"):
        graph = dress(to_typed(network, spec, precision), spec.with_(precision=precision), "rgb8")
        with session_of(graph, "rgb8", precision) as session:
            if precision == "bf16":
                session.infer({"rgb": spotted()[None]})
                continue
            with pytest.raises(OutputCheckError, match="black in "):
                session.infer({"rgb": spotted()[None]})


@FORMS
def test_what_float32_draws_as_well_is_no_overflow(form: Form) -> None:
    with session_of(with_end(form, poster), form) as session:
        outputs = session.infer(form_inputs(DIM, form))
        check = session.output_check
        assert next(iter(outputs.values())).min() == 0
        assert (check.suspected, session.notes) == (1, [])
        assert 1 <= check.proofs <= 4


def test_float32_is_not_suspected() -> None:
    graph = with_end("rgb8", poster, "fp32")
    with session_of(graph, "rgb8", "fp32") as session:
        session.infer({"rgb": DIM[None]})
        assert (session.output_check.frames, session.output_check.suspected) == (1, 0)


def test_innocent_frames_cost_few_proofs_and_a_larger_overflow_is_found_at_once() -> None:
    def poster_or_nan(g: Nodes, sr: str) -> str:
        dark = g.add("Less", sr, g.constant(0.25, np.float32))
        return overflowing(g, g.add("Where", dark, g.constant(0.0, np.float32), sr))

    page = np.full((48, 64, 3), 110, np.uint8)
    page[8:18, 8:18] = 49
    with session_of(with_end("rgb8", poster_or_nan), "rgb8") as session:
        check = session.output_check
        for _ in range(40):
            session.submit({"rgb": page[None]})()
        assert check.suspected == 40
        assert 1 <= check.proofs <= 6
        page[10:40, 20:60] = 190
        with pytest.raises(OutputCheckError, match="frame 41 came out black"):
            session.submit({"rgb": page[None]})()


@pytest.mark.parametrize("sequence", [False, True])
def test_without_proof_there_is_a_note_and_no_refusal(
    sequence: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(_model: Model, _form: Form) -> Any:
        raise MissingPackageError("onnxruntime", "cpu", "the proof")

    monkeypatch.setattr(output_check, "open_exact", nothing)
    with session_of(with_end("rgb8", overflowing), "rgb8") as session:
        for _ in range(3):
            if sequence:
                session.submit({"rgb": spotted()[None]})()
            else:
                session.infer({"rgb": spotted()[None]})
        assert len(session.notes) == (1 if sequence else 3)
        start = "Frame 1" if sequence else "The picture"
        assert session.notes[0].startswith(f"{start} came out black")
        assert "look at the result" in session.notes[0]


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_the_proof_of_a_reduced_graph_is_near_its_float32(precision: Any) -> None:
    """A graph that exists in one precision only is computed in float32 with the same weights."""
    exact = find_model("fast" if precision != "int8" else "srresnet")
    reduced = Model.from_graph(exact.name, exact.graph("rgb8", precision))
    picture = {"rgb": spotted()[None]}
    with (
        OnnxRuntimeBackend(exact, form="rgb8", device="cpu", precision="fp32") as reference,
        open_exact(reduced, "rgb8") as proof,
        graph_backend("twin", exact.graph("rgb8", precision), "rgb8", precision) as typed,
    ):
        assert proof.precision == "fp32"
        wanted, found, rounded = (
            each.infer(picture)["rgb_x4"].astype(float) for each in (reference, proof, typed)
        )
    assert np.sqrt(np.mean((found - wanted) ** 2)) < 1.0
    assert not np.array_equal(found, rounded), "the proof rounds no results"


def test_the_proof_of_a_checkpoint_is_pytorch(tiny_checkpoint: Path) -> None:
    with open_exact(find_model(str(tiny_checkpoint)), "rgb8") as proof:
        assert (proof.name, proof.precision, proof.device) == ("torch", "fp32", "cpu")


def test_the_proof_of_a_twin_overflows_nowhere() -> None:
    graph = float32_twin(with_end("rgb8", overflowing))
    with open_exact(Model.from_graph("twin", graph), "rgb8") as proof:
        assert proof.infer({"rgb": spotted()[None]})["rgb_x4"][0, 104, 144].min() > 150


def rectangles() -> st.SearchStrategy[NDArray[np.uint8]]:
    """Pictures of 24x32 in which rectangles of black, white and extreme colours overlap."""
    levels = st.sampled_from([0, 1, 30, 60, 128, 200, 254, 255])
    colours = st.tuples(levels, levels, levels) | levels.map(lambda v: (v, v, v))
    boxes = st.tuples(
        st.integers(0, 23), st.integers(0, 31), st.integers(1, 24), st.integers(1, 32), colours
    )

    def draw(paper: tuple[int, int, int], drawn: list[Any]) -> NDArray[np.uint8]:
        picture = np.full((24, 32, 3), paper, np.uint8)
        for top, left, height, width, colour in drawn:
            picture[top : top + height, left : left + width] = colour
        return picture

    return st.builds(draw, colours, st.lists(boxes, max_size=12))


@pytest.fixture(scope="module")
def fast_sessions() -> Any:
    opened = {
        form: open_session(model="fast", form=form, backend="openvino") for form in FORM_NAMES
    }
    yield opened
    for each in opened.values():
        each.close()


@settings(max_examples=60, deadline=None)
@given(picture=rectangles())
def test_no_drawing_of_hard_edges_is_refused(
    picture: NDArray[np.uint8], fast_sessions: Any
) -> None:
    for form, session in fast_sessions.items():
        session.infer(form_inputs(picture, form))
        assert session.output_check.suspected == session.output_check.proofs == 0


@pytest.fixture(scope="module")
def overflowing_sessions() -> Any:
    opened = {form: session_of(with_end(form, overflowing), form) for form in FORM_NAMES}
    yield opened
    for each in opened.values():
        each.close()


@settings(max_examples=40, deadline=None)
@given(
    top=st.integers(0, 25), left=st.integers(0, 35), size=st.integers(6, 20), sequence=st.booleans()
)
def test_an_overflow_is_found_wherever_it_is(
    top: int, left: int, size: int, sequence: bool, overflowing_sessions: Any
) -> None:
    picture = DIM[:32, :42].copy()
    picture[top : top + size, left : left + size] = (190, 180, 200)
    for form, session in overflowing_sessions.items():
        inputs = form_inputs(picture, form)
        with pytest.raises(OutputCheckError, match="where fp32 computes a picture"):
            session.submit(inputs)() if sequence else session.infer(inputs)


@pytest.mark.parametrize("shape", [(2, 2), (2, 90), (90, 2), (35, 37), (70, 33)])
def test_odd_and_narrow_pictures_are_judged(shape: tuple[int, int]) -> None:
    """The proof computes whatever lies at an edge of the picture, too."""
    for value in (90, 190):
        picture = np.full((1, *shape, 3), value, np.uint8)
        with session_of(with_end("rgb8", overflowing), "rgb8") as session:
            if value == 90:
                session.infer({"rgb": picture})
                continue
            with pytest.raises(BackendError, match="black in 100 %"):
                session.infer({"rgb": picture})


def test_several_pictures_at_once() -> None:
    batch = np.stack([DIM, spotted(), DIM])
    with (
        session_of(with_end("rgb8", overflowing), "rgb8") as session,
        pytest.raises(OutputCheckError, match="picture 2 of 3 came out black"),
    ):
        session.infer({"rgb": batch})


def test_hard_pictures_are_what_they_are_called() -> None:
    for name, draw in PICTURES.items():
        picture = draw()
        assert picture.shape == (96, 128, 3), name
        assert picture.std() > 20, name
