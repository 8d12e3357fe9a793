from __future__ import annotations

from dataclasses import replace

import pytest
from click.testing import CliRunner, Result
from engine_support import GPU, RTX, Builder, accept, flip, refuse

from srtrt.errors import InputError
from srtrt.locks import locked
from srtrt.runtime.engines.cache import EngineCache
from srtrt.runtime.engines.command import engines
from srtrt.runtime.engines.identity import EngineKey
from srtrt.runtime.engines.key import EngineShape
from srtrt.runtime.engines.ladder import Ladder
from srtrt.runtime.engines.record import sidecar_path


def run(cache: EngineCache, *arguments: str) -> Result:
    return CliRunner().invoke(engines, [*arguments, "--folder", str(cache.folder)])


def test_list_and_explain(cache: EngineCache, key: EngineKey, build: Builder) -> None:
    assert "does not exist" in run(cache, "list").output
    cache.folder.mkdir()
    assert "no engines" in run(cache, "list").output
    good = cache.get_or_build(key, build, accept)
    old = cache.get_or_build(replace(key, flavour_version="1.2"), build)
    broken = cache.get_or_build(replace(key, shape=EngineShape.static(8, 8)), build)
    flip(broken.path)
    listed = {row.split()[0]: row for row in run(cache, "list").output.splitlines()[1:]}
    assert "71.5 dB, max 1" in listed[good.path.stem]
    assert listed[good.path.stem].rstrip().endswith("usable")
    version = f"the TensorRT version is {RTX.version()} and was 1.2"
    assert version in listed[old.path.stem]
    assert "not measured yet" in listed[old.path.stem]
    assert "is damaged" in listed[broken.path.stem]
    text = run(cache, "explain", good.path.name).output
    for expected in (
        "Usable on this machine.",
        "71.5 dB, max 1",
        f"  graph_sha256: {key.graph_sha256}",
        "  gpu: -",
        "Must match to be used:",
        "How it was built: asked for:\n  level: 3",
        "What the graph was made from:\n  model: tiny",
        "  convolutions: {'FLOAT': 9}",
        good.record.engine_sha256,
    ):
        assert expected in text
    assert f"Not usable here: {version}." in run(cache, "explain", old.path.stem).output
    ambiguous = run(cache, "explain", "tiny-")
    assert "fits 3 engines" in str(ambiguous.exception)
    assert "fits no engine" in str(run(cache, "explain", "nothing").exception)


def test_speed_and_attempts_are_shown_and_forgotten(
    cache: EngineCache, key: EngineKey, build: Builder
) -> None:
    here = replace(key, here=GPU)
    verdicts = iter([refuse, accept])
    rungs = (here.options, replace(here.options, fusion=False))
    plans = iter([replace(build(), plan=b"wrong"), build()])
    ladder = Ladder(rungs=rungs, measure=lambda _: 123.44)
    found = cache.get_or_build(
        here, lambda _: next(plans), lambda built: next(verdicts)(built), ladder=ladder
    )
    assert "123.4 frames/s" in run(cache, "list").output
    text = run(cache, "explain", found.path.name).output
    assert "Speed with the usual frames in flight: 123.4 frames/s." in text
    assert "  level 3 fails its gate: 12.0 dB\n" in text
    assert "  level 3 without fused additions passes: 71.5 dB, max 1, 123.4 frames/s\n" in text
    assert "  attempts:" not in text
    assert "it says what was tried" not in run(cache, "prune").output
    assert "it says what was tried" in run(cache, "prune", "--all", "--dry-run").output
    assert "it says what was tried" in run(cache, "prune", "--all").output
    assert list(cache.folder.iterdir()) == []


def test_prune_removes_what_cannot_be_used(
    cache: EngineCache, key: EngineKey, build: Builder
) -> None:
    good = cache.get_or_build(key, build)
    old = cache.get_or_build(replace(key, flavour_version="1.2"), build)
    broken = cache.get_or_build(replace(key, shape=EngineShape.static(8, 8)), build)
    flip(broken.path)
    (cache.folder / "dead.lock").touch()
    (cache.folder / ".dead.engine.123-0123456789abcdef.part").touch()
    before = sorted(cache.folder.iterdir())
    dry = run(cache, "prune", "--dry-run").output
    assert sorted(cache.folder.iterdir()) == before
    assert f"would remove {old.path.name}: the TensorRT version" in dry
    with locked(cache.folder / f"{broken.path.stem}.lock"):
        assert f"kept {broken.path.name}: it is in use" in run(cache, "prune").output
    assert f"removed {broken.path.name}" in run(cache, "prune").output
    assert sorted(p.name for p in cache.folder.iterdir()) == [
        good.path.name,
        sidecar_path(good.path).name,
        f"{good.path.stem}.lock",
    ]
    assert run(cache, "prune", "--older-than", "1").output.startswith("removed 0.0 MB")
    assert cache.find(key) is not None
    run(cache, "prune", "--all")
    assert list(cache.folder.iterdir()) == []


def test_a_folder_whose_name_is_too_long_is_a_sentence(
    cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.folder.mkdir(parents=True, exist_ok=True)
    name = cache.folder / ("n" * 300)
    monkeypatch.setenv("SRTRT_CACHE", str(name))
    for arguments in (["list"], ["explain", "x"], ["prune"]):
        done = CliRunner().invoke(engines, arguments)
        assert isinstance(done.exception, InputError)
        assert "cannot be read (File name too long)" in str(done.exception)
        assert CliRunner().invoke(engines, [*arguments, "--folder", str(name)]).exit_code == 2
