"""Tables of results, as documents quote them."""

from __future__ import annotations

from srtrt.benchmarks.tables import table


def test_psnr_and_ssim_alone_stand_in_columns() -> None:
    report = {
        "benchmark": "quality",
        "sets": {
            "Set5": {
                "pictures": 5,
                "a": {"psnr_db": 28.431, "ssim": 0.8113},
                "b": {"psnr_db": 30.0, "ssim": 0.9},
            }
        },
    }
    assert table(report).splitlines() == [
        "| set | a | b |",
        "|---|---|---|",
        "| Set5 | 28.43 / 0.8113 | 30.00 / 0.9000 |",
    ]


def test_more_figures_stand_in_rows_and_what_was_not_measured_is_left_open() -> None:
    figures = {"psnr_db": 28.431, "ssim": 0.8113, "lpips": 0.1987, "bias_red": -0.004}
    plain = {"psnr_db": 30.0, "ssim": 0.9, "near_nyquist": 1.0}
    report = {"benchmark": "quality", "sets": {"Set5": {"pictures": 5, "a": figures, "b": plain}}}
    assert table(report).splitlines() == [
        "| set | model | PSNR, dB | SSIM | LPIPS | near Nyquist | bias R |",
        "|---|---|---|---|---|---|---|",
        "| Set5 | a | 28.43 | 0.8113 | 0.1987 | - | 0.00 |",
        "| Set5 | b | 30.00 | 0.9000 | - | 1.000 | - |",
    ]


def test_table_of_compressed_video() -> None:
    low = {"psnr_db": 22.0, "ssim": 0.5, "vmaf": 61.25, "vmaf_neg": 55.0}
    high = {"psnr_db": 24.0, "ssim": 0.625}
    source = {
        "clips": 1,
        "bits_per_pixel": 0.1834,
        "compressed": {"bicubic": low},
        "uncompressed": {"bicubic": high},
    }
    report = {"benchmark": "compressed", "codec": {"crf": 28}, "sources": {"clips": source}}
    assert table(report).splitlines() == [
        "| source | bits per LR pixel | bicubic |",
        "|---|---|---|",
        "| clips, uncompressed | - | 24.00 / 0.6250 |",
        "| clips, x264 crf 28 | 0.183 | 22.00 / 0.5000 / 61.2 / 55.0 |",
    ]
