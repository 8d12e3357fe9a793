from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from srtrt.errors import TrainingError
from srtrt.networks.generator import Generator
from srtrt.networks.initialise import initialise_as_interpolation
from srtrt.networks.vgg import load_vgg
from srtrt.train.config import TrainConfig
from srtrt.train.data import Batch
from srtrt.train.distributed import World
from srtrt.train.loop import Trainer
from srtrt.train.networks import build_discriminator
from srtrt.train.pictures import Pictures
from srtrt.train.update import (
    Update,
    adversarial_loss,
    discriminator_loss,
    learning_rate,
)

CPU = torch.device("cpu")
TINY = [
    "generator.blocks=1", "generator.features=8", "data.batch=2", "data.patch=8",
    "discriminator.features=4", "run.precision=fp32", "schedule.warmup_steps=0",
]  # fmt: skip


def settings(*more: str) -> TrainConfig:
    return TrainConfig().with_settings([*TINY, *more])


def make(config: TrainConfig, content: torch.nn.Module | None = None) -> Update:
    torch.manual_seed(0)
    net = Generator(config.generator)
    initialise_as_interpolation(net)
    judge = build_discriminator(config)
    return Update(config, net, judge, content, device=CPU, world=World())


def batch(size: int = 2) -> Batch:
    draws = torch.Generator().manual_seed(9)
    hr = torch.rand(size, 3, 32, 32, generator=draws)
    return Batch(lr=functional.avg_pool2d(hr, 4), hr=hr)


def test_schedules() -> None:
    cosine = settings("schedule.warmup_steps=10")
    assert learning_rate(cosine, 1.0, 0, 1000) == pytest.approx(0.1)
    assert learning_rate(cosine, 1.0, 500, 1000) == pytest.approx(0.5)
    assert learning_rate(cosine, 1.0, 1000, 1000) == pytest.approx(0.0)
    halves = settings("schedule.decay=halves", "schedule.halve_at=[0.5, 0.75]")
    rates = [learning_rate(halves, 1.0, step, 100) for step in (0, 49, 50, 74, 75, 99)]
    assert rates == [1, 1, 0.5, 0.5, 0.25, 0.25]
    constant = settings("schedule.decay=constant")
    assert learning_rate(constant, 0.3, 99, 100) == 0.3


def test_a_run_with_a_tail_can_be_cut_anywhere() -> None:
    tail = settings("schedule.decay=tail", "schedule.tail=0.2", "schedule.warmup_steps=10")
    rates = [learning_rate(tail, 1.0, step, 1000) for step in range(1001)]
    assert rates[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert set(rates[10:801]) == {1.0}
    assert rates[900] == pytest.approx(0.5)
    assert rates[1000] == 0
    assert rates[800:] == sorted(rates[800:], reverse=True)
    # What was done before the tail of a shorter run is what a longer one does, too.
    assert [learning_rate(tail, 1.0, step, 5000) for step in range(800)] == rates[:800]


def test_adversarial_losses_are_those_of_their_papers() -> None:
    real, fake, labels = torch.tensor([[2.0], [0.5]]), torch.tensor([[-1.0], [0.3]]), torch.ones(2)
    log_sigmoid = functional.logsigmoid
    plain = discriminator_loss(real, fake, labels=labels, relative_to=None)
    expected = -0.5 * (log_sigmoid(real).mean() + log_sigmoid(-fake).mean())
    assert plain == pytest.approx(float(expected))
    relative = discriminator_loss(real, fake, labels=labels, relative_to=torch.mean)
    apart = -log_sigmoid(real - fake.mean()).mean() - log_sigmoid(real.mean() - fake).mean()
    assert relative == pytest.approx(0.5 * float(apart))
    assert adversarial_loss(None, fake, relative_to=None) == pytest.approx(
        -float(log_sigmoid(fake).mean())
    )
    ours = -log_sigmoid(fake - real.mean()).mean() - log_sigmoid(fake.mean() - real).mean()
    assert adversarial_loss(real, fake, relative_to=torch.mean) == pytest.approx(0.5 * float(ours))


def test_the_generator_loss_is_the_weighted_sum(vgg_file: Path) -> None:
    config = settings(
        "loss.pixel_weight=0.5", "loss.content_weight=2", "loss.content_layer=block1_conv2",
        "loss.adversarial_weight=0.25", "loss.pixel=mse",
    )  # fmt: skip
    losses = make(config, load_vgg(vgg_file, "block1_conv2"))(batch(), 0, 10)
    total = 0.5 * losses["pixel"] + 2 * losses["content"] + 0.25 * losses["adversarial"]
    assert float(losses["generator"]) == pytest.approx(float(total), rel=1e-5)
    assert all(value > 0 for value in losses.values())


def norms(update: Update) -> list[torch.nn.BatchNorm2d]:
    modules = update.networks["generator"].modules()
    return [m for m in modules if isinstance(m, torch.nn.BatchNorm2d)]


def test_frozen_batchnorm_keeps_its_statistics_and_trains_its_gains() -> None:
    update = make(settings("schedule.freeze_batchnorm_share=0.4", "schedule.learning_rate=1e-3"))
    seen = [[norm.running_var.clone() for norm in norms(update)]]  # type: ignore[union-attr]
    gains = []
    for step in range(10):
        update(batch(), step, 10)
        seen.append([norm.running_var.clone() for norm in norms(update)])  # type: ignore[union-attr]
        gains.append([norm.weight.detach().clone() for norm in norms(update)])
    for step in range(10):
        moved = [not torch.equal(a, b) for a, b in zip(seen[step], seen[step + 1], strict=True)]
        assert all(moved) if step < 6 else not any(moved)
    assert all(not torch.equal(a, b) for a, b in zip(gains[6], gains[9], strict=True))


def test_frozen_batchnorm_normalises_as_in_use() -> None:
    """With its rate at zero, what the generator loses in training is what it loses in use."""
    config = settings("schedule.freeze_batchnorm_share=0.5", "schedule.learning_rate=1e-12")
    torch.manual_seed(0)
    net = Generator(config.generator)  # one that BatchNorm matters to, unlike interpolation
    update = Update(config, net, None, None, device=CPU, world=World())
    losses = [float(update(batch(), step, 40)["pixel"]) for step in range(40)]
    with torch.no_grad():
        in_use = float(functional.l1_loss(net.eval()(batch().lr), batch().hr))
    assert losses[-1] == pytest.approx(in_use, rel=1e-5)
    assert losses[0] != pytest.approx(in_use, rel=1e-5)


def test_the_pixel_loss_ends_as_mean_squared_error() -> None:
    late = settings("loss.final_mse_share=0.5", "loss.final_mse_weight=8")
    plain, squared = make(settings()), make(settings("loss.pixel=mse"))
    update = make(late)
    first = float(update(batch(), 4, 10)["pixel"])
    assert first == pytest.approx(float(plain(batch(), 4, 10)["pixel"]), rel=1e-6)
    update = make(late)
    last = float(update(batch(), 5, 10)["pixel"])
    assert last == pytest.approx(8 * float(squared(batch(), 5, 10)["pixel"]), rel=1e-6)


@pytest.mark.parametrize("kind", ["plain", "relativistic"])
def test_each_network_learns_from_its_own_loss(kind: str) -> None:
    config = settings(
        "loss.adversarial_weight=0.1", f"loss.adversarial={kind}",
        "discriminator.learning_rate=1e-3", "schedule.learning_rate=1e-6", "data.batch=4",
    )  # fmt: skip
    update, data = make(config), batch(4)
    before = {k: v.clone() for k, v in update.networks["discriminator"].state_dict().items()}
    first = update(data, 0, 10)
    for _ in range(30):
        last = update(data, 0, 10)
    assert last["discriminator"] < 0.7 * first["discriminator"]
    assert last["adversarial"] > first["adversarial"]
    after = update.networks["discriminator"].state_dict()
    assert any(not torch.equal(before[k], after[k]) for k in before)
    assert all(p.requires_grad for p in update.networks["discriminator"].parameters())


def test_label_noise_softens_the_real_labels() -> None:
    sharp = make(settings("loss.adversarial_weight=0.1"))
    soft = make(settings("loss.adversarial_weight=0.1", "discriminator.label_noise=0.4"))
    losses = [float(update(batch(), 0, 10)["discriminator"]) for update in (sharp, soft)]
    assert losses[0] != losses[1]


def test_accumulation_gives_the_gradient_of_the_whole_batch() -> None:
    whole, parts = (
        make(settings("data.batch=4")),
        make(settings("data.batch=4", "schedule.accumulate=2")),
    )
    for update in (whole, parts):
        for module in update.networks["generator"].modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                # Without batch statistics the two must agree to rounding.
                module.track_running_stats = False
                module.momentum = 0.0
    losses = [update(batch(4), 0, 10) for update in (whole, parts)]
    torch.testing.assert_close(losses[0]["pixel"], losses[1]["pixel"], atol=2e-3, rtol=0)
    moved = [u.networks["generator"].tail.weight for u in (whole, parts)]
    start = make(settings("data.batch=4")).networks["generator"].tail.weight
    assert not torch.equal(moved[1], start)
    torch.testing.assert_close(moved[0], moved[1], atol=5e-4, rtol=0)


def trainer(folder: Path, out: Path, *more: str) -> Trainer:
    config = settings("run.log_every=2", *more)
    return Trainer(config, Pictures.open([folder], config), out, device=CPU)


def test_a_loss_that_is_not_a_number_stops_before_anything_is_saved(
    picture_folder: Path, tmp_path: Path
) -> None:
    run = trainer(picture_folder, tmp_path, "schedule.length=8", "run.save_every=1")
    with torch.no_grad():
        run.net.tail.bias.fill_(math.nan)  # type: ignore[union-attr]
    with pytest.raises(TrainingError, match=r"the loss is nan at step 1\. .*learning_rate"):
        run.run()
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_loss_that_explodes_stops_and_leaves_the_earlier_states(
    picture_folder: Path, tmp_path: Path
) -> None:
    run = trainer(picture_folder, tmp_path, "schedule.length=60", "run.save_every=2")

    def spoil() -> bool:
        if run.step == 20:
            with torch.no_grad():
                run.net.tail.bias.add_(50)  # type: ignore[union-attr,operator]
        return False

    with pytest.raises(TrainingError, match=r"at step 22, more than 10 times its usual value"):
        run.run(should_stop=spoil)
    assert [p.name for p in run.folder.states()] == [
        "state-00000020.safetensors", "state-00000018.safetensors",
    ]  # fmt: skip


def test_a_full_disk_keeps_the_earlier_states(
    picture_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from srtrt.errors import OutputError
    from srtrt.train import state

    run = trainer(picture_folder, tmp_path, "schedule.length=8", "run.save_every=2", "run.keep=1")
    real = state.save

    def full(tensors: object, metadata: object) -> bytes:
        if run.step == 6:
            raise OSError(28, "No space left on device")
        return real(tensors, metadata=metadata)  # type: ignore[arg-type]

    monkeypatch.setattr(state, "save", full)
    with pytest.raises(OutputError, match=r"No space left on device.*earlier states"):
        run.run()
    assert [p.name for p in (tmp_path / "states").iterdir()] == ["state-00000004.safetensors"]
