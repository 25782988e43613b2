"""The machine's clock and dice."""

import time

from node.adapters.system.clock import SystemClock
from node.adapters.system.entropy import SystemEntropy


def test_the_clock_is_the_wall_clock() -> None:
    before = time.time()
    now = SystemClock().now()
    assert before <= now <= time.time()


def test_dice_are_thrown_anew() -> None:
    entropy = SystemEntropy()
    assert [len(entropy.token(size)) for size in (0, 1, 16, 32)] == [0, 1, 16, 32]
    assert len({entropy.token(16) for _ in range(100)}) == 100
