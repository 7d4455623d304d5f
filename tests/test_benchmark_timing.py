"""tools/benchmark.py: whose turn it is, and which calls count, on a clock of its own."""

import gc

import numpy as np
import pytest
import torch

from tools.benchmarking import timing
from tools.benchmarking.timing import Contestant, Timer, turns


class FakeMachine:
    """A clock that only contestants move on, and a log of who ran."""

    def __init__(self):
        self.now, self.slowness, self.interrupted = 0.0, 1.0, 0
        self.log, self.slept = [], []

    def contestant(self, name, seconds, threads=1, interrupts=lambda call: False):
        calls = iter(range(10**6))

        def run():
            self.log.append((name, torch.get_num_threads()))
            hit = interrupts(next(calls))
            self.interrupted += hit
            self.now += seconds * self.slowness * (10 if hit else 1)

        return Contestant(name, threads, run)

    def timer(self, rounds):
        return Timer(rounds, lambda: self.now, self.slept.append, lambda: self.interrupted)


def test_every_round_has_each_side_once_and_no_side_keeps_its_place():
    order = [turns(4, index) for index in range(8)]
    assert all(sorted(turn) == [0, 1, 2, 3] for turn in order)
    assert {turn[0] for turn in order} == {turn[-1] for turn in order} == {0, 1, 2, 3}
    followers = {pair for turn in order for pair in zip(turn, turn[1:], strict=False)}
    assert {(0, 1), (1, 0), (2, 3), (3, 2)} <= followers  # nobody always runs behind the same one


def test_sides_take_turns_after_a_warm_up():
    machine = FakeMachine()
    fast, slow = machine.contestant("fast", 0.002), machine.contestant("slow", 0.02)
    times = machine.timer(2).measure([fast, slow])
    turn_of_fast = ["fast"] * (1 + 3)  # one to warm up, three of 2 ms fill 5 ms
    warm_up = ["fast"] * timing.WARM_UP_CALLS + ["slow"] * timing.WARM_UP_CALLS
    assert [name for name, _ in machine.log] == [*warm_up, *turn_of_fast, "slow", "slow", "slow", "slow", *turn_of_fast]
    assert [len(turn) for turn in times[0].rounds] == [3, 3]
    assert [len(turn) for turn in times[1].rounds] == [1, 1]
    assert times[0].median == pytest.approx(0.002)
    assert times[1].ratio(times[0]) == pytest.approx(10)


def test_ratios_are_of_the_same_round():
    """A machine that becomes slower between rounds changes medians, not ratios."""
    ours = timing.Times([[1.0, 1.0], [5.0, 5.0], [9.0, 9.0]])
    theirs = timing.Times([[3.0], [15.0], [27.0]])
    assert theirs.ratio(ours) == 3
    assert ours.median == 5
    assert timing.Times([[], [15.0], []]).ratio(ours) == 3  # what was interrupted throughout
    assert timing.Times([[], [], [3.0]]).ratio(timing.Times([[1.0], [1.0], []])) == 3
    assert timing.Times([[4.0, 1.0], [3.0, 2.0, 5.0]]).quantile(0.8) == 4
    assert timing.Times([[4.0, 1.0], [3.0, 2.0, 5.0]]).quantile(0.95) == 5


def test_interrupted_calls_do_not_count():
    machine = FakeMachine()
    often = machine.contestant("often", 0.002, interrupts=lambda call: call % 2)
    always = machine.contestant("always", 0.002, interrupts=lambda call: True)
    once = machine.contestant("first round", 0.05, interrupts=lambda call: 3 < call < 8)
    often_times, always_times, once_times = machine.timer(3).measure([often, always, once])
    assert often_times.calls == pytest.approx([0.002] * 9)
    assert often_times.interrupted >= 6
    assert set(np.round(always_times.calls, 6)) == {0.02}  # nothing else is known of it
    assert always_times.interrupted == len(always_times.calls)
    assert once_times.rounds[0] == []
    assert once_times.calls == pytest.approx([0.05] * 2)


def test_threads_are_set_for_each_turn_and_given_back():
    machine = FakeMachine()
    before = torch.get_num_threads()
    assert gc.isenabled()
    machine.timer(2).measure([machine.contestant("one", 1, 1), machine.contestant("three", 1, 3)])
    assert set(machine.log) == {("one", 1), ("three", 3)}
    assert torch.get_num_threads() == before
    assert machine.slept == [timing.SETTLE_SECONDS] * 2  # their pools spin after turns with several threads
    assert gc.isenabled()
