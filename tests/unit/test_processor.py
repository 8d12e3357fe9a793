"""What processors compute natively, from what Linux says about them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from processors import PROCESSORS

from srtrt.processor import Processor, read_processor, this_processor


@pytest.mark.parametrize("name", PROCESSORS)
def test_flags_decide_what_a_processor_computes(name: str) -> None:
    text, instruction_set, bf16, vnni = PROCESSORS[name]
    found = read_processor(text, {})
    assert (found.instruction_set, found.bf16, found.vnni) == (instruction_set, bf16, vnni)
    assert found.limit is None
    assert found.id.endswith(f"-{instruction_set}")
    assert re.fullmatch(r"[a-z0-9_-]+", found.id)


def test_the_name_is_the_maker_s() -> None:
    found = read_processor(PROCESSORS["zen3"][0], {})
    assert found.name == "AMD EPYC 7763 64-Core Processor"
    assert found.id == "amd-epyc-7763-64-core-processor-avx2"
    arm = read_processor(PROCESSORS["neoverse_v1"][0], {})
    assert arm.name == "ARM 0x41 0xd40"
    assert arm.id == "arm-0x41-0xd40-neon_bf16"


def test_the_id_leaves_out_the_clock() -> None:
    plain = Processor(name="Intel(R) Xeon(R) CPU E5-2680 v4 @ 2.40GHz", instruction_set="avx2")
    assert plain.id == "intel-xeon-e5-2680-v4-avx2"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n",
        "flags",
        "flags:\n",
        "no colon here\n\x00\xff: :::\n",
        "flags\t: amx_tile amx_bf16",
    ],
)
def test_any_text_is_some_processor(text: str) -> None:
    found = read_processor(text, {"ONEDNN_MAX_CPU_ISA": "AVX2"})
    assert found.instruction_set == "generic"
    assert not found.bf16
    assert not found.vnni
    assert found.name
    assert found.id.endswith("-generic")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "amx"),
        ({"ONEDNN_MAX_CPU_ISA": "AVX2"}, "avx2"),
        ({"ONEDNN_MAX_CPU_ISA": "avx2"}, "avx2"),
        ({"DNNL_MAX_CPU_ISA": "AVX2"}, "avx2"),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "DNNL_MAX_CPU_ISA": "AVX2"}, "avx512"),
        ({"ONEDNN_MAX_CPU_ISA": "unknown", "DNNL_MAX_CPU_ISA": "AVX2"}, "amx"),
        ({"ONEDNN_MAX_CPU_ISA": "SSE41"}, "generic"),
        ({"ONEDNN_MAX_CPU_ISA": "AVX2_VNNI"}, "avx2_vnni"),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"}, "avx512_vnni"),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}, "avx512_bf16"),
        ({"ONEDNN_MAX_CPU_ISA": "AVX10_1_512"}, "avx512_bf16"),
        ({"ONEDNN_MAX_CPU_ISA": "AVX10_1_512_AMX"}, "amx"),
        ({"ONEDNN_MAX_CPU_ISA": "ALL"}, "amx"),
        ({"ONEDNN_MAX_CPU_ISA": ""}, "amx"),
        ({"ATEN_CPU_CAPABILITY": "avx2"}, "avx2_vnni"),
        ({"ATEN_CPU_CAPABILITY": "avx512"}, "amx"),
        ({"ATEN_CPU_CAPABILITY": "default"}, "generic"),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16", "ATEN_CPU_CAPABILITY": "avx2"}, "avx2"),
        ({"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx512"}, "avx2"),
    ],
)
def test_the_environment_limits_it(environment: dict[str, str], expected: str) -> None:
    found = read_processor(PROCESSORS["sapphire_rapids"][0], environment)
    assert found.instruction_set == expected
    assert (found.limit is None) == (expected == "amx")
    if found.limit is not None:
        variable, _, value = found.limit.partition("=")
        assert environment[variable] == value
        assert found.limit in str(found)


def test_a_limit_above_what_the_processor_has_is_none() -> None:
    found = read_processor(PROCESSORS["zen3"][0], {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"})
    assert found.instruction_set == "avx2"
    assert found.limit is None
    zen4 = read_processor(PROCESSORS["zen4"][0], {"ONEDNN_MAX_CPU_ISA": "AVX2_VNNI"})
    assert zen4.instruction_set == "avx2"
    neoverse = read_processor(PROCESSORS["neoverse_v1"][0], {"ONEDNN_MAX_CPU_ISA": "AVX2"})
    assert neoverse.bf16


@pytest.mark.parametrize(
    ("name", "limit", "faster", "says"),
    [
        ("zen4", "", True, "this processor computes bfloat16"),
        ("sapphire_rapids", "", True, "this processor computes bfloat16"),
        ("neoverse_v1", "", True, "this processor computes bfloat16"),
        ("sapphire_rapids", "AVX512_CORE_BF16", False, "computes bfloat16 slower than float32"),
        ("sapphire_rapids", "AVX2", False, "has no bfloat16"),
        ("zen3", "AVX2", False, "this processor has no bfloat16"),
    ],
)
def test_bfloat16_is_worth_it_where_it_is_fast(
    name: str, limit: str, faster: bool, says: str
) -> None:
    found = read_processor(PROCESSORS[name][0], {"ONEDNN_MAX_CPU_ISA": limit})
    assert found.faster_in_bf16 is faster
    assert found.says_of_bf16.endswith(says)


@pytest.mark.parametrize("limit", [None, "AVX2", "AVX512_CORE"])
def test_pytorch_agrees_within_the_limits(limit: str | None) -> None:
    """oneDNN reads its limit once, so each is tried in a process of its own."""
    pytest.importorskip("torch", reason="needs PyTorch, which is not installed")
    code = (
        "import json, torch; from srtrt.processor import this_processor as p; "
        "print(json.dumps([p().bf16, torch.ops.mkldnn._is_mkldnn_bf16_supported()]))"
    )
    limits = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")
    environment = {k: v for k, v in os.environ.items() if k not in limits}
    if limit:
        environment["ONEDNN_MAX_CPU_ISA"] = limit
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    native, supported = json.loads(done.stdout)
    # PyTorch also counts bfloat16 that oneDNN emulates with AVX512.
    assert supported or not native
    if limit is not None:
        assert not native


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc/cpuinfo")
def test_this_one_is_what_its_own_text_says() -> None:
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    assert this_processor() == read_processor(text, os.environ)
