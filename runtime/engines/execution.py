"""A built engine, loaded and computing on streams."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from srtrt.errors import (
    BackendError,
    DeviceLostError,
    DeviceMemoryError,
    EngineLoadError,
    OutputError,
    forget_frames,
)
from srtrt.runtime.cuda.device import Device, DeviceMemory, Stream, is_lost
from srtrt.runtime.engines.flavour import (
    Flavour,
    is_out_of_memory,
    load_runtime_cache,
    opened,
    save_runtime_cache,
)
from srtrt.runtime.engines.key import EngineShape, InputSize
from srtrt.runtime.engines.monitor import Listener
from srtrt.runtime.engines.record import BuiltEngine
from srtrt.runtime.layouts import form_layouts, input_size
from srtrt.runtime.ring import FrameRing, RingOptions, in_order
from srtrt.spec import Form

Note = Callable[[str], None]


class LoadedEngine:
    """A deserialized engine for one size of batch; see :class:`srtrt.runtime.rings.Network`.

    Only plans that :mod:`srtrt.runtime.engines.cache` has checked may come here: an engine is
    code.
    """

    def __init__(
        self,
        plan: bytes,
        *,
        form: Form,
        size: InputSize,
        flavour: Flavour,
        device: Device,
        takes: EngineShape | None = None,
        runtime_cache: Path | None = None,
        on_note: Note | None = None,
    ) -> None:
        """Deserializes it.

        Args:
            plan: the serialized engine.
            form: its form.
            size: of the batches it is to compute.
            flavour: what built it.
            device: where it computes; must be current.
            takes: all sizes that it takes; None if it is not to compute others.
            runtime_cache: file of what TensorRT-RTX compiles on first use; None for none.
            on_note: told in a sentence if that file was discarded or could not be written.

        Raises:
            EngineLoadError: if it does not fit this machine.
            BackendError: if it does not take such batches, or TensorRT cannot start.
            DeviceLostError: if the GPU failed.
            DeviceMemoryError: if its weights do not fit into memory.
        """
        self._flavour, self._device = flavour, device
        self._runtime_cache, self._tell = runtime_cache, on_note or (lambda _: None)
        self._form, self._layouts = form, form_layouts(form, size)
        self._takes = takes or EngineShape.of(size)
        self._told_of_graphs = False
        # TensorRT holds no reference to its logger, which the listener does.
        self._listener = Listener(trt := flavour.load(), lambda _share, _phase: None)
        self._trt = trt
        self._config: Any = None
        self._engine: Any = None
        self._runtime: Any = None
        try:
            self._runtime = opened(lambda: trt.Runtime(self._listener.logger))
            if self._runtime is None:
                raise self.failure("cannot start")
            self._engine = self._runtime.deserialize_cuda_engine(plan)
            if self._engine is None:
                raise self._not_loaded()
            self._require_tensors()
            if flavour.runtime_cache:
                self._configure()
        except BaseException as error:
            self._config = self._engine = self._runtime = None
            forget_frames(error)
            raise

    def resize(self, size: InputSize) -> bool:
        """Makes executors for another size of batch from now on; False if it does not take it."""
        if not self._takes.covers(EngineShape.of(size)):
            return False
        self._layouts = form_layouts(self._form, size)
        return True

    def executor(self, stream: Stream) -> EngineExecutor:
        """Opens it for a stream."""
        return EngineExecutor(self, stream, self._device)

    def close(self) -> None:
        """Keeps what was compiled and releases it; harmless when repeated."""
        config, self._config = self._config, None
        if config is not None and self._runtime_cache is not None:
            try:
                save_runtime_cache(self._flavour, config, self._runtime_cache)
            except OutputError as error:  # the frames are good
                self._tell(f"The compiled kernels were not kept: {error}")
        self._engine = self._runtime = None

    def _configure(self) -> None:
        """Contexts without memory of their own, and with what earlier ones compiled."""
        config = self._config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(_by_hand(self._trt))
        problem = load_runtime_cache(self._flavour, config, self._runtime_cache)
        if problem:
            self._tell(f"The stored compiled kernels were discarded: {problem}.")

    def context(self) -> Any:
        """A new context for batches of the size, which still needs memory and addresses.

        Raises:
            BackendError: if it cannot be opened.
            DeviceMemoryError: if memory does not suffice.
        """
        context = self.ask(
            self._engine.create_execution_context, self._config or _by_hand(self._trt)
        )
        if context is None:
            raise self.failure("cannot open the engine")
        for each in self._layouts:
            if each.is_input and not self.ask(context.set_input_shape, each.name, each.shape):
                raise self.failure(f"refuses {each.name} of shape {list(each.shape)}")
        return context

    def ask(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """Calls TensorRT; what :meth:`failure` then tells is of this call."""
        self._listener.problems.clear()
        return call(*arguments)

    def tell_not_recorded(self) -> None:
        """Says once that the work cannot be recorded."""
        if not self._told_of_graphs:
            self._told_of_graphs = True
            self._tell(
                f"{self._flavour.label} does not let the work of this engine be recorded as a CUDA "
                "graph, so every frame is started kernel by kernel."
            )

    def failure(self, what: str) -> BackendError:
        """The error for a call of TensorRT that failed, with what its log says of it."""
        reason = " / ".join(self._listener.problems[:3]) or "it gave no reason"
        text = f"{self._flavour.label} {what}: {reason}"
        if is_lost(reason):
            return DeviceLostError(text)
        return DeviceMemoryError(text) if is_out_of_memory(reason) else BackendError(text)

    def _not_loaded(self) -> BackendError:
        """The error for a plan that TensorRT refuses: another engine helps if the GPU works."""
        error = self.failure("cannot load the engine")
        if isinstance(error, (DeviceMemoryError, DeviceLostError)):
            return error
        self._device.device_memory(1).close()  # raises if the GPU does not answer any more
        return EngineLoadError(str(error))

    def _require_tensors(self) -> None:
        """Checks that it has the tensors of the form, in the right types and sizes."""
        engine = self._engine
        found = {
            name: (engine.get_tensor_dtype(name).name, tuple(engine.get_tensor_shape(name)))
            for name in map(engine.get_tensor_name, range(engine.num_io_tensors))
        }
        for each in self._layouts:
            wanted = {"uint8": "UINT8", "float32": "FLOAT"}[each.dtype.name]
            dtype, shape = found.pop(each.name, ("missing", ()))
            fits = len(shape) == len(each.shape) and all(
                length in (-1, expected) for length, expected in zip(shape, each.shape, strict=True)
            )
            if dtype != wanted or not fits:
                raise BackendError(
                    f"the engine's tensor {each.name} is {dtype} {list(shape)}; expected "
                    f"{wanted} {list(each.shape)}. Remove it with `srtrt engines prune --all`."
                )
        if found:
            raise BackendError(f"the engine has a tensor {min(found)!r} that its form has not.")


class EngineExecutor:
    """An engine on one stream: a context for each binding, all with the same working memory.

    A recorded graph keeps the addresses of the context it was recorded from, so a context that
    was recorded must not get others. The stream computes one batch after the other, which is why
    the contexts can share their memory.
    """

    def __init__(self, loaded: LoadedEngine, stream: Stream, device: Device) -> None:
        self._loaded, self._stream, self._device = loaded, stream, device
        self._contexts: list[Any] = []
        self._memories: list[DeviceMemory] = []
        self._computed: Any = None

    @property
    def capturable(self) -> bool:
        """Whether TensorRT lets the work it computed last be recorded.

        Only TensorRT-RTX can be asked; all work of TensorRT on an engine without data-dependent
        shapes can be.
        """
        ask = getattr(self._computed, "is_stream_capturable", None)
        answer = ask is None or bool(self._loaded.ask(ask, self._stream.handle))
        if not answer:
            self._loaded.tell_not_recorded()
        return answer

    def bind(self, addresses: Mapping[str, int]) -> Callable[[], None]:
        """See :meth:`srtrt.runtime.ring.Executor.bind`."""
        try:
            context = self._context(addresses)
        except BaseException as error:
            forget_frames(error)
            raise
        self._contexts.append(context)
        place = len(self._contexts) - 1

        def compute() -> None:
            # By number, so that closing the executor frees the context.
            context = self._computed = self._contexts[place]
            if not self._loaded.ask(context.execute_async_v3, self._stream.handle):
                raise self._loaded.failure("cannot compute")

        return compute

    def close(self) -> None:
        """Releases the contexts, then their memory; harmless when repeated."""
        self._computed = None
        self._contexts.clear()
        while self._memories:
            self._memories.pop().close()

    def _context(self, addresses: Mapping[str, int]) -> Any:
        """A context with memory and all addresses."""
        loaded = self._loaded
        context = loaded.context()
        needed = int(loaded.ask(context.update_device_memory_size_for_shapes))
        memory = self._memory(needed)
        context.set_device_memory(memory.address, memory.nbytes)
        for name, address in addresses.items():
            if not loaded.ask(context.set_tensor_address, name, address):
                raise loaded.failure(f"refuses the address of {name}")
        return context

    def _memory(self, nbytes: int) -> DeviceMemory:
        """The working memory of the stream; another piece if it is too small."""
        if not self._memories or self._memories[-1].nbytes < nbytes:
            # An engine may need none, but its address must be valid.
            self._memories.append(self._device.device_memory(max(nbytes, 1)))
        return self._memories[-1]


def run_engine(
    built: BuiltEngine,
    frames: Sequence[Mapping[str, NDArray[Any]]],
    *,
    flavour: Flavour,
    device: Device,
) -> list[dict[str, NDArray[Any]]]:
    """Runs an engine on single frames of one size that it takes, one batch after the other.

    Raises:
        BackendError: if it does not run here.
        DeviceMemoryError: if memory does not suffice.
    """
    shape, frame = EngineShape.parse(built.facts["shape"]), input_size(frames[0])
    size = InputSize(width=frame.width, height=frame.height, batch=shape.best.batch)
    with (
        device.current(),
        contextlib.closing(
            LoadedEngine(
                built.plan, form=built.spec.form, size=size, flavour=flavour, device=device
            )
        ) as loaded,
    ):
        layouts = form_layouts(built.spec.form, size)
        options = RingOptions(streams=1, slots=1, batch=size.batch)
        with FrameRing(device, layouts, loaded.executor, options) as ring:
            return list(in_order(ring.submit, lambda: ring.capacity, frames))


def _by_hand(trt: Any) -> Any:
    return trt.ExecutionContextAllocationStrategy.USER_MANAGED
