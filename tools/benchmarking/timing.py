"""Several sides timed in turns, in one run, so that what disturbs the machine disturbs all of them."""

import dataclasses
import gc
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

try:
    import resource
except ImportError:  # no Unix
    resource = None

TURN_SECONDS = 0.005  # of calls that are timed in a turn, at least one
SETTLE_SECONDS = 0.1  # after a turn with several threads: their pools spin for a while, on all cores
WARM_UP_CALLS = 3
PATIENCE = 4  # times as many calls in a turn as are needed, for some that no other process interrupts


@dataclasses.dataclass(frozen=True)
class Contestant:
    """``run()`` computes on ``threads`` threads."""

    name: str
    threads: int
    run: Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of each call, [round][call], rounds may be empty, and how many calls other processes interrupted."""

    rounds: list[list[float]]
    interrupted: int = 0

    @property
    def calls(self) -> list[float]:
        return sorted(seconds for turn in self.rounds for seconds in turn)

    @property
    def median(self) -> float:
        return statistics.median(self.calls)

    def quantile(self, q: float) -> float:
        """The smallest time that at least a share ``q`` of the calls does not exceed."""
        return self.calls[max(0, math.ceil(q * len(self.calls)) - 1)]

    def ratio(self, reference: "Times") -> float:
        """How many times as long as ``reference``: the median over the rounds, each round against itself."""
        pairs = [(a, b) for a, b in zip(self.rounds, reference.rounds, strict=True) if a and b]
        pairs = pairs or [(self.calls, reference.calls)]
        return statistics.median(statistics.median(a) / statistics.median(b) for a, b in pairs)


def interruptions() -> int:
    """How often other processes took a core from this one; 0 where the system does not tell."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw if resource else 0


class Timer:
    """Times contestants in turns. Calls that were interrupted do not count, where a contestant has others: a busy
    machine would lengthen long calls alone. The other arguments stand in for the system in tests.
    """

    def __init__(
        self,
        rounds: int,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], Any] = time.sleep,
        interruptions: Callable[[], int] = interruptions,
    ):
        self.rounds, self._clock, self._sleep, self._interruptions = rounds, clock, sleep, interruptions

    def measure(self, contestants: Sequence[Contestant]) -> list[Times]:
        """The times of each contestant, without Python's garbage collector; threads and collector are as they were."""
        threads, collecting = torch.get_num_threads(), gc.isenabled()
        gc.disable()
        try:
            calls = [self._calls_a_turn(c) for c in contestants]
            found = [[] for _ in contestants]
            for index in range(self.rounds):
                for i in turns(len(contestants), index):
                    found[i].append(self._turn(contestants[i], calls[i]))
        finally:
            torch.set_num_threads(threads)
            if collecting:
                gc.enable()
        return [_times(turns_of_one) for turns_of_one in found]

    def _call(self, contestant: Contestant) -> float:
        start = self._clock()
        contestant.run()
        return self._clock() - start

    def _calls_a_turn(self, contestant: Contestant) -> int:
        torch.set_num_threads(contestant.threads)
        fastest = min(self._call(contestant) for _ in range(WARM_UP_CALLS))
        return max(1, math.ceil(TURN_SECONDS / max(fastest, 1e-6)))

    def _turn(self, contestant: Contestant, calls: int) -> tuple[list[float], list[float]]:
        """Seconds of ``calls`` calls that were not interrupted, or fewer, and of those that were."""
        torch.set_num_threads(contestant.threads)
        contestant.run()  # what the sides before it left in the caches is not its own
        calm, interrupted = [], []
        while len(calm) < calls and len(calm) + len(interrupted) < PATIENCE * calls:
            before = self._interruptions()
            seconds = self._call(contestant)
            (calm if self._interruptions() == before else interrupted).append(seconds)
        if contestant.threads > 1:
            self._sleep(SETTLE_SECONDS)
        return calm, interrupted


def _times(turns_of_one: Sequence[tuple[list[float], list[float]]]) -> Times:
    """From the calm and the interrupted calls of each turn."""
    any_calm = any(calm for calm, _ in turns_of_one)
    rounds = [calm if any_calm else interrupted for calm, interrupted in turns_of_one]
    return Times(rounds, sum(len(interrupted) for _, interrupted in turns_of_one))


def turns(count: int, index: int) -> list[int]:
    """Whose turn it is in round ``index``: another one starts each time, and every second round runs backwards."""
    order = [(i + index // 2) % count for i in range(count)]
    return order[::-1] if index % 2 else order
