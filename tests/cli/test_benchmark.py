from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
from benchmark_command import benchmark
from click.testing import CliRunner
from video_clips import make_clip, picture

from srtrt.benchmarks import compressed
from srtrt.benchmarks.tables import table
from srtrt.benchmarks.vmaf import vmaf_available
from srtrt.cli import main
from srtrt.processor import this_processor


def test_latency_measures_side_by_side(tmp_path: Path) -> None:
    out = tmp_path / "latency.json"
    result = benchmark(
        "latency", "--size", "32x24", "--rounds", "2", "--engine", "onnxruntime-fp32", "--out", out
    )
    assert result.exit_code == 0, result.output
    report = json.loads(out.read_text())
    assert set(report["engines"]) == {"torch-eager-fp32", "onnxruntime-fp32"}
    assert report["engines"]["torch-eager-fp32"]["times_faster"] == 1.0
    assert all(row["seconds_per_frame"] > 0 for row in report["engines"].values())
    assert report["machine"]["packages"]["onnxruntime"]
    assert report["frame"] == "32x24 to 128x96"


def test_latency_sets_options_side_by_side() -> None:
    engines = ["openvino-fp32", "openvino-fp32:threads=1,compiled_shapes=2"]
    given = [part for engine in engines for part in ("--engine", engine)]
    result = benchmark("latency", "--size", "32x24", "--rounds", "1", *given)
    assert result.exit_code == 0, result.output
    assert set(json.loads(result.stdout)["engines"]) == {"torch-eager-fp32", *engines}
    for engine, message in (
        ("openvino-fp32:thread=1", "openvino has no option 'thread'"),
        ("openvino-fp32:threads", "expected NAME=VALUE"),
        ("openvino-fp32:threads=-1", "threads is -1; expected at least 0"),
        ("torch-eager-fp32:compile=true", "it takes no options"),
    ):
        refused = benchmark("latency", "--size", "32x24", "--rounds", "1", "--engine", engine)
        assert refused.exit_code == 2
        assert message in refused.stderr


@pytest.mark.parametrize("kind", ["latency", "parity"])
def test_no_engine_is_measured_under_the_name_of_another(
    kind: str, photos: Path, on_processor: Callable[[str], None]
) -> None:
    """Without bfloat16 OpenVINO computes in float32, whatever it is asked for."""
    options = {"latency": ["--size", "32x24", "--rounds", 1], "parity": ["--data", photos]}[kind]
    command = [kind, "--model", "fast", *options]
    on_processor("zen3")
    result = benchmark(*command)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert "openvino-fp32" in report["engines"]
    assert not {"openvino-bf16", "torch-bf16"} & set(report["engines"])
    assert report["left_out"] == {"openvino-bf16": "this processor has no bfloat16"}
    assert "openvino-bf16 is left out: this processor has no bfloat16" in result.stderr
    for engine in ("openvino", "torch"):
        refused = benchmark(*command, "--engine", f"{engine}-bf16")
        assert refused.exit_code == 1
        assert f"{engine} computes in bf16" in refused.output
        assert (
            "this processor has no bfloat16: AMD EPYC 7763 64-Core Processor (avx2)"
            in refused.output
        )


def write_run(
    folder: Path, *, upsampler: str = "nearest", dataset: str = "DF2K", log: str | None = None
) -> Path:
    """A finished run of 500 epochs, validated at every hundredth."""
    folder.mkdir()
    (folder / "config.yaml").write_text(f"generator:\n  upsampler: {upsampler}\n  blocks: 16\n")
    (folder / "manifest.json").write_text(json.dumps({"dataset": dataset}))
    lines = [{"step": 1, "loss": 0.5, "epoch": 0.1}]
    lines += [
        {"step": 10 * e, "epoch": e - 0.01, "psnr": 20 + e / 100} for e in range(100, 501, 100)
    ]
    (folder / "log.jsonl").write_text(
        log if log is not None else "".join(f"{json.dumps(line)}\n" for line in lines)
    )
    return folder


def test_runs_make_the_table_of_the_report(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a", upsampler="pixelshuffle", dataset="DIV2K")
    second = write_run(tmp_path / "b")
    out = tmp_path / "runs.json"
    result = benchmark("quality", "--runs", first, "--runs", second, "--out", out)
    assert result.exit_code == 0, result.output
    ours, reported = result.stdout.split("The original report")
    assert ours.strip().splitlines() == [
        "| Method | Data | Epoch | PSNR |",
        "|---|---|---|---|",
        "| Pixel Shuffler | DIV2K | 500 | 25.00 |",
        "| Upsampling | DF2K | 500 | 25.00 |",
    ]
    assert "| Pixel Shuffler | DF2K | 500 | 26.90 |" in reported
    assert "| Upsampling | Flickr2K | 500 | 25.40 |" in reported
    assert [row["psnr_db"] for row in json.loads(out.read_text())["rows"]] == [25.0, 25.0]


def test_runs_at_chosen_epochs(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a")
    result = benchmark("quality", "--runs", run, "--epochs", "100", "--epochs", "300")
    assert (
        "| Upsampling | DF2K | 100 | 21.00 |\n| Upsampling | DF2K | 300 | 23.00 |" in result.stdout
    )
    assert "500 | 25.00" not in result.stdout.split("The original")[0]


def test_of_a_step_validated_twice_the_later_counts(tmp_path: Path) -> None:
    line = '{"step": 10, "epoch": 1.0, "psnr": %s}\n'
    log = line % 20.0 + line % 21.0 + '{"step": 20, "ep'
    result = benchmark("quality", "--runs", write_run(tmp_path / "a", log=log))
    assert "| Upsampling | DF2K | 1 | 21.00 |" in result.stdout


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"upsampler": "abacus"}, "generator.upsampler is 'abacus'"),
        ({"dataset": ""}, "'dataset' is ''"),
        ({"log": '{"step": 1, "loss": 2}\n'}, "holds no validation"),
        ({"log": 'oops\n{"step": 1}\n'}, "log.jsonl, line 1"),
        ({"log": '{"step": 1, "epoch": 1, "psnr": "high"}\n'}, "'psnr' is 'high'"),
        ({"log": '{"step": 1, "epoch": 3, "psnr": 20}\n'}, "the nearest is 3"),
    ],
)
def test_what_is_no_run_is_refused(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    run = write_run(tmp_path / "a", **changes)
    result = benchmark("quality", "--runs", run, "--epochs", "500")
    assert result.exit_code == 1
    assert message in result.output


def test_compressed_video_costs_quality(
    photos: Path, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    clip = make_clip(
        tmp_path / "clip.mkv", size=(128, 96), pictures=[picture(i, 128, 96) for i in range(8)]
    )
    arguments = ["--data", photos, "--clip", clip, "--frames", 2, "--model", "srresnet"]
    out = tmp_path / "compressed.json"
    result = benchmark(
        "compressed", *arguments, "--model", tiny_checkpoint, "--pictures", 1, "--out", out
    )
    assert result.exit_code == 0, result.output
    report = json.loads(out.read_text())
    assert report["codec"]["crf"] == 28
    assert report["engines"] == {"srresnet": "openvino-fp32", "tiny": "torch-fp32"}
    assert set(report["sources"]) == {"panned pictures", "clips"}
    for source in report["sources"].values():
        assert (source["clips"], source["frames"]) == (1, 2)
        assert 0 < source["bits_per_pixel"] < 24
        for name in ("bicubic", "srresnet", "tiny"):
            lossy, clean = source["compressed"][name], source["uncompressed"][name]
            assert lossy["psnr_db"] < clean["psnr_db"]
            assert 0 < lossy["ssim"] < clean["ssim"]
            if vmaf_available():
                assert 0 <= lossy["vmaf_neg"] <= lossy["vmaf"] + 1e-9 <= 100
                assert lossy["vmaf_neg"] < clean["vmaf_neg"]
    panned = report["sources"]["panned pictures"]
    assert (
        panned["uncompressed"]["srresnet"]["psnr_db"] > panned["uncompressed"]["bicubic"]["psnr_db"]
    )


def test_compressed_without_vmaf_says_what_to_type(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compressed, "vmaf_available", lambda: False)
    result = benchmark("compressed", "--data", photos, "--pictures", 1, "--frames", 2)
    assert result.exit_code == 0, result.output
    assert "VMAF is left out, as imageio-ffmpeg is not installed" in result.stderr
    (source,) = json.loads(result.stdout)["sources"].values()
    assert source["compressed"]["bicubic"].keys() == {"psnr_db", "ssim"}


def test_compression_that_loses_little_measures_little(photos: Path, tmp_path: Path) -> None:
    """The colours survive the way to yuv420p and back; only the codec is measured."""
    figures = {}
    for crf in (1, 40):
        result = benchmark("compressed", "--data", photos, "--frames", 2, "--crf", crf)
        source = json.loads(result.stdout)["sources"]["panned pictures"]
        figures[crf] = [source[k]["bicubic"]["psnr_db"] for k in ("uncompressed", "compressed")]
    assert figures[1][0] == figures[40][0]
    assert figures[1][0] - figures[1][1] < 0.1
    assert figures[40][0] - figures[40][1] > 0.5


def test_rates_says_what_each_model_gets_from_how_many_bits(tmp_path: Path) -> None:
    pytest.importorskip("imageio_ffmpeg")
    clip = make_clip(
        tmp_path / "clip.mkv",
        size=(128, 96),
        pts=range(0, 16000, 1000),
        pictures=[picture(i, 128, 96) for i in range(16)],
        options={"crf": "4"},
    )
    out = tmp_path / "rates.json"
    arguments = ["--clip", clip, "--frames", 16, "--every", 8, "--out", out]
    arguments += ["--model", "fast", "--model", "video"]
    result = benchmark("rates", *arguments, "--encoder", "libx264:10,40")
    assert result.exit_code == 0, result.output
    clean, good, poor = json.loads(out.read_text())["rows"]
    assert (clean["encoder"], clean["bits_per_pixel"]) == (None, None)
    assert (good["crf"], poor["crf"]) == (10, 40)
    assert good["bits_per_pixel"] > 2 * poor["bits_per_pixel"] > 0
    for name in ("fast", "video"):
        assert clean[name]["psnr_db"] > poor[name]["psnr_db"]
        assert 100 >= good[name]["vmaf"] > poor[name]["vmaf"] >= 0
    refused = benchmark("rates", "--clip", clip, "--encoder", "libx264")
    assert refused.exit_code == 2
    assert "expected NAME:CRF,CRF" in refused.output


def test_parity_of_the_bundled_model(photos: Path) -> None:
    result = benchmark(
        "parity", "--data", photos, "--engine", "onnxruntime-fp32", "--engine", "graph-fp16",
        "--engine", "graph-bf16",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    engines = json.loads(result.stdout)["engines"]
    assert all(row["passes_gate"] for row in engines.values())
    assert engines["onnxruntime-fp32"]["max_abs"] <= 1
    assert abs(engines["graph-fp16"]["db_lost"]) < 0.02
    assert engines["graph-bf16"]["psnr_db"] < engines["graph-fp16"]["psnr_db"] - 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["latency", "--engine", "abacus"], "engine 'abacus' is unknown"),
        (["latency", "--size", "big"], "--size 'big'"),
        (["quality", "--data", "absent"], "no such folder"),
        (["quality"], "give --data DIR"),
        (["quality", "--data", ".", "--epochs", "5"], "--epochs belongs to --runs"),
        (["quality", "--runs", ".", "--data", "."], "leave --data out"),
        (["quality", "--runs", ".", "--model", "srresnet"], "leave --model out"),
        (["quality", "--runs", "absent"], "absent: no such folder"),
        (["quality", "--runs", "."], "a training run holds config.yaml"),
        (["quality", "--data", ".", "--model", "absent.pth"], "absent.pth: no such file"),
        (["compressed"], "give --data DIR, --clip VIDEO, or both"),
        (["compressed", "--clip", "absent.mp4"], "absent.mp4: no such file"),
    ],
)
def test_bad_arguments_are_one_sentence(arguments: list[str], message: str) -> None:
    result = benchmark(*arguments)
    assert result.exit_code in (1, 2)
    assert message in result.output


def test_pictures_too_small_to_pan_are_named(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "stamp.png"), picture(0, 80, 80))
    result = benchmark("compressed", "--data", tmp_path)
    assert result.exit_code == 1
    assert "stamp.png: a picture of 80x80 pixels is too small" in result.output


def test_training_speed_is_measured_against_a_plain_loop(
    picture_folder: Path, tmp_path: Path
) -> None:
    tiny = ("generator.blocks=1", "generator.features=8", "data.batch=2", "data.patch=8")
    settings = [part for setting in tiny for part in ("--set", setting)]
    out = tmp_path / "training.json"
    command = ["benchmark", "training", "--data", str(picture_folder), *settings, "--steps", "1"]
    result = CliRunner().invoke(main, [*command, "--rounds", "1", "--out", str(out)])
    assert result.exit_code == 0, result.output
    report = json.loads(out.read_text())
    loops = report["loops"]
    assert set(loops) == {"plain", "synthetic", "real"}
    ratio = loops["plain"]["seconds_per_step"] / loops["real"]["seconds_per_step"]
    assert report["times_faster_than_plain"] == pytest.approx(ratio, rel=0.1)
    assert 0 < report["share_of_ceiling"] < 1
    fast = this_processor().faster_in_bf16
    assert report["precision"] == ("bf16" if fast else "fp32")
    assert report["precision_because"] == this_processor().says_of_bf16
    assert "| plain |" in table(report)
    refused = CliRunner().invoke(main, [*command, "--preset", "gan"])
    assert refused.exit_code == 2
    assert "pixel loss alone" in refused.output


def test_int8_beside_the_other_precisions(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "int8.json"
    result = benchmark(
        "int8",
        "--model",
        "srresnet",
        "--data",
        photos,
        "--size",
        "32x24",
        "--rounds",
        "2",
        "--out",
        out,
    )
    assert result.exit_code == 0, result.output
    report = json.loads(out.read_text())
    (row,) = report["models"].values()
    (engines,) = row["sets"].values()
    assert {"onnxruntime-fp32", "onnxruntime-int8", "openvino-fp32", "openvino-int8"} <= set(
        engines
    )
    assert engines["openvino-int8"]["parity_psnr_db"] < engines["openvino-fp32"]["parity_psnr_db"]
    assert row["speed"]["32x24"][report["reference"]]["times_faster"] == 1.0
    assert row["bytes"]["int8"] < row["bytes"]["fp32"]
    assert "head" in row["calibrated"]["kept"]
    assert "| srresnet |" in table(report)


def test_int8_of_a_model_without_such_a_graph(photos: Path, tiny_checkpoint: Path) -> None:
    result = benchmark("int8", "--model", tiny_checkpoint, "--data", photos)
    assert result.exit_code == 2
    assert "has no int8 graph" in result.output


def test_every_precision_on_every_engine(photos: Path, tmp_path: Path) -> None:
    pytest.importorskip(
        "tensorrt_rtx", reason="needs tensorrt-rtx to build engines: pip install '.[rtx]'"
    )
    out = tmp_path / "precisions.json"
    done = benchmark(
        "precisions", "--model", "srresnet", "--data", photos, "--size", "32x24", "--out", out,
        "--precision", "fp32", "--precision", "fp16", "--precision", "int8",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    report = json.loads(out.read_text())
    engines = report["engines"]
    for precision in ("fp32", "fp16", "int8"):
        graph, engine = engines[f"graph-{precision}"], engines[f"tensorrt-rtx-{precision}"]
        assert graph["psnr_db"] is None or graph["psnr_db"] > 30
        assert graph["bytes"] > 0
        assert engine["bytes"] > 0
        assert engine["build_seconds"] > 0
        assert "psnr_db" not in engine, "no engine runs here"
    assert engines["graph-fp16"]["bytes"] < 0.6 * engines["graph-fp32"]["bytes"]
    assert engines["openvino-int8"]["build_seconds"] > 0
    assert "| tensorrt-rtx-fp16 | - | - | - |" in table(report)
