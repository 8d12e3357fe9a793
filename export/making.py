"""Making the graphs of one model in every form and precision, and measuring them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onnx import ModelProto

from srtrt.canonical import graph_sha256
from srtrt.errors import ModelError, ParityError
from srtrt.export.sensitivity import choose_layers
from srtrt.graph import REDUCED_TYPES, dress, load_graph, to_typed
from srtrt.graph_spec import read_spec
from srtrt.runtime.lost_quality import measure_on_originals
from srtrt.runtime.models import Model
from srtrt.runtime.parity import (
    GATES,
    Parity,
    Picture,
    graph_backend,
    measure_parity,
    passes,
    reference_backend,
    shortfall,
)
from srtrt.spec import Form, ModelSpec, Precision

QUANTISED: tuple[Precision, ...] = ("int8", "fp8")
"""Precisions that are calibrated, and judged against ground truth as well."""

_FINER: tuple[Precision, ...] = ("bf16", "fp16", "fp32")
"""What is tried in place of a precision that misses its gate, the nearest first."""


@dataclass(frozen=True, kw_only=True)
class MadeGraph:
    """A graph that passed its gate, with the figures in the spec inside."""

    graph: ModelProto
    spec: ModelSpec
    parity: Parity


class GraphMaker:
    """Makes graphs of one model; what several forms share is made once."""

    def __init__(
        self,
        source: Model,
        network: ModelProto,
        spec: ModelSpec,
        forms: Sequence[Form],
        pictures: Sequence[Picture],
        *,
        originals: Sequence[Picture],
        calibrate: Path | None = None,
        on_progress: Callable[[str], None] | None = None,
    ) -> None:
        """Sets out what to make.

        Args:
            source: the model with its checkpoint, the reference.
            network: its graph from ``lr`` to ``sr``, float32.
            spec: facts about it.
            forms: all must pass with the same layers kept in float32.
            pictures: LR pictures to compare on.
            originals: HR pictures, ground truth for what 8 bits lose.
            calibrate: folder of photographs for ``int8`` and ``fp8``.
            on_progress: told a few words before each step of what takes long.
        """
        self._source, self._spec, self._forms = source, spec, forms
        self._pictures, self._originals, self._calibrate = pictures, originals, calibrate
        self._tell = on_progress or (lambda _text: None)
        self._networks: dict[Precision, tuple[ModelProto, dict[str, Any]]] = {"fp32": (network, {})}
        self._parities: dict[tuple[Form, Precision, frozenset[str]], Parity] = {}

    def make(self, form: Form, precision: Precision) -> MadeGraph:
        """The graph in a form and precision, compared with PyTorch float32.

        Raises:
            ParityError: if it misses its gate, with the nearest precision that passes.
            InputError: if pictures are missing or too small.
            ModelError: if the network cannot be converted.
            MissingPackageError: if a package for it is not installed.
        """
        try:
            return self._passing(form, precision)
        except ParityError as error:
            advice = self._advice(form, precision)
            raise ParityError(f"{error} {advice} It was not written.") from error

    def _passing(self, form: Form, precision: Precision) -> MadeGraph:
        network, facts = self._network(precision)
        kept = frozenset(facts.get("typed", {}).get("kept", ()))
        parity = self._parity(network, form, precision, kept)
        what = f"{self._source.name} as {form} {precision}"
        if kept:
            what += f" with {len(kept)} layers in fp32"
        problem = shortfall(parity, precision, what)
        if problem:
            raise ParityError(problem)
        figures = {"against": "PyTorch fp32", "engine": "onnxruntime", **parity.to_dict()}
        quality = {**self._spec.quality, **facts, "parity": figures}
        spec = self._spec.with_(form=form, precision=precision, quality=quality)
        return MadeGraph(graph=dress(network, spec, form), spec=spec, parity=parity)

    def same(self, path: Path, form: Form, precision: Precision) -> MadeGraph | None:
        """The graph in a file, if it is what :meth:`make` would make, and was verified.

        Layers kept in float32 are those the file names: with them the graph is made and compared.
        """
        graph, spec = load_graph(path)
        figures = spec.quality.get("parity")
        if (spec.form, spec.precision) != (form, precision) or not isinstance(figures, dict):
            return None
        if precision in QUANTISED:
            if self._bundled(precision) is None:
                return None  # calibrating again would hardly give the same
            network, _ = self._network(precision)
        else:
            network, _ = self._networks["fp32"]
            if precision != "fp32":
                kept = spec.quality.get("typed", {}).get("kept", ())
                try:
                    network = to_typed(network, self._spec, precision, kept)
                except ModelError:  # it names layers that are none
                    return None
        made = dress(network, self._spec.with_(precision=precision), form)
        if graph_sha256(made) != graph_sha256(graph):
            return None
        try:
            parity = Parity.from_dict(figures)
        except (KeyError, TypeError, ValueError):
            return None
        return MadeGraph(graph=graph, spec=spec, parity=parity)

    def _bundled(self, precision: Precision) -> ModelProto | None:
        """The calibrated graph that comes with a bundled model, unless pictures were given."""
        path = self._source.calibrated_paths.get(precision)
        return None if path is None or self._calibrate is not None else load_graph(path)[0]

    def _advice(self, form: Form, precision: Precision) -> str:
        """A sentence with the nearest precision that passes, found by making it."""
        for other in _FINER:
            if GATES[other].psnr_db <= GATES[precision].psnr_db:
                continue
            try:
                made = self._passing(form, other)
            except ParityError:
                continue
            return f"The nearest precision that passes is {other}: {made.parity}."
        return "No higher precision passes."

    def _network(self, precision: Precision) -> tuple[ModelProto, dict[str, Any]]:
        """The network in a precision, and what its spec says about it."""
        if precision not in self._networks:
            make = self._typed if precision in REDUCED_TYPES else self._quantised
            self._networks[precision] = make(precision)
        return self._networks[precision]

    def _typed(self, precision: Precision) -> tuple[ModelProto, dict[str, Any]]:
        network, _ = self._networks["fp32"]

        def judge(kept: frozenset[str]) -> bool:
            typed = to_typed(network, self._spec, precision, kept)
            return all(
                passes(self._parity(typed, form, precision, kept), precision)
                for form in self._forms
            )

        choice = choose_layers(network, self._spec, precision, self._pictures, judge, self._tell)
        typed = to_typed(network, self._spec, precision, choice.kept)
        return typed, {"typed": choice.to_dict()}

    def _quantised(self, precision: Precision) -> tuple[ModelProto, dict[str, Any]]:
        from srtrt.export.quantised import calibration_pictures, quantised_network

        bundled = self._bundled(precision)
        if bundled is not None:  # so that an engine of it is the one that is looked for
            facts = read_spec(bundled, self._source.name).quality["quantisation"]
            return bundled, {"quantisation": facts}
        pictures = calibration_pictures(self._calibrate)
        network, facts = quantised_network(
            self._networks["fp32"][0], precision, pictures, on_progress=self._tell
        )
        return network, {"quantisation": facts}

    def _parity(
        self, network: ModelProto, form: Form, precision: Precision, kept: frozenset[str]
    ) -> Parity:
        key = (form, precision, kept)
        if key not in self._parities:
            self._tell(f"comparing {form} {precision} with PyTorch")
            graph = dress(network, self._spec.with_(precision=precision), form)
            with (
                reference_backend(self._source, form) as reference,
                graph_backend(self._source.name, graph, form, precision) as candidate,
            ):
                parity = measure_parity(reference, candidate, self._pictures)
                if precision in QUANTISED:
                    lost = measure_on_originals(reference, candidate, self._originals).lost_db
                    parity = replace(parity, lost_db=lost)
            self._parities[key] = parity
        return self._parities[key]
