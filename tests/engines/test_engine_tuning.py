"""Which rings are compared, and what becomes of those that fail."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srtrt.errors import BackendError, DeviceMemoryError, ParityError
from srtrt.runtime.engines.tuning import SMALL_PIXELS, Measured, best_of, candidates
from srtrt.runtime.ring import RingOptions


def test_several_frames_at_once_are_offered_for_small_frames_alone() -> None:
    small = list(candidates(graphs=True, pixels=SMALL_PIXELS))
    large = list(candidates(graphs=True, pixels=SMALL_PIXELS + 1))
    assert {ring.batch for ring in small} == {1, 2, 4}
    assert {ring.batch for ring in large} == {1}
    assert [ring for ring in small if ring.batch == 1] == large
    assert not any(ring.graph for ring in candidates(graphs=False))


@given(
    room=st.integers(0, 14),
    wrong=st.sets(st.sampled_from([1, 2, 4])),
    speeds=st.lists(st.integers(1, 9), min_size=18, max_size=18),
)
def test_what_fails_spoils_nothing_else_and_is_not_tried_larger(
    room: int, wrong: set[int], speeds: list[int]
) -> None:
    rings = list(candidates(graphs=True))
    by_ring = dict(zip(rings, speeds, strict=True))
    told, tried = list[Measured](), list[RingOptions]()

    def measure(ring: RingOptions) -> float:
        tried.append(ring)
        if ring.streams * ring.batch > room:
            raise DeviceMemoryError("out of memory")
        if ring.batch in wrong:
            raise ParityError("12.0 dB")
        return float(by_ring[ring])

    good = [r for r in rings if r.streams * r.batch <= room and r.batch not in wrong]
    if not good:
        with pytest.raises(BackendError, match="no ring could be opened"):
            best_of(measure, rings, told.append)
        return
    best, measured = best_of(measure, rings, told.append)
    assert best in good
    assert by_ring[best] == max(by_ring[ring] for ring in good)
    assert [each.ring for each in measured] == rings
    assert measured == told
    for each in measured:
        assert (each.frames_per_second is not None) == (each.ring in good)
        assert (each.problem is None) == (each.ring in good)
    large = [ring for ring in tried if ring.streams * ring.batch > room]
    for place, ring in enumerate(large):  # none that takes as much as one that did not fit
        assert not any(
            before.streams <= ring.streams
            and before.batch <= ring.batch
            and before.graph <= ring.graph
            for before in large[:place]
        )
