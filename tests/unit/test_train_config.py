from __future__ import annotations

from pathlib import Path

import pytest

from srtrt.errors import InputError, SrtrtError, UsageError
from srtrt.train.config import TrainConfig, preset, preset_names, read_config


def test_settings_survive_yaml(tmp_path: Path) -> None:
    for name in preset_names():
        config = preset(name).with_settings(["data.batch=30", "schedule.halve_at=[0.25, 0.75]"])
        (tmp_path / "config.yaml").write_text(config.to_yaml())
        assert read_config(tmp_path / "config.yaml") == config
        assert config.schedule.halve_at == (0.25, 0.75)


def test_values_are_taken_as_people_write_them() -> None:
    config = TrainConfig().with_settings(
        ["schedule.learning_rate=1e-4", "loss.content_weight=1", "run.compile=on"]
    )
    assert config.schedule.learning_rate == 1e-4
    assert config.loss.content_weight == 1.0
    assert config.run.compile == "on"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("data.bacth=3", "did you mean 'data.batch'"),
        ("batch=3", "did you mean 'data.batch'"),
        ("steps=3", "unknown setting 'steps'"),
        ("schedule.learning-rate=1", "did you mean 'schedule.learning_rate'"),
        ("schedule.length=many", "expected a whole number"),
        ("schedule.length=1.5", "expected a whole number"),
        ("data.batch=true", "expected a whole number"),
        ("data.batch", "expected key=value"),
        ("data.batch=0", "data.batch is 0"),
        ("data.recolour=lots", "expected a number"),
        ("data.rendered=1", "data.rendered is 1"),
        ("data.rendered_pictures=0", "data.rendered_pictures is 0"),
        ("data.hard_share=-1", "data.hard_share is -1.0; expected a share from 0 to 1"),
        ("data.final_patch=2", "data.final_patch is 2; expected 4 to 4096"),
        ("data.final_patch_share=1.5", "data.final_patch_share is 1.5"),
        ("loss.final_mse_share=2", "loss.final_mse_share is 2"),
        ("loss.final_mse_weight=0", "loss.final_mse_weight is 0.0; expected more than 0"),
        ("loss.content_network=resnet", "expected one of vgg19, vgg16, lpips"),
        ("schedule.tail=0", "schedule.tail is 0.0; expected a share above 0"),
        ("schedule.freeze_batchnorm_share=7", "schedule.freeze_batchnorm_share is 7"),
        ("loss.pixel=huber", "loss.pixel is 'huber'; expected one of l1, mse"),
        ("loss.pixel_weight=0", "loss.pixel_weight is 0"),
        ("schedule.learning_rate=7", "schedule.learning_rate is 7"),
        ("schedule.halve_at=0.5", "expected a list"),
        ("schedule.accumulate=3", "a multiple of schedule.accumulate"),
        ("generator.upsampler=cubic", "generator.upsampler is 'cubic'"),
        ("generator.scale=2", "only 4 is supported"),
        ("degrade.clean_share=2", "clean_share"),
        ("schedule.epoch=update", "schedule.epoch is 'update'; expected one of pass, batch"),
        ("run.milestones=[0]", "run.milestones is"),
        ("loss.content_sha256=abc", "loss.content_sha256 is 'abc'; expected 64 hexadecimal"),
    ],
)
def test_wrong_settings_are_named(setting: str, message: str) -> None:
    with pytest.raises(SrtrtError) as caught:
        TrainConfig().with_settings([setting])
    assert message in str(caught.value)


@pytest.mark.parametrize("setting", ["data.final_patch=56", "data.hard_share=0.5"])
def test_whole_pictures_have_no_crops_to_choose(setting: str) -> None:
    with pytest.raises(UsageError, match=r"data\.mode whole, which cuts no patches"):
        TrainConfig().with_settings(["data.mode=whole", setting])


def test_files_that_are_no_configuration_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    with pytest.raises(InputError, match="no such file"):
        read_config(path)
    path.write_text("data: [")
    with pytest.raises(InputError, match="it is no YAML"):
        read_config(path)
    path.write_text("just words")
    with pytest.raises(InputError, match="expected sections"):
        read_config(path)
    path.write_text("dta: {batch: 3}")
    with pytest.raises(UsageError, match="unknown setting 'dta'"):
        read_config(path)
    with pytest.raises(UsageError, match="gan, psnr, report"):
        preset("esrgan")
