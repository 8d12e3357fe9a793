"""What this processor computes natively, within the limits that the environment sets."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

InstructionSet = Literal[
    "generic",
    "neon",
    "neon_dot",
    "neon_bf16",
    "avx2",
    "avx2_vnni",
    "avx512",
    "avx512_vnni",
    "avx512_bf16",
    "amx",
]
"""What the inner loops of a network are made of; ``generic`` is any other processor."""

_NEEDS: dict[InstructionSet, str] = {
    "amx": "avx512f avx512bw avx512vl avx512dq avx512_vnni avx512_bf16 amx_tile amx_int8 amx_bf16",
    "avx512_bf16": "avx512f avx512bw avx512vl avx512dq avx512_vnni avx512_bf16",
    "avx512_vnni": "avx512f avx512bw avx512vl avx512dq avx512_vnni",
    "avx512": "avx512f avx512bw avx512vl avx512dq",
    "avx2_vnni": "avx2 fma avx_vnni",
    "avx2": "avx2 fma",
    "neon_bf16": "asimd asimddp bf16",
    "neon_dot": "asimd asimddp",
    "neon": "asimd",
}
"""Flags of /proc/cpuinfo behind each instruction set, the best one first, as oneDNN groups them."""

_AVX2: tuple[InstructionSet, ...] = ("avx2",)
_AVX2_VNNI: tuple[InstructionSet, ...] = ("avx2", "avx2_vnni")
_AVX512: tuple[InstructionSet, ...] = ("avx2", "avx512")
_VNNI: tuple[InstructionSet, ...] = (*_AVX512, "avx512_vnni")
_BF16: tuple[InstructionSet, ...] = (*_VNNI, "avx512_bf16")
_FP16: tuple[InstructionSet, ...] = (*_BF16, "avx2_vnni")

_ONEDNN: dict[str, tuple[InstructionSet, ...]] = {
    "sse41": (),
    "avx": (),
    "avx2": _AVX2,
    "avx2_vnni": _AVX2_VNNI,
    "avx2_vnni_2": _AVX2_VNNI,
    "avx512_core": _AVX512,
    "avx512_core_vnni": _VNNI,
    "avx512_core_bf16": _BF16,
    "avx512_core_fp16": _FP16,
    "avx10_1_512": _FP16,
}
"""What each value of ONEDNN_MAX_CPU_ISA leaves; it limits nothing with any other value.

See https://uxlfoundation.github.io/oneDNN/dev_guide_cpu_dispatcher_control.html.
"""

_ATEN: dict[str, tuple[InstructionSet, ...]] = {"default": (), "avx2": _AVX2_VNNI}
"""What each value of ATEN_CPU_CAPABILITY leaves; ``avx512`` leaves everything."""


@dataclass(frozen=True, kw_only=True)
class Processor:
    """A processor as the engines may use it."""

    name: str
    """Its brand name, such as ``AMD EPYC 7763 64-Core Processor``."""
    instruction_set: InstructionSet
    """The best one that it has and the environment allows."""
    vendor: str = ""
    """Who made it, as the processor says: ``GenuineIntel``; empty if unknown."""
    limit: str | None = None
    """The setting that keeps the engines from a better one, such as ``ONEDNN_MAX_CPU_ISA=AVX2``."""

    @property
    def bf16(self) -> bool:
        """Whether it multiplies in bfloat16; engines emulate it elsewhere, many times slower."""
        return self.instruction_set in ("avx512_bf16", "amx", "neon_bf16")

    @property
    def faster_in_bf16(self) -> bool:
        """Whether that is also faster than float32.

        With AVX512 alone it depends on the maker: OpenVINO took 0.45 times as long as in float32
        on an AMD EPYC, and 1.9 times as long on an Intel Xeon whose AMX was switched off.
        """
        slow = self.instruction_set == "avx512_bf16" and self.vendor == "GenuineIntel"
        return self.bf16 and not slow

    @property
    def says_of_bf16(self) -> str:
        """What it does with bfloat16, as the end of a sentence for the user."""
        if self.faster_in_bf16:
            return "this processor computes bfloat16"
        if self.bf16:
            return "this processor computes bfloat16 slower than float32"
        return "this processor has no bfloat16"

    @property
    def vnni(self) -> bool:
        """Whether it sums products of 8-bit integers in 32 bits, which AVX2 alone saturates."""
        return self.instruction_set not in ("generic", "neon", "avx2", "avx512")

    @property
    def id(self) -> str:
        """Name and instruction set in letters, digits, ``-`` and ``_``, for names of files."""
        name = re.sub(r"\((r|tm)\)|\bcpu\b|@.*", " ", self.name.lower())
        return "-".join([*re.findall(r"[a-z0-9]+", name), self.instruction_set])

    def __str__(self) -> str:
        limit = f", limited by {self.limit}" if self.limit else ""
        return f"{self.name} ({self.instruction_set}{limit})"


def this_processor() -> Processor:
    """The processor that runs this; one without /proc/cpuinfo is ``generic``."""
    return read_processor(_first_core(), os.environ)


def read_processor(cpuinfo: str, environment: Mapping[str, str]) -> Processor:
    """The processor that a text describes.

    oneDNN (in PyTorch and OpenVINO) obeys ONEDNN_MAX_CPU_ISA, or DNNL_MAX_CPU_ISA without it;
    PyTorch's own kernels obey ATEN_CPU_CAPABILITY. The lower one counts.

    Args:
        cpuinfo: what Linux writes to /proc/cpuinfo; only the first core is read.
        environment: the environment variables.
    """
    fields: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip().lower(), value.strip())
    flags = set(fields.get("flags", fields.get("features", "")).split())
    has: list[InstructionSet] = [
        name for name, needs in _NEEDS.items() if flags.issuperset(needs.split())
    ]
    best, limit = (has or ["generic"])[0], None
    for setting, allowed in _limits(environment):
        left = [name for name in has if name in allowed or name.startswith("neon")]
        if left != has:
            has, best, limit = left, (left or ["generic"])[0], setting
    vendor = fields.get("vendor_id", "")
    return Processor(name=_name(fields), instruction_set=best, vendor=vendor, limit=limit)


def _limits(environment: Mapping[str, str]) -> list[tuple[str, tuple[InstructionSet, ...]]]:
    """Settings that limit something, with what they leave."""
    found = []
    for variable in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        if value := environment.get(variable):
            if (allowed := _ONEDNN.get(value.lower())) is not None:
                found.append((f"{variable}={value}", allowed))
            break
    value = environment.get("ATEN_CPU_CAPABILITY", "")
    if (allowed := _ATEN.get(value)) is not None:
        found.append((f"ATEN_CPU_CAPABILITY={value}", allowed))
    return found


def _name(fields: Mapping[str, str]) -> str:
    if fields.get("model name"):
        return fields["model name"]
    if fields.get("cpu part"):  # ARM writes numbers instead of a name
        return f"ARM {fields.get('cpu implementer', '')} {fields['cpu part']}".replace("  ", " ")
    return platform.processor() or platform.machine() or "unknown"


@cache
def _first_core() -> str:
    """The part of /proc/cpuinfo about the first core; of many cores the rest takes long."""
    lines = []
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as file:
            for line in file:
                if not line.strip():
                    break
                lines.append(line)
    except OSError:
        pass
    return "".join(lines)
