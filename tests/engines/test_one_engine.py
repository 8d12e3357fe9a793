"""One engine for pictures of every size, and what comes after an engine that cannot be used."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from compare_video import compare
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tensorrt_standin import StandIn
from video_clips import make_clip

import srtrt
from srtrt.cli import main
from srtrt.errors import BackendError, ParityError, SrtrtError, UsageError
from srtrt.runtime.engines.cache import EngineCache
from srtrt.runtime.engines.execution import LoadedEngine
from srtrt.runtime.images import ImageWatcher, upscale_images
from srtrt.runtime.memory import MEMORY_VARIABLE
from srtrt.runtime.parity import compare_outputs, form_inputs, passes, read_pictures
from srtrt.runtime.session import Session, open_session
from srtrt.runtime.tensor_limit import tensor_limit

SIZES = [
    (1, 1), (1, 90), (90, 1), (3, 5), (31, 33), (64, 64),
    (65, 64), (64, 130), (70, 71), (150, 40), (40, 150), (131, 99),
]  # fmt: skip
"""Width and height; tiles of 64 are smaller than some, larger than some, and both."""


class Watcher(ImageWatcher):
    def __init__(self) -> None:
        self.said: list[str] = []
        self.order: list[str] = []
        self.session: Session | None = None

    def opened(self, session: Session) -> None:
        self.session = session

    def noted(self, note: str) -> None:
        self.said.append(note)

    def building(self, share: float, phase: str) -> None:
        self.order.append("build")

    def prepared(self, session: Session) -> None:
        self.order.append("picture")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = np.tile(read_pictures()[0], (2, 2, 1))
    made = tmp_path / "pictures"
    made.mkdir()
    for width, height in SIZES:
        Image.fromarray(source[:height, :width]).save(made / f"{width}x{height}.png")
    return made


def expected(graph: Path, picture: Path) -> Any:
    pixels = np.asarray(Image.open(picture))
    with open_session(
        model=str(graph), form="rgb8", backend="onnxruntime", device="cpu", tile="none"
    ) as session:
        return session.infer({"rgb": pixels[None]})["rgb_x4"][0]


def require_equal(graph: Path, folder: Path, output: Path) -> None:
    for picture in sorted(folder.iterdir()):
        found = np.asarray(Image.open(output / f"{picture.stem}_x4.png"))
        wanted = expected(graph, picture)
        assert found.shape == wanted.shape
        difference = np.abs(found.astype(int) - wanted)
        assert difference.max() <= 1
        assert np.count_nonzero(difference) <= difference.size / 10_000


def test_a_folder_of_all_sizes_takes_one_engine(
    standin: StandIn,
    user_cache: EngineCache,
    tiny_graphs: dict[str, Path],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loads: list[str] = []
    load = LoadedEngine.__init__

    def counted(engine: LoadedEngine, *arguments: Any, **named: Any) -> None:
        loads.append(str(named["size"]))
        load(engine, *arguments, **named)

    monkeypatch.setattr(LoadedEngine, "__init__", counted)
    graph, output = tiny_graphs["rgb8-fp32"], folder.parent / "out"
    watcher = Watcher()
    options = {"model": str(graph), "backend": "tensorrt", "precision": "fp32", "tile": 64}
    results = upscale_images([folder], f"{output}/", watcher=watcher, **options)
    assert [result.error for result in results] == [None] * len(SIZES)
    assert standin.builds == ["1x1:64x64:64x64"]
    assert watcher.said == ["One engine of 64x64 tiles serves pictures of every size."]
    assert watcher.order.index("picture") > watcher.order.index("build")
    assert "build" not in watcher.order[watcher.order.index("picture") :]
    require_equal(graph, folder, output)
    # It is judged at two sizes and measured, and then loaded once for all pictures.
    assert loads == ["62x46", "64x64", "64x64", "60x62"]
    again = Watcher()
    upscale_images([folder], f"{output}/", watcher=again, overwrite=True, **options)
    assert standin.builds == ["1x1:64x64:64x64"]
    assert again.said == []
    assert all(device.open_resources == 0 for device in standin.devices)


def test_pictures_in_memory_take_one_engine(
    standin: StandIn, user_cache: EngineCache, tiny_graphs: dict[str, Path]
) -> None:
    with srtrt.Upscaler(
        str(tiny_graphs["rgb8-fp32"]), backend="tensorrt", precision="fp32"
    ) as upscale:
        for width, height in SIZES:
            picture = np.ascontiguousarray(np.tile(read_pictures()[0], (2, 2, 1))[:height, :width])
            assert upscale(picture).shape == (4 * height, 4 * width, 3)
    assert standin.builds == ["1x1:512x512:512x512"]


def test_video_has_an_engine_of_its_size(
    standin: StandIn, user_cache: EngineCache, tiny_graphs: dict[str, Path]
) -> None:
    with open_session(
        model=str(tiny_graphs["rgb8-fp32"]), form="yuv420p8", backend="tensorrt", precision="fp32"
    ) as session:
        session.prepare(96, 80)
    assert standin.builds == ["96x80"]


def test_no_tiles_means_an_engine_of_each_size(
    standin: StandIn, user_cache: EngineCache, tiny_graphs: dict[str, Path]
) -> None:
    with open_session(
        model=str(tiny_graphs["rgb8-fp32"]),
        form="rgb8",
        backend="tensorrt",
        precision="fp32",
        tile="none",
        any_size=True,
    ) as session:
        session.prepare(40, 30)
        session.prepare(42, 30)
    assert standin.builds == ["40x30", "42x30"]


def test_short_memory_makes_the_tiles_smaller(
    standin: StandIn,
    user_cache: EngineCache,
    tiny_graphs: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(MEMORY_VARIABLE, "160")
    options: dict[str, Any] = {"model": str(tiny_graphs["rgb8-fp32"]), "form": "rgb8"}
    options |= {"backend": "tensorrt", "precision": "fp32", "any_size": True}
    with open_session(**options) as session:
        session.prepare(40, 30)
    (built,) = standin.builds
    side = int(built.rpartition("x")[2])
    assert side % 64 == 0
    assert 64 <= side < 512
    standin.memory_for = 100 * 100
    standin.builds.clear()
    monkeypatch.setenv(MEMORY_VARIABLE, "4000")
    with open_session(**options) as session:
        session.prepare(40, 30)
        notes = [note for note in session.notes if "Memory ran out" in note]
        sides = [note.rpartition(" pixels")[0].rpartition(" ")[2] for note in notes]
        assert sides == ["256x256", "128x128"]
        assert session.infer({"rgb": np.tile(read_pictures()[0], (2, 2, 1))[None]})


@pytest.mark.parametrize("form", ["rgb8", "yuv420p8"])
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_no_plan_exceeds_what_can_be_counted(
    form: Any,
    batch: int,
    standin: StandIn,
    user_cache: EngineCache,
    tiny_graphs: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However much memory there is."""
    monkeypatch.setenv(MEMORY_VARIABLE, str(1 << 24))
    with open_session(
        model=str(tiny_graphs["rgb8-fp32"]),
        form=form,
        backend="tensorrt",
        precision="fp32",
        backend_options={"batch": batch},
    ) as session:
        most = tensor_limit(onnx.load(tiny_graphs[f"{form}-fp32"]), 4).most_pixels

        @settings(max_examples=100, deadline=None, derandomize=True)
        @given(st.integers(1, 40_000), st.integers(1, 40_000))
        def check(width: int, height: int) -> None:
            plan = session._tiles.plan(1, 2 * height, 2 * width)
            rows, columns = plan.tile_size
            assert batch * rows * columns <= most
            assert (plan.count == 1) == (batch * 4 * width * height <= most)

        check()
    assert standin.builds == []


def test_a_picture_that_cannot_be_counted_is_refused_untiled(
    standin: StandIn, user_cache: EngineCache, tiny_graphs: dict[str, Path]
) -> None:
    for tile in ("none", 50_000):
        with (
            open_session(
                model=str(tiny_graphs["rgb8-fp32"]), form="rgb8", backend="tensorrt", tile=tile
            ) as session,
            pytest.raises(UsageError, match=r"2\^31 elements or more, .*Use --tile auto"),
        ):
            session.prepare(40_000, 30_000)
    assert standin.builds == []


Open = Callable[..., Session]


@pytest.fixture
def opened(user_cache: EngineCache, tiny_graphs: dict[str, Path]) -> Open:
    def open_graph(form: Any = "rgb8", **options: Any) -> Session:
        return open_session(model=str(tiny_graphs["rgb8-fp32"]), form=form, **options)

    return open_graph


def frame() -> dict[str, Any]:
    return dict(form_inputs(np.ascontiguousarray(read_pictures()[0][:24, :32]), "rgb8"))


@pytest.mark.parametrize("first", ["prepare", "infer", "submit"])
def test_after_a_wrong_engine_the_next_backend_computes(
    first: str, standin: StandIn, opened: Open
) -> None:
    standin.shift = 9
    with opened(device="cpu", backend="onnxruntime") as reference:
        wanted = reference.infer(frame())
    with opened() as session:
        assert "tensorrt-rtx" in session.reason
        if first == "prepare":
            session.prepare(32, 24)
            assert "tensorrt" not in session.description
        found = session.submit(frame())() if first == "submit" else session.infer(frame())
        assert "tensorrt" not in session.description
        assert "the next best here" in session.reason
        (note,) = [note for note in session.notes if "is not used" in note]
        assert note.startswith(
            f"{session._backend.description} computes instead of tensorrt-rtx fp16 (cuda:0), which "
            "is not used: "
        )
    assert passes(compare_outputs([(wanted, found)]), "bf16")
    assert all(device.open_resources == 0 for device in standin.devices)


def test_a_backend_that_was_asked_for_is_not_replaced(standin: StandIn, opened: Open) -> None:
    standin.shift = 9
    with opened(backend="tensorrt") as session, pytest.raises(ParityError, match="does not"):
        session.prepare(32, 24)


def test_a_precision_that_was_asked_for_is_not_replaced(standin: StandIn, opened: Open) -> None:
    """Nothing else here computes fp16, so the error is that of the engine."""
    standin.shift = 9
    with opened(precision="fp16") as session, pytest.raises(ParityError, match="does not"):
        session.prepare(32, 24)


def test_options_of_one_backend_are_not_left_out_for_another(
    standin: StandIn, opened: Open
) -> None:
    standin.shift = 9
    with opened(backend_options={"level": 2}) as session, pytest.raises(ParityError):
        session.prepare(32, 24)


def test_nothing_is_replaced_after_the_first_picture(standin: StandIn, opened: Open) -> None:
    with opened(tile="none") as session:
        session.infer(frame())
        standin.failure = "Error Code 1: Cuda Runtime (misaligned address)"
        with pytest.raises(BackendError, match="misaligned"):
            session.infer(frame())
        with pytest.raises(SrtrtError):
            session.prepare(40, 24)
        assert "tensorrt-rtx" in session.description


def test_a_folder_goes_on_with_the_next_backend(
    standin: StandIn, user_cache: EngineCache, tiny_graphs: dict[str, Path], folder: Path
) -> None:
    standin.shift = 9
    graph, watcher = tiny_graphs["rgb8-fp32"], Watcher()
    results = upscale_images([folder], f"{folder.parent}/out/", model=str(graph), watcher=watcher)
    assert [result.error for result in results] == [None] * len(SIZES)
    assert watcher.session is not None
    assert sum("is not used" in note for note in watcher.session.notes) == 1


def test_a_video_goes_on_with_the_next_backend_and_says_so(
    standin: StandIn, user_cache: EngineCache, tiny_graphs: dict[str, Path], tmp_path: Path
) -> None:
    standin.shift = 9
    clip, report = make_clip(tmp_path / "in.mp4"), tmp_path / "report.json"
    graph = tiny_graphs["rgb8-fp32"]
    arguments = ["upscale-video", clip, "--model", graph, "--preset", "ultrafast", "--json", report]
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    assert done.stderr.count("computes instead of tensorrt-rtx fp16 (cuda:0)") == 1
    written = json.loads(report.read_text())
    assert "tensorrt" not in written["network"] + written["engine_reason"]
    failed = [each for each in compare(clip, tmp_path / "in_x4.mp4") if not each.ok]
    assert not failed, failed


def test_an_engine_that_cannot_be_counted_is_refused_before_it_is_built(
    standin: StandIn, user_cache: EngineCache, tiny_checkpoint: Path
) -> None:
    arguments = ["export", tiny_checkpoint, "--format", "tensorrt-rtx", "--io", "rgb8"]
    arguments += ["--precision", "fp32", "--shape", "64x64:64x64:9000x9000"]
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exit_code == 2, done.output
    assert "2^31 elements or more, which TensorRT-RTX does not compute" in done.output
    assert standin.builds == []


def test_tuning_leaves_out_batches_that_cannot_be_counted(
    standin: StandIn,
    user_cache: EngineCache,
    tiny_graphs: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph = onnx.load(tiny_graphs["rgb8-fp32"])
    monkeypatch.setattr(
        "srtrt.runtime.tensor_limit.MOST_ELEMENTS",
        int(tensor_limit(graph, 4).per_pixel * 32 * 24 * 3),
    )
    arguments = ["tune", str(tiny_graphs["rgb8-fp32"]), "--shape", "32x24", "--seconds", "0"]
    done = CliRunner().invoke(main, [*arguments, "--io", "rgb8", "--precision", "fp32"])
    assert done.exit_code == 0, done.output
    assert "batch 2" in done.stdout
    assert "batch 4" not in done.stdout
    assert sorted(set(standin.builds)) == ["2x32x24", "32x24"]
