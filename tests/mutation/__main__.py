"""Changes one operator, number or keyword of a core module, and asks whether its nearest tests notice.

PYTHONPATH=tests python -m mutation --mutants 160 --seed 0 --results build/mutation

Mutants are numbered and the same everywhere. What --results knows already is not run again, so that a cut run goes on
where it was; `--first N --mutants 1` repeats number N alone. Needs cosmic-ray, of the extra `dev`.
"""

import argparse
import collections
import dataclasses
import json
import sys
from pathlib import Path

from .driver import ENDLESS, KILLED, SURVIVED, run, warm_up
from .equivalent import EQUIVALENT
from .mutants import Mutant, sample
from .nearest_tests import NEAREST, nearest

ROOT = Path(__file__).resolve().parent.parent.parent
LEAST_SECONDS = 60  # of processor time for a mutant, whatever its tests take


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=160, help="how many (default %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="the first one's number (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another has other mutants (default %(default)s)")
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "mutation", help="a directory for results")
    parser.add_argument("--again", action="store_true", help="run those that survived once more, and only these")
    return parser.parse_args()


def main() -> int:
    args = parse()
    args.results.mkdir(parents=True, exist_ok=True)
    mutants = sample(ROOT, NEAREST, args.first + args.mutants, args.seed)[args.first :]
    results = Results(args.results / "results.jsonl")
    warm_up()
    for mutant in mutants:
        known = results.of(mutant)
        if known is None or (args.again and known == SURVIVED and not reason(mutant)):
            results.add(mutant, _outcome(mutant, results, args.results))
            print(f"{results.of(mutant)}: {mutant}", flush=True)
    counts = collections.Counter(results.of(mutant) for mutant in mutants)
    survivors = [mutant for mutant in mutants if results.of(mutant) == SURVIVED]
    unexplained = [mutant for mutant in survivors if not reason(mutant)]
    print(
        f"{len(mutants)} mutants: {counts[KILLED] + counts[ENDLESS]} killed, {counts[SURVIVED]} survived, of which "
        f"{len(survivors) - len(unexplained)} compute the same"
    )
    for mutant in unexplained:
        print(f"survived: {mutant}")
    return bool(unexplained)


def reason(mutant: Mutant) -> str:
    """Why it computes what the module does, "" where that is not known."""
    return EQUIVALENT.get((mutant.module, mutant.after), "")


def _outcome(mutant: Mutant, results: "Results", directory: Path) -> str:
    seconds = results.seconds(mutant.module)
    tests, log = nearest(mutant.module), directory / "last.log"
    if seconds is None:  # the module as it is has to pass
        outcome, seconds = run(ROOT, mutant.module, (ROOT / mutant.module).read_text(), tests, 3600, log)
        if outcome != SURVIVED:
            sys.exit(f"the tests of {mutant.module} fail without any change: see {log}")
        results.add_seconds(mutant.module, seconds)
    return run(ROOT, mutant.module, mutant.source, tests, LEAST_SECONDS + int(3 * seconds), log)[0]


class Results:
    """What became of mutants, and how long the tests of a module take, in a file of JSON lines."""

    def __init__(self, path: Path):
        self.path = path
        self._outcomes: dict[str, str] = {}
        self._seconds: dict[str, float] = {}
        for line in path.read_text().splitlines() if path.exists() else ():
            self._take(json.loads(line))

    def of(self, mutant: Mutant) -> str | None:
        return self._outcomes.get(str(mutant))

    def seconds(self, module: str) -> float | None:
        return self._seconds.get(module)

    def add(self, mutant: Mutant, outcome: str) -> None:
        shown = {key: value for key, value in dataclasses.asdict(mutant).items() if key != "source"}
        self._write({"mutant": str(mutant), "outcome": outcome, **shown})

    def add_seconds(self, module: str, seconds: float) -> None:
        self._write({"module": module, "seconds": round(seconds, 1)})

    def _write(self, entry: dict) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        self._take(entry)

    def _take(self, entry: dict) -> None:
        if "mutant" in entry:
            self._outcomes[entry["mutant"]] = entry["outcome"]
        else:
            self._seconds[entry["module"]] = entry["seconds"]


if __name__ == "__main__":
    sys.exit(main())
