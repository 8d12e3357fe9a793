"""Display matrices of the source: rotation, flips and translation."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from click.testing import CliRunner
from compare_video import read_facts
from video_clips import NearestSession, make_clip

import srtrt.runtime.session
from srtrt.cli import main


@pytest.mark.parametrize(
    ("move", "expected"),
    [
        ((3 << 16, -(5 << 16)), (12 << 16, -(20 << 16))),
        ((2**31 - 1, 0), (0, 0)),
        ((0, -(2**31)), (0, 0)),
        ((2**29, 2**16), (0, 0)),
    ],
)
def test_a_translation_that_cannot_be_enlarged_is_left_out(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    move: tuple[int, int],
    expected: tuple[int, int],
) -> None:
    monkeypatch.setattr(srtrt.runtime.session, "open_session", NearestSession)
    clip = make_clip(tmp_path / "in.mp4", rotation=90)
    data = bytearray(clip.read_bytes())
    # ISO 14496-12, 8.3.2: the matrix is 40 bytes into a track header of version 0.
    struct.pack_into(">2i", data, data.index(b"tkhd") + 4 + 40 + 24, *move)
    clip.write_bytes(data)
    before = read_facts(clip).matrix
    assert before is not None
    assert before[6:8] == move
    done = CliRunner().invoke(main, ["upscale-video", str(clip)])
    assert done.exit_code == 0, done.output
    assert ("moves the picture" in done.stderr) == (expected == (0, 0))
    after = read_facts(tmp_path / "in_x4.mp4").matrix
    assert after == (*before[:6], *expected, before[8])
