"""What Linux says about some processors."""

from __future__ import annotations

AVX2 = "fpu sse4_1 sse4_2 avx f16c fma avx2"
AVX512 = f"{AVX2} avx512f avx512dq avx512cd avx512bw avx512vl"
ICE_LAKE = f"{AVX512} avx512_vnni avx512_vbmi2"
ZEN_4 = f"{ICE_LAKE} avx512_bf16"
SAPPHIRE_RAPIDS = f"{ZEN_4} avx_vnni amx_bf16 amx_tile amx_int8 avx512_fp16"
NEOVERSE_N1 = "fp asimd evtstrm aes atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp ssbs"


def x86(name: str, flags: str) -> str:
    vendor = "AuthenticAMD" if name.startswith("AMD") else "GenuineIntel"
    core = f"vendor_id\t: {vendor}\nmodel name\t: {name}\nflags\t\t: {flags}\nbugs\t\t:\n"
    return f"processor\t: 0\n{core}\nprocessor\t: 1\n{core}\n"


def arm(part: str, features: str) -> str:
    return (
        f"processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: {features}\n"
        f"CPU implementer\t: 0x41\nCPU part\t: {part}\nCPU revision\t: 1\n\n"
    )


PROCESSORS = {
    "zen3": (x86("AMD EPYC 7763 64-Core Processor", AVX2), "avx2", False, False),
    "zen4": (x86("AMD EPYC 9R14", ZEN_4), "avx512_bf16", True, True),
    "zen5": (x86("AMD Ryzen 9 9950X", f"{ZEN_4} avx_vnni"), "avx512_bf16", True, True),
    "alder_lake": (x86("12th Gen Intel(R)", f"{AVX2} avx_vnni"), "avx2_vnni", False, True),
    "skylake": (x86("Intel(R) Xeon(R) Gold 6148", AVX512), "avx512", False, False),
    "ice_lake": (x86("Intel(R) Xeon(R) Platinum", ICE_LAKE), "avx512_vnni", False, True),
    "sapphire_rapids": (x86("Intel(R) Xeon(R)", SAPPHIRE_RAPIDS), "amx", True, True),
    "masked_amx": (x86("Intel(R) Xeon(R)", ZEN_4), "avx512_bf16", True, True),
    "knights_landing": (x86("Xeon Phi", f"{AVX2} avx512f avx512er"), "avx2", False, False),
    "sandy_bridge": (x86("Intel(R) Core(TM) i7-2600", "sse4_1 avx"), "generic", False, False),
    "neoverse_v1": (arm("0xd40", f"{NEOVERSE_N1} i8mm bf16"), "neon_bf16", True, True),
    "neoverse_n1": (arm("0xd0c", NEOVERSE_N1), "neon_dot", False, True),
    "cortex_a72": (arm("0xd08", "fp asimd aes crc32"), "neon", False, False),
}
"""The text of /proc/cpuinfo, the instruction set, and whether it has bfloat16 and VNNI."""
