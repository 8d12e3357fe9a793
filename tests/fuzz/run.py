"""Feeds srtrt with damaged and hostile files of every kind that it reads.

    python tests/fuzz/run.py --kind all --count 10000 --seed 1 --jobs 2 --json fuzz.json
    python tests/fuzz/run.py --seed 1 --only video:417        # one case again, in the foreground

Valid files are made first (``seeds.py``; ``--seeds DIR`` adds files of yours). Each case damages
one, decided by its kind, the seed and its index alone, and runs the real command on it in a forked
child with 6 GiB of address space, 20 s, and folders of its own; a nearest-neighbour enlargement
stands in where the network does not matter. What counts as wrong is in ``verdicts.py``:
tracebacks and status 70, signals, hangs, files that are left, and last lines that are no sentence.
``--strace N`` follows N cases of each kind through strace as well: they may open nothing but what
they were given. The exit status is 1 if anything was wrong; ``--keep DIR`` keeps the damaged files.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"  # threads do not survive a fork

from fuzz import forks, opened
from fuzz.case import Case, Corpus, seeded
from fuzz.kinds import KINDS
from fuzz.verdicts import Fault, faults

_HERE = Path(__file__).parent
_FURTHER_PACKAGES = ("opencv-python-headless", "pillow", "pyyaml", "safetensors")
_ENDINGS = {0: "done", 1: "refused", 2: "refused"}
_LISTED, _TOLD = 50, 500
_REMARK = re.compile("warning|note|damage|rebuilt|skipped|breaks|verifying")
"""What is said where a damaged file was used as far as it went; such a count is no fault, as damage
may be where nothing can notice it: in a comment, or in samples without a checksum."""


class Fuzzer:
    """Makes cases, runs them, and counts what is wrong with them."""

    def __init__(
        self, work: Path, *, seed: int, extra: Sequence[Path] = (), keep: Path | None = None
    ) -> None:
        """Makes the valid files, unless they are there.

        Args:
            work: folder for all files; its path is part of some of them.
            seed: decides every case together with its kind and index.
            extra: further valid files.
            keep: folder that gets the files of faulty cases.
        """
        self.work, self.seed, self.keep = work, seed, keep
        self.corpus = Corpus(folder=make_corpus(work / "corpus"), extra=tuple(extra))
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)
        self.found: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
        self.slowest: dict[str, tuple[float, str]] = defaultdict(lambda: (0.0, ""))
        self.processor_seconds: dict[str, float] = defaultdict(float)
        self.memory: dict[str, int] = defaultdict(int)
        self.done = 0
        forks.import_everything()

    def case(self, kind: str, index: int) -> Case:
        """Makes one case and its files."""
        folder = self.work / "cases" / f"{kind}-{index:06d}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        case = Case(folder=folder, corpus=self.corpus, rng=seeded(kind, self.seed, index))
        (folder / "planted").mkdir()
        (folder / "planted" / "secret").write_bytes(b"what nobody else may read" * 200)
        KINDS[kind][0](case)
        return case

    def run(self, which: Sequence[tuple[str, int]], *, jobs: int, strace: bool = False) -> None:
        """Runs cases and counts."""
        names = {}

        def cases() -> Iterator[Case]:
            for kind, index in which:
                case = self.case(kind, index)
                names[case.folder] = (kind, index)
                yield case

        for case, outcome in forks.run_all(
            cases(), jobs=jobs, traced=opened.trace if strace else None
        ):
            kind, index = names.pop(case.folder)
            wrong = faults(case, outcome)
            if any(fault.verdict == "internal" for fault in wrong):
                wrong = self._with_debug(kind, index) or wrong
            if strace:
                wrong += [
                    Fault(verdict="opened", where=name) for name in opened.strangers(case)[:3]
                ]
                opened.log_path(case).unlink()
                self.counts[kind]["traced"] += 1
            self._count(kind, index, case, outcome, wrong)
            forks.clear(case)
            self.done += 1
            if self.done % _TOLD == 0:
                print(f"{self.done} cases, {len(self.found)} faults", file=sys.stderr, flush=True)

    def _with_debug(self, kind: str, index: int) -> list[Fault]:
        """What is wrong with a case whose traceback is shown: it tells where."""
        case = self.case(kind, index)
        case.words.insert(0, "--debug")
        for _, outcome in forks.run_all([case], jobs=1):
            return faults(case, outcome)
        return []

    def _count(
        self, kind: str, index: int, case: Case, outcome: forks.Outcome, wrong: list[Fault]
    ) -> None:
        counts = self.counts[kind]
        counts["cases"] += 1
        counts[_ENDINGS.get(outcome.status, "killed" if outcome.late else "other")] += 1
        if outcome.status == 0 and not case.whole and not _REMARK.search(outcome.stderr):
            counts["done without remark"] += 1
        self.slowest[kind] = max(self.slowest[kind], (outcome.seconds, f"{kind}:{index}"))
        self.processor_seconds[kind] += outcome.processor_seconds
        self.memory[kind] = max(self.memory[kind], outcome.memory_bytes)
        if wrong and self.keep is not None:
            shutil.copytree(case.folder, self.keep / case.folder.name, dirs_exist_ok=True)
            (self.keep / case.folder.name / "stderr.txt").write_text(outcome.stderr)
        for fault in wrong:
            counts[fault.verdict] += 1
            self.found[kind, fault.verdict, fault.where].append(
                {
                    "case": f"{kind}:{index}",
                    "file": case.seed_file,
                    "command": " ".join(case.words),
                    "last": outcome.stderr[-300:],
                }
            )

    def faulty(self) -> int:
        """How many different faults were found."""
        return len(self.found)

    def report(self) -> dict[str, Any]:
        """Counts by kind, and each different fault with its first cases."""
        from srtrt.benchmarks.report import machine_facts
        from srtrt.packages import installed

        machine = machine_facts()
        machine["packages"] |= {name: installed(name) for name in _FURTHER_PACKAGES}
        return {
            "benchmark": "fuzz",
            "machine": machine,
            "seed": self.seed,
            "limits": {"memory_bytes": forks.MEMORY_BYTES, "seconds": forks.WALL_SECONDS},
            "kinds": {kind: dict(counts) for kind, counts in sorted(self.counts.items())},
            "slowest_seconds": {name: round(s, 1) for s, name in self.slowest.values()},
            "processor_seconds": {kind: round(s) for kind, s in self.processor_seconds.items()},
            "most_memory_mib": {kind: size >> 20 for kind, size in sorted(self.memory.items())},
            "faults": [
                {
                    "kind": kind,
                    "verdict": verdict,
                    "where": where,
                    "times": len(cases),
                    "cases": cases[:5],
                }
                for (kind, verdict, where), cases in sorted(self.found.items())
            ],
        }


def make_corpus(folder: Path) -> Path:
    """The folder of valid files, made by a process of its own if need be."""
    if not (folder / "complete").exists():
        command = [sys.executable, str(_HERE / "seeds.py"), str(folder)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            sys.exit(f"the valid files could not be made:\n{done.stderr[-3000:]}")
    return folder


def mixed(count: int) -> list[tuple[str, int]]:
    """So many cases of all kinds by their shares, well mixed."""
    total = sum(share for _, share in KINDS.values())
    numbers = {kind: -(-count * share // total) for kind, (_, share) in KINDS.items()}
    cases = [(i / n, kind, i) for kind, n in numbers.items() for i in range(n)]
    return [(kind, index) for _, kind, index in sorted(cases)]


def work_folder() -> tuple[Path, Any]:
    """A folder whose path is the same each time, unless another run uses it; and its lock."""
    for number in range(10):
        folder = Path(tempfile.gettempdir()) / f"srtrt-fuzz-{os.geteuid()}-{number}"
        folder.mkdir(mode=0o700, exist_ok=True)
        lock = (folder / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return folder, lock
        except BlockingIOError:
            lock.close()
    sys.exit("ten runs are going on already")


def main() -> int:
    arguments = _arguments()
    folder, _lock = (arguments.work, None) if arguments.work else work_folder()
    extra = [path for root in arguments.seeds for path in sorted(root.rglob("*")) if path.is_file()]
    if arguments.fresh:
        shutil.rmtree(folder / "corpus", ignore_errors=True)
    fuzzer = Fuzzer(folder, seed=arguments.seed, extra=extra, keep=arguments.keep)
    if arguments.only:
        kind, _, index = arguments.only.partition(":")
        case = fuzzer.case(kind, int(index))
        print(f"{case.seed_file}: cd {case.folder}; srtrt {' '.join(case.words)}", flush=True)
        for _, outcome in forks.run_all([case], jobs=1):
            print(f"{outcome.stdout}{outcome.stderr}\n{outcome.status=} {outcome.seconds:.2f} s")
            print(*faults(case, outcome), sep="\n")
        return 0
    kinds = list(KINDS) if arguments.kind == ["all"] else arguments.kind
    started = time.monotonic()
    if arguments.kind == ["all"]:
        which = mixed(arguments.count)
    else:
        which = [(kind, index) for index in range(arguments.count) for kind in kinds]
    which = [(kind, index + arguments.start) for kind, index in which]
    if arguments.strace and not opened.available():
        sys.exit("--strace needs strace, and the right to follow processes")
    try:
        fuzzer.run(which, jobs=arguments.jobs)
        sample = [(kind, index) for index in range(arguments.strace) for kind in kinds]
        fuzzer.run(sample, jobs=arguments.jobs, strace=True)
    except KeyboardInterrupt:
        print("interrupted; this was found so far:", file=sys.stderr)
    report = fuzzer.report() | {"minutes": round((time.monotonic() - started) / 60, 1)}
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    _show(report)
    return int(fuzzer.faulty() > 0)


def _arguments() -> Any:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", nargs="+", default=["all"], choices=["all", *KINDS])
    parser.add_argument("--count", type=int, default=1000, help="cases in all; of each named kind")
    parser.add_argument("--start", type=int, default=0, help="first index")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", metavar="KIND:INDEX", help="one case, in the foreground")
    parser.add_argument("--seeds", type=Path, action="append", default=[], metavar="DIR")
    parser.add_argument("--strace", type=int, default=0, metavar="N", help="trace N of each kind")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="for the files of faulty cases")
    parser.add_argument("--work", type=Path, metavar="DIR", help="for all files")
    parser.add_argument("--fresh", action="store_true", help="make the valid files anew")
    return parser.parse_args()


def _show(report: dict[str, Any]) -> None:
    for kind, counts in report["kinds"].items():
        print(f"{kind}: {', '.join(f'{name} {n}' for name, n in counts.items())}")
    for fault in report["faults"][:_LISTED]:
        first = fault["cases"][0]
        print(f"{fault['verdict']} x{fault['times']} {first['case']} ({first['file']})")
        print(f"  {fault['where']}")
    print(f"{len(report['faults'])} different faults in {report['minutes']} minutes")


if __name__ == "__main__":
    sys.exit(main())
