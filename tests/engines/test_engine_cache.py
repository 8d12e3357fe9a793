"""The engine cache with real engines: keys, sidecars, damage, trust, gate, locks, kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from engine_support import (
    FIGURES,
    GPU,
    RTX,
    Builder,
    accept,
    flip,
    never,
    refuse,
)

from srtrt.errors import BackendError, OutputError, ParityError
from srtrt.files import cache_folder
from srtrt.locks import locked
from srtrt.runtime.engines.cache import EngineCache
from srtrt.runtime.engines.flavour import load_runtime_cache, save_runtime_cache
from srtrt.runtime.engines.identity import EngineKey
from srtrt.runtime.engines.record import BuiltEngine, read_engine, sidecar_path
from srtrt.runtime.engines.stored import read_record, write_record
from srtrt.runtime.engines.tuning import read_choice, write_choice
from srtrt.runtime.ring import RingOptions

WORKER = """
import sys
from pathlib import Path
from srtrt.runtime.engines.build import build_engine
from srtrt.graph import load_graph
from srtrt.runtime.engines.cache import EngineCache
from srtrt.runtime.engines.flavour import FLAVOURS
from srtrt.runtime.engines.identity import engine_key
from srtrt.runtime.engines.key import EngineOptions, EngineShape

graph, folder, log, stop = sys.argv[1:]
rtx, shape, options = FLAVOURS["tensorrt-rtx"], EngineShape.static(32, 24), EngineOptions()
data, model = Path(graph).read_bytes(), load_graph(Path(graph))[0]
key = engine_key(model, shape, options, flavour=rtx, gpu=None)

def progress(share, phase):
    if stop and share > 0.5:
        print("half", flush=True)
        sys.stdin.readline()

def build(_options):
    with open(log, "a") as file:
        file.write("build\\n")
    return build_engine(data, shape, options, flavour=rtx, on_progress=progress)

print("ready", flush=True)
sys.stdin.readline()
engine = EngineCache(Path(folder)).get_or_build(key, build, on_note=lambda t: print(t, flush=True))
print(engine.record.engine_sha256)
"""


def test_an_engine_is_built_once_and_says_what_it_is(
    cache: EngineCache, key: EngineKey, build: Builder
) -> None:
    notes: list[str] = []
    made = cache.get_or_build(key, build, accept, on_note=notes.append)
    again = cache.get_or_build(key, build, never, on_note=notes.append)
    assert build.count == 1
    assert notes == [made.note] == [f"Building {made.path.name}: there is none yet."]
    assert again.note is None
    assert again.plan == made.plan == build.engine.plan == made.path.read_bytes()
    assert made.path.name.startswith("tiny-rgb8-fp32-32x24-tensorrt-rtx-")
    text = json.loads((made.path.parent / f"{made.path.name}.json").read_text())
    assert text["key"] == key.parts()
    assert text["parity"] == FIGURES
    assert text["spec"]["name"] == "tiny"
    assert text["built"]["convolutions"] == {"FLOAT": 9}
    assert text["engine_bytes"] == len(made.plan)
    for path in (made.path, sidecar_path(made.path)):
        assert path.stat().st_mode & 0o777 == 0o600
    assert cache.folder.stat().st_mode & 0o777 == 0o700
    assert cache.find(key) == again
    assert sorted(p.suffix for p in cache.folder.iterdir()) == [".engine", ".json", ".lock"]


def test_the_default_folder_is_in_the_users_cache() -> None:
    assert EngineCache().folder == cache_folder("engines")


def edit(path: Path) -> None:
    """Claims another driver in the key, without its checksum."""
    values = json.loads(sidecar_path(path).read_text())
    values["key"]["driver"] = "mine"
    sidecar_path(path).write_text(json.dumps(values))


def to_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped bit": (flip, "{0} is damaged: its "),
    "a short file": (lambda p: p.write_bytes(p.read_bytes()[:1000]), "{0} is damaged: its 1000 "),
    "an empty file": (lambda p: p.write_bytes(b""), "{0} is damaged: its 0 bytes"),
    "no sidecar": (lambda p: sidecar_path(p).unlink(), "{0}.json is missing"),
    "a broken sidecar": (lambda p: sidecar_path(p).write_text("{"), "{0}.json is damaged"),
    "an edited sidecar": (edit, "{0}.json is damaged"),
    "a list as sidecar": (lambda p: sidecar_path(p).write_text("[1]"), "{0}.json is damaged"),
    "an open engine": (lambda p: p.chmod(0o666), "{0} can be written by others (mode 666)"),
    "a group's engine": (lambda p: p.chmod(0o620), "{0} can be written by others (mode 620)"),
    "an open sidecar": (lambda p: sidecar_path(p).chmod(0o602), "{0}.json can be written by"),
    "a pipe": (to_pipe, "{0} is not a plain file"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_damaged_or_foreign_is_rebuilt_with_the_reason(
    damage: str, cache: EngineCache, key: EngineKey, build: Builder
) -> None:
    made = cache.get_or_build(key, build, accept)
    act, reason = DAMAGE[damage]
    act(made.path)
    assert cache.find(key) is None
    with pytest.raises(BackendError, match="cannot be used"):
        read_engine(made.path)
    again = cache.get_or_build(key, build, accept)
    assert again.note is not None
    assert again.note.startswith(f"Rebuilding {made.path.name}: {reason.format(made.path.name)}")
    assert again.note.endswith(".")
    assert build.count == 2
    assert cache.get_or_build(key, build, never).note is None
    assert read_engine(made.path).plan == build.engine.plan


def test_another_users_engine_is_used_only_when_trusted(
    cache: EngineCache, key: EngineKey, build: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = cache.get_or_build(key, build, accept)
    owner = made.path.stat().st_uid
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: owner + 1)
        with pytest.raises(BackendError, match=rf"belongs to user {owner}, .*trust_engine"):
            read_engine(made.path)
        assert cache.find(key) is None
        assert read_engine(made.path, trust_engine=True).plan == made.plan
        assert cache.get_or_build(key, build, never, trust_engine=True).note is None
    flip(made.path)
    with pytest.raises(BackendError, match="damaged"):
        read_engine(made.path, trust_engine=True)


def test_an_engine_moved_to_another_key_is_not_taken_for_it(
    cache: EngineCache, key: EngineKey, build: Builder
) -> None:
    made, other = cache.get_or_build(key, build), replace(key, gpu=GPU)
    path = cache.path(other)
    made.path.rename(path)
    sidecar_path(made.path).rename(sidecar_path(path))
    note = cache.get_or_build(other, build).note
    assert note is not None
    assert note.startswith(f"Rebuilding {path.name}: the GPU is NVIDIA Test and was not set")


def test_an_engine_under_its_gate_is_not_kept(
    cache: EngineCache, key: EngineKey, build: Builder
) -> None:
    with pytest.raises(ParityError):
        cache.get_or_build(key, build, refuse)
    assert cache.find(key) is None
    assert [path.suffix for path in cache.folder.iterdir()] == [".lock"]


def test_a_failed_rebuild_keeps_what_was_there(
    cache: EngineCache, key: EngineKey, build: Builder
) -> None:
    made = cache.get_or_build(key, build, accept)
    with pytest.raises(ParityError):
        cache.get_or_build(key, build, refuse, because="TensorRT refuses it")
    assert cache.find(key) == replace(made, note=None)
    again = cache.get_or_build(key, build, accept, because="TensorRT refuses it")
    assert again.note == f"Rebuilding {made.path.name}: TensorRT refuses it."


def test_an_engine_that_could_not_run_is_judged_when_it_can(
    cache: EngineCache, key: EngineKey, build: Builder
) -> None:
    made = cache.get_or_build(key, build)
    assert made.record.parity is None
    assert cache.get_or_build(key, build).record.parity is None
    judged: list[BuiltEngine] = []

    def judge(built: BuiltEngine) -> dict[str, Any]:
        judged.append(built)
        return FIGURES

    assert cache.get_or_build(key, build, judge).record.parity == FIGURES
    assert judged == [build.engine]
    assert read_engine(made.path).record.parity == FIGURES
    assert cache.get_or_build(key, build, never).record.parity == FIGURES
    assert build.count == 1


def test_an_engine_that_fails_when_first_judged_is_removed(
    cache: EngineCache, key: EngineKey, build: Builder
) -> None:
    cache.get_or_build(key, build)
    with pytest.raises(ParityError):
        cache.get_or_build(key, build, refuse)
    assert cache.find(key) is None
    assert [path.suffix for path in cache.folder.iterdir()] == [".lock"]


def test_a_folder_that_cannot_be_made_is_one_sentence(
    tmp_path: Path, key: EngineKey, build: Builder
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Set SRTRT_CACHE"):
        EngineCache(tmp_path / "file" / "engines").get_or_build(key, build)
    assert build.count == 0


def start(graph: Path, folder: Path, log: Path, *, stop: bool = False) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", WORKER, str(graph), str(folder), str(log), "x" * stop]
    return subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )  # fmt: skip


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_two_processes_build_once(cache: EngineCache, graph: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with start(graph, cache.folder, log, stop=True) as first, start(graph, cache.folder, log) as second:  # fmt: skip  # noqa: E501
        assert line(first) == line(second) == "ready"
        go_on(first)
        assert line(first).startswith("Building tiny-")
        assert line(first) == "half"
        go_on(second)
        assert line(second).startswith("Another process is building tiny-")
        first.communicate("\n" * 100, timeout=60)
        checksum, _ = second.communicate(timeout=60)
    assert (first.returncode, second.returncode) == (0, 0)
    assert log.read_text() == "build\n"
    [entry] = cache.entries()
    assert entry.problem is None
    assert entry.record is not None
    assert checksum.strip() == entry.record.engine_sha256


def test_a_killed_build_leaves_a_usable_cache(
    cache: EngineCache, graph: Path, key: EngineKey, build: Builder, tmp_path: Path
) -> None:
    with start(graph, cache.folder, tmp_path / "log", stop=True) as process:
        assert line(process) == "ready"
        go_on(process)
        assert line(process).startswith("Building tiny-")
        assert line(process) == "half"
        assert cache.leftovers() == []  # it is at work
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)
    lock = cache.folder / f"{key.stem}.lock"
    assert cache.leftovers() == [lock]
    part = cache.folder / f".{key.stem}.engine.123-0123456789abcdef.part"
    part.write_bytes(b"half an engine")
    assert cache.leftovers() == [part, lock]
    made = cache.get_or_build(key, build)
    assert cache.find(key) == replace(made, note=None)
    assert cache.leftovers() == []


def test_a_lock_that_was_pruned_while_waiting_is_not_trusted(tmp_path: Path) -> None:
    lock, waits, order = tmp_path / "lock", threading.Event(), list[str]()

    def second() -> None:
        with locked(lock, on_wait=waits.set) as held:
            assert held
            order.append("second")
            with locked(lock, wait=False) as also:
                order.append(f"free {also}")

    with locked(lock):
        thread = threading.Thread(target=second)
        thread.start()
        assert waits.wait(10)
        lock.unlink()
        order.append("first")
    thread.join(10)
    assert order == ["first", "second", "free False"]


class RuntimeConfig:
    """The part of TensorRT-RTX's IRuntimeConfig that keeps a runtime cache; it needs a GPU."""

    def __init__(self, takes: bytes = b"", compiled: bytes = b"") -> None:
        self.takes, self.data, self.attached = takes, compiled, False

    def create_runtime_cache(self) -> RuntimeConfig:
        return self

    def set_runtime_cache(self, cache: RuntimeConfig) -> None:
        self.attached = cache is self

    def get_runtime_cache(self) -> RuntimeConfig:
        return self

    def deserialize(self, data: bytes) -> bool:
        if data == self.takes:
            self.data = data
        return data == self.takes

    def serialize(self) -> bytes:
        return self.data


def test_the_runtime_cache_is_kept_and_a_bad_one_is_discarded(
    cache: EngineCache, key: EngineKey, build: Builder
) -> None:
    made = cache.get_or_build(key, build)
    path = cache.runtime_cache_path(made.path, GPU)
    assert path != cache.runtime_cache_path(made.path, replace(GPU, driver="580"))
    first = RuntimeConfig(compiled=b"kernels")
    assert load_runtime_cache(RTX, first, path) is None
    assert first.attached
    save_runtime_cache(RTX, first, path)
    second = RuntimeConfig(takes=b"kernels")
    assert load_runtime_cache(RTX, second, path) is None
    assert second.data == b"kernels"
    assert load_runtime_cache(RTX, RuntimeConfig(takes=b"other"), path) is not None
    assert not path.exists()
    save_runtime_cache(RTX, first, path)
    flip(path)
    assert load_runtime_cache(RTX, second, path) == f"{path.name} is damaged"
    save_runtime_cache(RTX, first, path)
    assert cache.leftovers() == []
    assert cache.remove(made.path)
    assert list(cache.folder.iterdir()) == []


WRONG: list[tuple[str, Any]] = [
    ("built", "a text"),
    ("built", {"level": "high"}),
    ("built", {"shape": [8, 8]}),
    ("key", []),
    ("key", {"gpu": {"name": "x"}}),
    ("parity", 99.0),
    ("verified_on", "here"),
    ("engine_bytes", True),
    ("created", "yesterday"),
    ("spec", None),
    ("srtrt", 1),
    ("more", 1),
]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=str)
def test_a_sidecar_with_other_fields_is_damaged(
    name: str, value: Any, cache: EngineCache, key: EngineKey, build: Builder
) -> None:
    """Whoever can write it can also compute its checksum."""
    made = cache.get_or_build(key, build, accept)
    values = read_record(sidecar_path(made.path))
    write_record(sidecar_path(made.path), {**values, name: value})
    with pytest.raises(BackendError, match=rf"engine\.json is damaged: .*{name}"):
        read_engine(made.path)
    (entry,) = cache.entries()
    assert entry.problem is not None
    again = cache.get_or_build(key, build, accept)
    assert again.note is not None
    assert "is damaged" in again.note


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace('"streams": 2', '"streams": 3'),
        lambda text: text[:-20],
        lambda _: "[" * 100_000,
        lambda _: "null",
        lambda _: '{"key_sha256": NaN}',
        lambda text: text.replace("ring", "\ud800", 1),
    ],
)
def test_a_damaged_choice_is_not_used_and_said(
    damage: Callable[[str], str], cache: EngineCache, key: EngineKey
) -> None:
    ring = RingOptions(streams=2, slots=4)
    path = write_choice(cache, key, ring, [])
    assert read_choice(cache, key) == (ring, None)
    path.write_bytes(damage(path.read_text()).encode(errors="surrogatepass"))
    found, reason = read_choice(cache, key)
    assert found is None
    assert reason is not None
    assert f"{path.name} is damaged" in reason


@pytest.mark.parametrize(
    "ring", [None, 7, {}, {"streams": "2"}, {"streams": True}, {"streams": 0}, {"streams": 10**6}]
)
def test_a_choice_that_is_none_is_not_used_and_said(
    ring: Any, cache: EngineCache, key: EngineKey
) -> None:
    path = write_choice(cache, key, RingOptions(), [])
    values = read_record(path)
    usual = values["ring"]
    write_record(
        path, {**values, "ring": usual | ring if isinstance(ring, dict) and ring else ring}
    )
    found, reason = read_choice(cache, key)
    assert found is None
    assert reason is not None
    assert reason.startswith(f"{path.name} is damaged: ")
