"""Files that appear when complete, and locks: planted names, races, kills, odd names."""

from __future__ import annotations

import os
import random
import secrets
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from srtrt.errors import InputError, OutputError
from srtrt.files import PartFile, make_own_folder, replace_when_complete, stale_parts, write_text
from srtrt.locks import locked, output_claimed
from srtrt.reading import read_plain

JOB = """
import sys, time
from pathlib import Path
from srtrt.errors import SrtrtError
from srtrt.files import replace_when_complete
from srtrt.locks import output_claimed

path, mark, size, replace, claim = Path(sys.argv[1]), *sys.argv[2:6]

def write():
    with replace_when_complete(path, replace=replace == "replace") as part:
        with part.open("wb", buffering=0) as file:
            for _ in range(int(size)):
                file.write(mark.encode() * 1000)
                time.sleep(0.001)

print("ready", flush=True)
sys.stdin.readline()
try:
    if claim == "claim":
        with output_claimed(path):
            write()
    else:
        write()
except SrtrtError as error:
    sys.exit(str(error))
"""


class Job:
    """A process that writes ``size`` thousand times its mark into a file when told to go."""

    def __init__(
        self, path: Path, mark: str, size: int = 20, *, replace: bool = False, claim: bool = True
    ) -> None:
        words = [mark, str(size), "replace" if replace else "keep", "claim" if claim else "free"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", JOB, path, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self.process.stdout
        assert self.process.stdout.readline() == b"ready\n"

    def go(self) -> None:
        assert self.process.stdin
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def end(self) -> tuple[int, str]:
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors.decode(errors="replace")


def write(path: Path, work: Callable[[Path], object], *, replace: bool = True) -> None:
    with replace_when_complete(path, replace=replace) as part:
        work(part)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def content(path: Path) -> set[bytes]:
    data = path.read_bytes()
    return {data[i : i + 1000] for i in range(0, len(data), 1000)}


@pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
def test_what_is_planted_at_any_hidden_name_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    victim = tmp_path / "precious"
    victim.write_text("precious")
    guesses = ["0123456789abcdef", "fedcba9876543210"]
    hidden = [f".a.png.{os.getpid()}-{guess}.part" for guess in guesses]
    for name in (".a.png.part", *hidden):
        planted = folder / name
        if kind == "link":
            planted.symlink_to(victim)
        elif kind == "fifo":
            os.mkfifo(planted)
        else:
            planted.mkdir()
    drawn = iter([*guesses, "00112233445566ff"])
    monkeypatch.setattr(secrets, "token_hex", lambda _: next(drawn))
    with replace_when_complete(folder / "a.png") as part:
        part.write_text("picture")
    assert (folder / "a.png").read_text() == "picture"
    assert victim.read_text() == "precious"
    assert names(folder) == sorted([".a.png.part", *hidden, "a.png"])
    assert stale_parts(folder / "a.png", remove=True) == []
    assert victim.read_text() == "precious"


def test_a_file_exchanged_while_it_is_written_is_not_published(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("other")

    def exchange(part: Path) -> None:
        part.unlink()
        part.symlink_to(tmp_path / "other")

    with pytest.raises(OutputError, match="removed or exchanged the unfinished file"):
        write(tmp_path / "a", exchange)
    assert not (tmp_path / "a").exists()
    assert (tmp_path / "other").read_text() == "other"


def test_mode_is_the_usual_one_unless_private(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        for name, private in (("usual", False), ("private", True)):
            with replace_when_complete(tmp_path / name, private=private) as part:
                part.write_text(name)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "usual").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o600


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appeared_meanwhile_stays_and_the_result_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:

        def refused(*_: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(Path, "hardlink_to", refused)
    for number in (1, 2):

        def work(part: Path, number: int = number) -> None:
            part.write_text(f"work {number}")
            (tmp_path / "clip.mkv").write_text("of another")

        with pytest.raises(OutputError, match=rf"kept as .*/clip-{number}\.mkv"):
            write(tmp_path / "clip.mkv", work, replace=False)
    assert (tmp_path / "clip.mkv").read_text() == "of another"
    assert (tmp_path / "clip-1.mkv").read_text() == "work 1"
    assert (tmp_path / "clip-2.mkv").read_text() == "work 2"
    with replace_when_complete(tmp_path / "new.mkv", replace=False) as part:
        part.write_text("new")
    assert (tmp_path / "new.mkv").read_text() == "new"
    assert names(tmp_path) == ["clip-1.mkv", "clip-2.mkv", "clip.mkv", "new.mkv"]


def test_a_dangling_link_is_a_file_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "nowhere")
    with (
        pytest.raises(OutputError, match="kept as"),
        replace_when_complete(tmp_path / "a", replace=False) as part,
    ):
        part.write_text("a")
    assert not (tmp_path / "nowhere").exists()


def test_failing_work_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    for error in (ValueError("no"), KeyboardInterrupt()):

        def fail(part: Path, error: BaseException = error) -> None:
            part.write_text("half")
            raise error

        with pytest.raises(type(error)):
            write(tmp_path / "a", fail)
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "old"


@pytest.mark.parametrize("claim", [True, False])
def test_racing_runs_never_mix_nor_replace(tmp_path: Path, claim: bool) -> None:
    """Each round starts three writers of one file at once."""
    for index in range(7):
        path = tmp_path / f"{index}.bin"
        jobs = [Job(path, mark, 5, claim=claim) for mark in "abc"]
        for job in jobs:
            job.go()
        ends = [job.end() for job in jobs]
        done = [status == 0 for status, _ in ends]
        assert sum(done) == 1, ends
        mark = "abc"[done.index(True)].encode()
        assert path.read_bytes() == mark * 5000
        for status, message in ends:
            if status and "is writing" in message:
                others = [j.process.pid for j in jobs]
                assert any(f"(process {pid}, started" in message for pid in others), message
            elif status:
                kept = Path(message.strip().split("kept as ")[1].removesuffix("."))
                assert len(content(kept)) == 1
                assert kept.stat().st_size == 5000
        assert not [name for name in names(tmp_path) if name.startswith(".")]


def test_the_second_run_is_refused_with_the_first_one_named(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    first = Job(tmp_path / "real" / "a.mkv", "x", 300)
    first.go()
    while not list((tmp_path / "real").iterdir()):
        time.sleep(0.01)
    others = [
        tmp_path / "real" / "a.mkv",
        tmp_path / "link" / "a.mkv",
        Path(os.path.relpath(tmp_path / "link" / "a.mkv")),
    ]
    for path in others:
        with pytest.raises(OutputError) as caught, output_claimed(path):
            pass
        message = str(caught.value)
        assert message.startswith(f"Another srtrt (process {first.process.pid}, started ")
        assert f"is writing {path}. Wait until it is done" in message
        assert "a.mkv x 300" in message, "the command is named"
    with output_claimed(tmp_path / "real" / "b.mkv"), output_claimed(tmp_path / "a.mkv"):
        pass
    first.process.kill()
    first.end()
    with output_claimed(tmp_path / "link" / "a.mkv"):
        assert names(tmp_path / "real") == [], "what the killed run left is cleared"
    assert list((Path(os.environ["SRTRT_CACHE"]) / "locks").glob("*.lock")) == []


def test_a_holder_that_cannot_be_read_is_not_invented(tmp_path: Path) -> None:
    locks = Path(os.environ["SRTRT_CACHE"]) / "locks"
    for damage in (b"", b"[1]", b'{"process": "x", "started": 1, "command": ""}', b"\xff"):
        with output_claimed(tmp_path / "a"):
            (lock,) = locks.glob("*.lock")
            lock.write_bytes(damage)
            with (
                pytest.raises(OutputError, match=r"^Another srtrt is writing"),
                output_claimed(tmp_path / "a"),
            ):
                pass


def test_locks_without_a_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("SRTRT_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    with output_claimed(tmp_path / "a"):
        (folder,) = (tmp_path / "tmp").iterdir()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        with pytest.raises(OutputError, match="is writing"), output_claimed(tmp_path / "a"):
            pass
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with (
        pytest.raises(OutputError, match=r"no lock can be made .* Set SRTRT_CACHE"),
        output_claimed(tmp_path / "a"),
    ):
        pass


def test_a_lock_file_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "a.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(OutputError, match="cannot be written and locked"):
        locked(tmp_path / "a.lock").__enter__()
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_lock_file_that_is_a_link_makes_no_file(tmp_path: Path) -> None:
    (tmp_path / "a.lock").symlink_to(tmp_path / "new")
    with pytest.raises(OutputError, match="cannot be written and locked"):
        locked(tmp_path / "a.lock").__enter__()
    assert [path.name for path in tmp_path.iterdir()] == ["a.lock"]


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_a_folder_that_others_can_write_is_not_ours(tmp_path: Path, mode: int) -> None:
    folder = make_own_folder(tmp_path / "own" / "deep")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(mode)
    with pytest.raises(OutputError, match=f"not a folder that you alone can write .* {mode:o}"):
        make_own_folder(folder)
    (tmp_path / "link").symlink_to(tmp_path / "own")
    with pytest.raises(OutputError, match="not a folder that you alone can write"):
        make_own_folder(tmp_path / "link")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be made"):
        make_own_folder(tmp_path / "file")


def test_what_is_read_is_a_plain_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(bytes(11))
    for name, message in (
        ("pipe", "not a plain file; expected a thing"),
        ("", "this is a folder; expected a thing"),
        ("absent", "no such file; expected a thing"),
        ("large/x", r"cannot be opened \(Not a directory\); expected a thing"),
        ("n" * 300, r"cannot be opened \(File name too long\); expected a thing"),
        ("null\0", r"cannot be opened \(.*null.*\); expected a thing"),
        ("large", "has 11 bytes; expected a thing of at most 10 bytes"),
    ):
        with pytest.raises(InputError, match=message):
            read_plain(tmp_path / name, "a thing", most=10)
    assert read_plain(tmp_path / "large", "a thing", most=11) == bytes(11)


def kill_at_random_times(tmp_path: Path, rounds: int) -> None:
    """The old file or a complete new one is there after every kill, and no junk after the next."""
    draw = random.Random(rounds)
    path = tmp_path / "out.bin"
    path.write_bytes(b"-" * 1000)
    finished = 0
    for index in range(rounds):
        before = path.read_bytes()
        job = Job(path, chr(97 + index % 26), 10, replace=True)
        job.go()
        time.sleep(draw.uniform(0, 0.04))
        job.process.send_signal(draw.choice([signal.SIGKILL, signal.SIGTERM]))
        status, message = job.end()
        assert "Traceback" not in message
        data = path.read_bytes()
        complete = chr(97 + index % 26).encode() * 10_000
        assert data in (before, complete)
        assert status != 0 or data == complete
        finished += data == complete
        assert len(names(tmp_path)) <= 2
    with output_claimed(path):
        assert names(tmp_path) == ["out.bin"]
    assert finished < rounds, "some were cut"


def test_kills_leave_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    kill_at_random_times(tmp_path, 8)


@pytest.mark.slow
def test_many_kills(tmp_path: Path) -> None:
    kill_at_random_times(tmp_path, 300)


def test_only_parts_of_dead_writers_of_the_same_file_are_swept(tmp_path: Path) -> None:
    dead = [tmp_path / f".a.1-{'0' * 16}.part", tmp_path / f".a.99999-{'f' * 16}.part"]
    other = tmp_path / f".a.b.1-{'0' * 16}.part"
    unlike = [tmp_path / ".a.part", tmp_path / f".a.x-{'0' * 16}.part", tmp_path / "a.part"]
    for path in (*dead, other, *unlike):
        path.touch()
    live = PartFile(tmp_path / "a")
    assert stale_parts(tmp_path / "a") == dead
    assert stale_parts(tmp_path / "a", remove=True) == dead
    assert stale_parts(tmp_path) == [other]
    live.path.write_text("x")
    live.publish(replace=False)
    assert (tmp_path / "a").read_text() == "x"


ODD_NAMES = {
    "255 bytes": b"n" * 251 + b".png",
    "255 bytes of UTF-8": "é".encode() * 125 + b".png",
    "no UTF-8": b"caf\xe9 \xff.png",
    "pattern": b"[a]*?%05d.png",
    "line break": b"a\nb.png",
    "hidden": b".hidden",
}


@pytest.mark.parametrize("name", ODD_NAMES.values(), ids=ODD_NAMES.keys())
def test_odd_names(tmp_path: Path, name: bytes) -> None:
    path = tmp_path / os.fsdecode(name)
    killed = PartFile(path)
    os.close(killed._descriptor)  # as if its process were gone
    killed._descriptor = -1
    with output_claimed(path):
        assert names(tmp_path) == []
        with replace_when_complete(path, replace=False) as part:
            part.write_text("picture")
            assert len(os.fsencode(part.name)) <= 255
    assert names(tmp_path) == [os.fsdecode(name)]
    with (
        pytest.raises(OutputError, match="kept as"),
        replace_when_complete(path, replace=False) as part,
    ):
        part.write_text("again")
    assert len(names(tmp_path)) == 2
    assert path.read_text() == "picture"


def test_a_name_that_is_too_long_is_refused_at_the_start(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match="File name too long"),
        output_claimed(tmp_path / ("n" * 256)),
    ):
        pass


def test_pipes_devices_and_folders_are_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "device").symlink_to("/dev/null")
    (tmp_path / "folder").mkdir()
    for path in (pipe, tmp_path / "device", tmp_path / "folder"):
        with pytest.raises(OutputError, match="is not a plain file"):
            PartFile(path)
    write_text(tmp_path / "device", "into nothing")
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_text(pipe, "report")
    assert os.read(reader, 100) == b"report"
    os.close(reader)
    with pytest.raises(OutputError, match="is not a plain file"):
        write_text(tmp_path / "folder", "report")
    assert names(tmp_path) == ["device", "folder", "pipe"]


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB, where the test may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command: list[Any] = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_keeps_the_old_file(tiny_disk: Path) -> None:
    path = tiny_disk / "a"
    path.write_text("old")
    with pytest.raises(OutputError, match="No space left"), replace_when_complete(path) as part:
        part.write_bytes(bytes(100_000))
    assert path.read_text() == "old"
    assert names(tiny_disk) == ["a"]


def test_a_folder_that_cannot_be_written(tiny_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", tiny_disk], check=True)
    with (
        pytest.raises(OutputError, match=r"a: cannot be written \(Read-only file system\)"),
        replace_when_complete(tiny_disk / "a"),
    ):
        pytest.fail("the work must not start")
