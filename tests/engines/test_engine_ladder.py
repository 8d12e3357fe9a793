"""Where an engine is wrong or slow, others are tried: the cache with a builder of known faults."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache as once
from pathlib import Path
from typing import Any

import pytest
from engine_support import GPU, small_key
from hypothesis import given, settings
from hypothesis import strategies as st

from srtrt.errors import BackendError, DeviceMemoryError, ParityError
from srtrt.runtime.engines.cache import EngineCache
from srtrt.runtime.engines.flavour import FLAVOURS
from srtrt.runtime.engines.folder import OWN_TIMING_SUFFIX, TRIED_SUFFIX
from srtrt.runtime.engines.identity import EngineKey
from srtrt.runtime.engines.key import EngineOptions
from srtrt.runtime.engines.ladder import MOST_BUILDS_FOR_SPEED, SLOWER, Ladder, ladder_for
from srtrt.runtime.engines.record import BuiltEngine, CachedEngine, sidecar_path
from srtrt.runtime.engines.stored import read_record, write_record
from srtrt.runtime.engines.tried import Attempt, way

TENSORRT = FLAVOURS["tensorrt"]
NAMES = (
    "level 3",
    "level 5",
    "level 2",
    "level 3 without generated kernels",
    "level 3 without fused additions",
    "level 0 without generated kernels and fused additions",
)
"""The ways of building, in the order in which they are tried."""


def name_of(options: EngineOptions) -> str:
    return Attempt(**way(options), outcome="passes").how


@dataclass
class Works:
    """A builder, a judge and a clock with known faults, as one process after the other has them."""

    faults: dict[str, str] = field(default_factory=dict)
    """``fails``, ``breaks``, ``not built`` or ``no memory``, by way of building."""
    speeds: dict[str, float] = field(default_factory=dict)
    """Frames per second, by way of building; 100 unless told."""
    built: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def build(self, options: EngineOptions) -> BuiltEngine:
        name = name_of(options)
        self.built.append(name)
        if self.faults.get(name) == "not built":
            raise BackendError("TensorRT cannot build tiny: internal error.")
        if self.faults.get(name) == "no memory":
            raise DeviceMemoryError("TensorRT cannot build tiny: out of memory.")
        facts = {"shape": "32x24", "level": way(options)["level"]}
        spec = tiny_key().spec
        return BuiltEngine(plan=name.encode() * 99, spec=spec, facts=facts)

    def verify(self, built: BuiltEngine) -> dict[str, Any]:
        fault = self.faults.get(self._name(built))
        if fault == "fails":
            raise ParityError("the engine of tiny is wrong: 12.0 dB. It was not written.")
        if fault == "breaks":
            raise BackendError("TensorRT cannot compute: an illegal memory access.")
        return {"psnr_db": 71.5, "max_abs": 1}

    def measure(self, built: BuiltEngine) -> float:
        return self.speeds.get(self._name(built), 100.0)

    def _name(self, built: BuiltEngine) -> str:
        return built.plan[: len(built.plan) // 99].decode()

    def run(
        self,
        cache: EngineCache,
        key: EngineKey | None = None,
        ladder: Ladder | None = None,
        **more: Any,
    ) -> CachedEngine:
        """What one process does that needs the engine."""
        key = key or tiny_key()
        self.built.clear()
        self.said.clear()
        usual = ladder_for(key.options, TENSORRT, key.flavour_version, self.measure)
        return cache.get_or_build(
            key, self.build, self.verify, ladder=ladder or usual, on_note=self.said.append, **more
        )


GRAPHS: list[Path] = []


@pytest.fixture(autouse=True)
def graphs(graph: Path) -> None:
    GRAPHS[:] = [graph]


@once
def tiny_key() -> EngineKey:
    """Of an engine of TensorRT 11 on the GPU of the tests."""
    return replace(
        small_key(GRAPHS[0]), flavour="tensorrt", flavour_version="11.2.1", gpu=GPU, here=GPU
    )


@contextmanager
def new_cache() -> Iterator[EngineCache]:
    with tempfile.TemporaryDirectory() as folder:
        yield EngineCache(Path(folder))


def lose(found: CachedEngine) -> None:
    """Removes the engine and nothing else."""
    found.path.unlink()


def taken(found: CachedEngine) -> str:
    key = found.record.key
    options = EngineOptions(**{name: key[name] for name in ("level", "tactics", "fusion")})  # type: ignore[arg-type]
    return name_of(options)


FAULTS = st.lists(
    st.sampled_from(["", "", "fails", "fails", "not built", "no memory"]), min_size=6, max_size=6
)
SPEEDS = st.lists(st.sampled_from([50.0, 80.0, 89.9, 90.0, 100.0, 120.0]), min_size=6, max_size=6)


@settings(max_examples=400, deadline=None)
@given(faults=FAULTS)
def test_the_first_way_that_passes_is_taken_and_kept(faults: list[str]) -> None:
    works = Works(faults=dict(zip(NAMES, faults, strict=True)))
    with new_cache() as cache:
        if faults[0] == "no memory":  # less may be asked for
            with pytest.raises(DeviceMemoryError):
                works.run(cache)
            assert works.built == ["level 3"]
            return
        if "" not in faults:
            with pytest.raises((ParityError, BackendError)) as caught:
                works.run(cache)
            assert works.built == list(NAMES)
            assert isinstance(caught.value, DeviceMemoryError) == ("no memory" in faults)
            assert cache.entries() == []
            return
        found = works.run(cache)
        first = faults.index("")
        assert taken(found) == NAMES[first]
        assert works.built == list(NAMES[: first + 1])
        assert [each.how for each in found.record.attempts] == works.built
        assert found.record.attempts[-1].outcome == "passes"
        assert found.record.frames_per_second == 100.0
        assert len(cache.entries()) == 1
        told = "\n".join(works.said)
        for name in works.built[1:]:
            assert f"Trying another way: {name}." in told
        for name, fault in list(zip(NAMES, faults, strict=True))[:first]:
            expected = "fails its gate" if fault == "fails" else "cannot be built"
            assert f"Tried: {name} {expected}" in told
        again = works.run(cache)
        assert works.built == []
        assert again.plan == found.plan
        lose(found)
        anew = works.run(cache)
        assert works.built == [NAMES[first]]
        assert anew.plan == found.plan
        assert works.run(cache, because="it was asked for").plan == found.plan
        assert works.built == [NAMES[first]]


@settings(max_examples=400, deadline=None)
@given(faults=FAULTS, speeds=SPEEDS, older=st.sampled_from([None, 60.0, 100.0, 140.0]))
def test_an_engine_slower_than_the_last_is_not_the_end(
    faults: list[str], speeds: list[float], older: float | None
) -> None:
    faults = ["" if fault == "no memory" else fault for fault in faults]
    works = Works()
    with new_cache() as cache:
        if older is not None:
            works.speeds = dict.fromkeys(NAMES, older)
            works.run(cache, replace(tiny_key(), flavour_version="10.13.3"))
        works.faults = dict(zip(NAMES, faults, strict=True))
        works.speeds = dict(zip(NAMES, speeds, strict=True))
        passing = [name for name in NAMES if not works.faults[name]]
        if not passing:
            return
        found = works.run(cache)
        assert not works.faults[taken(found)]
        speed = works.speeds[taken(found)]
        assert found.record.frames_per_second == speed
        good = [name for name in works.built if not works.faults[name]]
        wanted = 0.0 if older is None else SLOWER * older
        assert good[0] == passing[0]
        assert all(works.speeds[name] < wanted for name in good[:-1])
        if speed < wanted:  # the fastest of those tried, which are bounded
            assert speed == max(works.speeds[name] for name in good)
            further = [n for n in NAMES[NAMES.index(good[0]) + 1 :] if "fused" not in n]
            allowed = max(0, MOST_BUILDS_FOR_SPEED - len(works.built) + len(further))
            assert set(further[: min(len(further), allowed)]) >= set(works.built[1:]) - set(
                NAMES[: NAMES.index(good[0]) + 1]
            )
            assert works.built == list(NAMES[: NAMES.index(good[0]) + 1]) + [
                n for n in further if n in works.built
            ]
        assert len(works.built) <= max(MOST_BUILDS_FOR_SPEED, NAMES.index(good[0]) + 1)
        if older is not None and works.speeds[good[0]] < wanted:
            told = "\n".join(works.said)
            assert f"{works.speeds[good[0]]:.1f} frames/s" in told
            assert f"tensorrt 10.13.3, driver {GPU.driver}) {older:.1f}" in told or len(good) == 1
            assert f"Took {taken(found)} with {speed:.1f} frames/s" in told
        works.run(cache)
        assert works.built == []
        lose(found)
        anew = works.run(cache)
        assert works.built == [taken(found)]
        assert anew.plan == found.plan


@settings(max_examples=100, deadline=None)
@given(faults=st.lists(st.sampled_from(["fails", "breaks", ""]), min_size=6, max_size=6))
def test_an_engine_that_breaks_ends_the_process_and_twice_is_enough(faults: list[str]) -> None:
    """After a broken computation the GPU may be unusable, so the next process goes on."""
    works = Works(faults=dict(zip(NAMES, faults, strict=True)))
    found, builds, processes, said, broke = None, 0, 0, list[str](), list[str]()
    with new_cache() as cache:
        while found is None and processes < 20:
            processes += 1
            try:
                found = works.run(cache)
            except BackendError as error:
                said.append(str(error))
                broke.append(works.built[-1])
            except ParityError:
                break
            finally:
                builds += len(works.built)
        assert all("Run it again" in text for text in said)
        assert all(works.faults[name] == "breaks" for name in broke)
        before = faults.index("") if "" in faults else 6
        assert (taken(found) if found else None) == (NAMES[before] if before < 6 else None)
        broken = faults[:before].count("breaks")
        assert processes == 2 * broken + 1
        assert builds == before + broken + (before < 6)


def test_all_that_fails_is_listed_and_not_built_again(tmp_path: Path) -> None:
    works = Works(faults=dict.fromkeys(NAMES, "fails"))
    cache = EngineCache(tmp_path)
    with pytest.raises(ParityError) as caught:
        works.run(cache)
    for name in NAMES:
        assert f"{name} fails its gate: the engine of tiny is wrong: 12.0 dB" in str(caught.value)
    assert "6 ways of building it were tried" in str(caught.value)
    assert "pip install 'tensorrt>=10.13,<10.14'" in str(caught.value)
    with pytest.raises(ParityError) as again:
        works.run(cache)
    assert works.built == []
    assert "12.0 dB" in str(again.value)
    # Another driver may compute otherwise, and so may another version.
    other = replace(GPU, driver="580.65")
    works.faults = {}
    assert taken(works.run(cache, replace(tiny_key(), gpu=other, here=other))) == "level 3"
    works.faults = dict.fromkeys(NAMES, "fails")
    with pytest.raises(ParityError):
        works.run(cache, replace(tiny_key(), flavour_version="11.3"))
    assert works.built == list(NAMES)
    assert len(cache.forget()) == 2
    cache.forget(remove=True)
    assert cache.forget() == []
    assert not list(tmp_path.glob(f"*{TRIED_SUFFIX}"))


@pytest.mark.parametrize(
    ("asked", "left_out"),
    [
        ({"level": 3}, "leave out level=3."),
        ({"tactics": "plain"}, "leave out tactics=plain."),
        ({"level": 2, "fusion": False}, "leave out level=2 and fusion=false."),
    ],
)
def test_what_was_asked_for_is_tried_alone(
    asked: dict[str, Any], left_out: str, tmp_path: Path
) -> None:
    key = replace(tiny_key(), options=EngineOptions(**asked))
    works = Works(faults=dict.fromkeys(NAMES, "fails") | {name_of(key.options): "fails"})
    for builds in (1, 0):
        with pytest.raises(ParityError) as caught:
            works.run(EngineCache(tmp_path), key)
        assert left_out in str(caught.value)
        assert len(works.built) == builds


def test_the_same_engine_is_not_judged_twice(tmp_path: Path) -> None:
    works, judged = Works(faults={"level 3": "fails"}), list[str]()
    build, verify = works.build, works.verify

    def same(options: EngineOptions) -> BuiltEngine:
        return replace(build(options), plan=b"level 3" * 99)

    def counted(built: BuiltEngine) -> dict[str, Any]:
        judged.append("once")
        return verify(built)

    works.build, works.verify = same, counted  # type: ignore[method-assign]
    with pytest.raises(ParityError, match="the same engine as with level 3"):
        works.run(EngineCache(tmp_path))
    assert judged == ["once"]


def test_an_engine_that_failed_elsewhere_gives_way_to_another(tmp_path: Path) -> None:
    """One that was made where it could not run, and one that passed with another driver."""
    cache, works = EngineCache(tmp_path), Works()
    key = tiny_key()
    ladder = ladder_for(key.options, TENSORRT, key.flavour_version)
    cache.get_or_build(key, works.build, None, ladder=ladder)
    works.faults = {"level 3": "fails"}
    assert taken(works.run(cache)) == "level 5"
    assert works.built == ["level 5"]
    other = replace(GPU, driver="580.65")
    works.faults = {"level 5": "fails", "level 3": "fails", "level 2": "fails"}
    found = works.run(cache, replace(key, here=other))
    assert works.built == ["level 3", "level 2", "level 3 without generated kernels"]
    assert taken(found) == works.built[-1]
    assert len(cache.entries()) == 1


def test_what_passed_elsewhere_is_built_again_when_nothing_else_is_left(tmp_path: Path) -> None:
    cache, works = EngineCache(tmp_path), Works()
    works.run(cache)
    other, verify, seen = replace(GPU, driver="580.65"), works.verify, list[str]()

    def first_fails(built: BuiltEngine) -> dict[str, Any]:
        seen.append("judged")
        if len(seen) == 1:
            raise ParityError("12.0 dB")
        return verify(built)

    works.verify = first_fails  # type: ignore[method-assign]
    works.faults = dict.fromkeys(NAMES[1:], "fails")
    assert taken(works.run(cache, replace(tiny_key(), here=other))) == "level 3"
    assert works.built == [*NAMES[1:], "level 3"]


def test_a_driver_that_makes_an_engine_slower_has_others_tried(tmp_path: Path) -> None:
    cache, works = EngineCache(tmp_path), Works(speeds={"level 3": 100.0})
    works.run(cache)
    here = replace(tiny_key(), here=replace(GPU, driver="580.65"))
    works.speeds = {"level 3": 60.0, "level 5": 70.0, "level 2": 95.0}
    found = works.run(cache, here)
    assert taken(found) == "level 2"
    assert works.built == ["level 5", "level 2"]
    assert any("computes 60.0 frames/s and the last one" in text for text in works.said)
    works.run(cache, here)
    assert works.built == []
    # One that stays the fastest is kept, with its new figures.
    slow = replace(tiny_key(), here=replace(GPU, driver="590.1"))
    works.speeds = dict.fromkeys(NAMES, 50.0)
    kept = works.run(cache, slow)
    assert kept.plan == found.plan
    assert kept.record.frames_per_second == 50.0
    assert works.said[-2].startswith("Took level 2 with 50.0 frames/s; the last one")
    assert works.run(cache, slow).plan == found.plan
    assert works.built == []


def test_time_bounds_the_search_for_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, works, now = EngineCache(tmp_path), Works(), [0.0]
    works.run(cache, replace(tiny_key(), flavour_version="10.13.3"))
    build = works.build

    def slowly(options: EngineOptions) -> BuiltEngine:
        now[0] += 1000.0
        return build(options)

    works.build = slowly  # type: ignore[method-assign]
    works.speeds = dict.fromkeys(NAMES, 10.0)
    monkeypatch.setattr("srtrt.runtime.engines.ladder.time.monotonic", lambda: now[0])
    works.run(cache)
    assert works.built == ["level 3", "level 5"]


def test_timings_are_kept_with_the_winner_alone(tmp_path: Path) -> None:
    cache, works = EngineCache(tmp_path), Works(faults={"level 3": "fails"})
    build = works.build

    def timed(options: EngineOptions) -> BuiltEngine:
        path = cache.own_timings_path(replace(tiny_key(), options=options))
        path.write_bytes(b"timings")
        return build(options)

    works.build = timed  # type: ignore[method-assign]
    found = works.run(cache)
    own = found.path.with_suffix(OWN_TIMING_SUFFIX)
    assert list(tmp_path.glob(f"*{OWN_TIMING_SUFFIX}")) == [own]
    assert cache.forget() != []
    assert cache.remove(found.path)
    assert not own.exists()


DAMAGE: list[Callable[[dict[str, Any]], object]] = [
    lambda values: values["attempts"][0].update(outcome="maybe"),
    lambda values: values["attempts"][0].update(level=True),
    lambda values: values["attempts"][0].pop("fusion"),
    lambda values: values["attempts"][0].update(frames_per_second=-1.0),
    lambda values: values["attempts"][0].update(on="here"),
    lambda values: values["attempts"][0].pop("on"),
    lambda values: values.update(attempts={"a": 1}),
    lambda values: values.update(attempts=[7]),
    lambda values: values.update(key_sha256="0"),
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_memory_is_forgotten_and_said(
    damage: Callable[[dict[str, Any]], object], tmp_path: Path
) -> None:
    cache, works = EngineCache(tmp_path), Works(faults={"level 3": "fails"})
    lose(works.run(cache))
    (path,) = tmp_path.glob(f"*{TRIED_SUFFIX}")
    values = read_record(path)
    damage(values)
    write_record(path, values)
    assert taken(works.run(cache)) == "level 5"
    assert works.built == ["level 3", "level 5"]
    assert any("What was tried before is forgotten" in text for text in works.said)


@pytest.mark.parametrize(
    "wrong",
    [7, [7], [{"level": 3}], [{"level": 3, "tactics": "all", "fusion": 1, "outcome": "passes"}]],
)
def test_a_sidecar_with_impossible_attempts_is_damaged(wrong: object, tmp_path: Path) -> None:
    cache, works = EngineCache(tmp_path), Works()
    found = works.run(cache)
    values = read_record(sidecar_path(found.path))
    values["built"]["attempts"] = wrong
    write_record(sidecar_path(found.path), values)
    (entry,) = cache.entries()
    assert "is damaged" in str(entry.problem)
