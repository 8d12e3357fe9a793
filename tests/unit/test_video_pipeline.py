"""The three stages: order, bounded queues, and stopping together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from srtrt.runtime.video.pipeline import Pipeline


def numbers(count: int, made: list[int] | None = None) -> Callable[[], Iterator[int]]:
    def source() -> Iterator[int]:
        for number in range(count):
            if made is not None:
                made.append(number)
            yield number

    return source


def at_once(work: Callable[[int], int]) -> Callable[[int], Callable[[], int]]:
    """Work that is done when it is started."""

    def start(number: int) -> Callable[[], int]:
        result = work(number)
        return lambda: result

    return start


def run_within(pipeline: Pipeline[int, int], seconds: float = 5) -> list[BaseException]:
    errors: list[BaseException] = []

    def target() -> None:
        try:
            pipeline.run()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "the pipeline hangs"
    assert not pipeline.is_running
    return errors


def test_order_and_times() -> None:
    written: list[int] = []
    pipeline = Pipeline(numbers(50), at_once(lambda n: n * n), written.append, capacity=2)
    assert run_within(pipeline) == []
    assert written == [n * n for n in range(50)]
    assert pipeline.seconds > 0
    for stage in pipeline.times:
        assert 0 <= stage.busy + stage.waiting <= pipeline.seconds * 1.5 + 0.2


@pytest.mark.parametrize("in_flight", [1, 2, 5, 100])
def test_items_are_worked_on_at_the_same_time(in_flight: int) -> None:
    started, written = [0], []
    ahead: list[int] = []

    def work(number: int) -> Callable[[], int]:
        started[0] += 1

        def collect() -> int:
            ahead.append(started[0] - number)
            return number

        return collect

    pipeline = Pipeline(numbers(20), work, written.append, capacity=2, in_flight=in_flight)
    assert run_within(pipeline) == []
    assert written == list(range(20))
    assert max(ahead) == min(in_flight, 20)


@pytest.mark.parametrize("in_flight", [1, 3])
def test_what_fails_when_collected_stops_all(in_flight: int) -> None:
    def work(number: int) -> Callable[[], int]:
        def collect() -> int:
            if number == 7:
                raise ValueError("seven")
            return number

        return collect

    written: list[int] = []
    pipeline = Pipeline(numbers(10**9), work, written.append, capacity=2, in_flight=in_flight)
    (error,) = run_within(pipeline)
    assert str(error) == "seven"
    assert written == list(range(len(written)))


def test_queues_are_bounded() -> None:
    made: list[int] = []
    gate = threading.Event()

    def work(number: int) -> int:
        gate.wait(5)
        return number

    written: list[int] = []
    pipeline = Pipeline(numbers(100, made), at_once(work), written.append, capacity=3)
    thread = threading.Thread(target=pipeline.run)
    thread.start()
    time.sleep(0.2)
    waiting = len(made)
    gate.set()
    thread.join(5)
    # One item is in work, three wait, one is being handed over.
    assert waiting == 5
    assert len(written) == 100


@pytest.mark.parametrize("stage", ["source", "work", "write"])
def test_first_error_stops_all_stages(stage: str) -> None:
    def fail_at_five(number: int) -> int:
        if number == 5:
            raise RuntimeError(stage)
        return number

    def source() -> Iterator[int]:
        for number in range(10**9):
            yield fail_at_five(number) if stage == "source" else number

    def work(number: int) -> int:
        return fail_at_five(number) if stage == "work" else number

    def write(number: int) -> None:
        if stage == "write":
            fail_at_five(number)

    errors = run_within(Pipeline(source, at_once(work), write, capacity=2))
    assert [str(error) for error in errors] == [stage]


def test_interrupt_in_the_main_thread_stops_all(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []

    def work(number: int) -> int:
        time.sleep(0.01)
        return number

    pipeline = Pipeline(numbers(10**9), at_once(work), written.append, capacity=2)
    started = time.monotonic()
    join = threading.Thread.join

    def interrupted(thread: threading.Thread, timeout: float | None = None) -> None:
        join(thread, timeout)
        if time.monotonic() - started > 0.3 and not raised:
            raised.append(True)
            raise KeyboardInterrupt

    raised: list[bool] = []
    monkeypatch.setattr(threading.Thread, "join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run()
    assert not pipeline.is_running
    assert time.monotonic() - started < 3


def test_an_interruption_before_the_stages_are_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_thread: threading.Thread) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupt)
    pipeline = Pipeline(numbers(1), at_once(lambda n: n), lambda _: None, capacity=1)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run()
