"""What PyCUDA 2026.1 offers under ``pycuda.driver``, as far as a device layer may want it.

Read from its source distribution. Parameters are given as Python would show them; what takes no
names takes its arguments by position. A test compares what srtrt and its stand-in use with this
list, and, where PyCUDA is installed, the list with PyCUDA.
"""

from __future__ import annotations

FUNCTIONS = {
    "init": "(flags=0)",
    "mem_alloc": "(bytes)",
    "mem_get_info": "()",
    "memcpy_htod": "(dest, src)",
    "memcpy_htod_async": "(dest, src, stream=None)",
    "memcpy_dtoh": "(dest, src)",
    "memcpy_dtoh_async": "(dest, src, stream=None)",
    "memcpy_dtod": "(dest, src, size)",
    "memcpy_dtod_async": "(dest, src, size, stream=None)",
    "memset_d8": "(dest, data, size)",
    "memset_d8_async": "(dest, data, size, stream=None)",
    "pagelocked_empty": "(shape, dtype, order='C', mem_flags=0)",
    "pagelocked_zeros": "(shape, dtype, order='C', mem_flags=0)",
    "aligned_empty": "(shape, dtype, order='C', alignment=4096)",
    "managed_empty": "(shape, dtype, order='C', mem_flags=0)",
    "register_host_memory": "(ary, flags=0)",
    "get_version": "()",
    "get_driver_version": "()",
}

CLASSES: dict[str, dict[str, str | None]] = {
    "Device": {
        "count": "()",
        "name": "()",
        "pci_bus_id": "()",
        "compute_capability": "()",
        "total_memory": "()",
        "get_attribute": "(attr)",
        "make_context": "(flags=0)",
        "retain_primary_context": "()",
    },
    "Context": {
        "attach": "(flags=0)",
        "detach": "()",
        "push": "()",
        "pop": "()",
        "get_device": "()",
        "synchronize": "()",
        "get_current": "()",
        "handle": None,
    },
    "Stream": {
        "synchronize": "()",
        "is_done": "()",
        "wait_for_event": "(event)",
        "handle": None,
    },
    "Event": {
        "record": "(stream=None)",
        "synchronize": "()",
        "query": "()",
        "time_since": "(event)",
        "time_till": "(event)",
        "ipc_handle": "()",
    },
    "DeviceAllocation": {"free": "()", "as_buffer": "(size, offset=0)"},
    "PagelockedHostAllocation": {"free": "()", "get_device_pointer": "()", "get_flags": "()"},
    "RegisteredHostMemory": {"unregister": "()", "get_device_pointer": "()"},
}
"""Methods with their parameters after ``self``; None is an attribute."""

CONSTRUCTORS = {"Device": "(dev)", "Stream": "(flags=0)", "Event": "(flags=0)"}
"""The other classes cannot be made by calling them."""

STATIC = {
    ("Device", "count"),
    ("Context", "attach"),
    ("Context", "pop"),
    ("Context", "get_device"),
    ("Context", "synchronize"),
    ("Context", "get_current"),
}

FLAGS = {
    "event_flags": {"DEFAULT": 0, "BLOCKING_SYNC": 1, "DISABLE_TIMING": 2, "INTERPROCESS": 4},
    "host_alloc_flags": {"PORTABLE": 1, "DEVICEMAP": 2, "WRITECOMBINED": 4},
    "mem_host_register_flags": {"PORTABLE": 1, "DEVICEMAP": 2},
    "ctx_flags": {"SCHED_AUTO": 0, "SCHED_SPIN": 1, "SCHED_YIELD": 2, "SCHED_BLOCKING_SYNC": 4},
}
"""There are none for streams: a stream takes CUDA's numbers."""

ERRORS = ("MemoryError", "LogicError", "LaunchError", "RuntimeError")
"""Each is derived from ``Error``, which is derived from Exception."""

NAMES = frozenset({*FUNCTIONS, *CLASSES, *FLAGS, *ERRORS, "Error"})
