"""From the weights of a decay to a decision, and to what a release changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from srtrt.benchmarks.bundle import extra_metadata, measured_as, today
from srtrt.benchmarks.tools.colour import colour_correction
from srtrt.benchmarks.tools.private_split import link_folder, photograph
from srtrt.benchmarks.tools.release import (
    Candidate,
    Release,
    Repository,
    int8_set,
    prepare,
    refresh_int8,
    stale_results,
)
from srtrt.benchmarks.tools.session import Session, Trained
from srtrt.benchmarks.tools.stored import (
    StoredFacts,
    discriminator_path,
    manifest_sha256,
    read_stored,
    write_discriminator,
    write_stored,
)
from srtrt.benchmarks.tools.yardsticks import Measured, Sets, Yardstick, measure, verdict
from srtrt.files import file_sha256
from srtrt.networks.checkpoint import (
    generator_state,
    load_checkpoint,
    round_to_half,
    save_checkpoint,
    weights_sha256,
)
from srtrt.train.command_parts import stop_request

_COLOUR_PICTURES = 80
"""Photographs by which colours are corrected; one crop of each."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where and by whom."""

    repository: Repository
    folder: Path
    """Of the model's runs."""
    machine: str
    say: Callable[[str], None]


def decide_and_release(
    place: Place,
    session: Session,
    trained: Trained,
    judged_by: tuple[Yardstick, Sets, Measured],
    photographs: Sequence[Path],
) -> bool:
    """Measures what was trained and, if it is better, puts it in place.

    Returns:
        Whether it was released. If not, nothing in the repository has changed.
    """
    yardstick, sets, old = judged_by
    name, say = session.job.name, place.say
    corrected = place.folder / "candidate.safetensors"
    write_corrected(trained.checkpoint, corrected, photographs, say)
    new = measure(name, corrected, yardstick, sets, say)
    better, why = verdict(yardstick, old, new)
    if not better:
        say(f"{name}: not released: {why}. Nothing changed; the same command trains on.")
        return False
    say(f"{name}: released: {why}")
    facts = _facts(place, session, trained)
    candidate = Candidate(
        name=name,
        checkpoint=corrected,
        report=measured_as(name, corrected, sets.public),
        training=_training(corrected, place, facts),
        history=_history(session, trained, facts),
        calibrate=link_folder(photographs, place.folder / "links" / "calibration"),
        int8_data=int8_set(sets.public),
    )
    release = prepare(place.repository, candidate, place.folder / "release", say)
    _stage_stored(release, session, trained, facts)
    session.expect(file_sha256(release.place(session.job.stored)))
    with stop_request():  # not half of it
        changed = release.install()
        session.released(trained.constant.step)
    changed += refresh_int8(place.repository, name, sets.public)
    for path in dict.fromkeys(changed):
        say(f"changed: {path}")
    stale = stale_results(place.repository, name)
    if stale:
        say(f"{name}: still measured with its former weights: {', '.join(stale)}")
    say(f"{name}: look at the pictures, run the tests and commit; nothing was committed")
    return True


def write_corrected(
    source: Path, target: Path, photographs: Sequence[Path], say: Callable[[str], None]
) -> None:
    """Writes a checkpoint with its colours corrected."""
    net, spec = load_checkpoint(source)
    first = list({photograph(path): path for path in reversed(photographs)}.values())
    first = first[:: max(1, len(first) // _COLOUR_PICTURES)]
    correction, report = colour_correction(net, first)
    say(f"{spec.name}: {report}")
    state = round_to_half(generator_state(correction.applied(net)))
    stamped = spec.with_(weights_sha256=weights_sha256(state))
    save_checkpoint(target, state, stamped, extra=extra_metadata(source))


def _facts(place: Place, session: Session, trained: Trained) -> StoredFacts:
    _, before = read_stored(session.job.stored)
    return StoredFacts(
        updates=before.updates + trained.updates,
        hours=round((before.hours or 0) + trained.seconds / 3600, 2),
        machine=place.machine,
        settings=trained.constant.config.to_dict(),
        manifest_sha256=manifest_sha256(session.job.pictures.manifest()),
        note=before.note,
    )


def _training(checkpoint: Path, place: Place, facts: StoredFacts) -> dict[str, object]:
    _, spec = load_checkpoint(checkpoint)
    return {
        **spec.training,
        "machine": place.machine,
        "date": today(),
        "note": f"{facts.updates} updates at a constant rate in all, then a decay; see the card",
    }


def _history(session: Session, trained: Trained, facts: StoredFacts) -> str:
    config = trained.constant.config
    return (
        f"{today()}: {trained.updates:,} updates of {config.data.batch} patches at a constant "
        f"{config.schedule.learning_rate:g} and {trained.decay:,} of a decay, "
        f"{trained.seconds / 3600:.1f} hours, {facts.machine}, {config.run.precision}."
    )


def _stage_stored(release: Release, session: Session, trained: Trained, facts: StoredFacts) -> None:
    """Adds the weights at a constant rate, and the discriminator where there is one."""
    trainer, stored = trained.constant, session.job.stored
    averaged = trainer.average.network(trainer.net)
    write_stored(release.place(stored), averaged, facts)
    judge = trainer.update.networks.get("discriminator")
    if judge is not None:
        settings = asdict(trainer.config.discriminator)
        write_discriminator(release.place(discriminator_path(stored)), judge, settings)
