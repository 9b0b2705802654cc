"""What the stopwatch adds up; nothing here depends on how fast the machine is."""

import time

from common.cost.stopwatch import time_call


def test_sleep_takes_the_wall_clock_alone():
    wall, cpu = time_call(lambda: time.sleep(0.05))
    assert wall >= 0.05
    assert cpu < 0.05
