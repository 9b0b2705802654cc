"""What the stopwatch adds up; nothing here depends on how fast the machine is."""

import time

from common.cost.stopwatch import fastest, matmul_rate, time_call


def test_sleep_takes_the_wall_clock_alone():
    wall, cpu = time_call(lambda: time.sleep(0.05))
    assert wall >= 0.05
    assert cpu < 0.05


def test_fastest_is_of_all_calls():
    naps = iter((0.08, 0.01, 0.05))
    wall, _ = fastest(lambda: time.sleep(next(naps)), 3)
    assert 0.01 <= wall < 0.05
    assert next(naps, None) is None


def test_a_matrix_product_has_a_rate():
    assert matmul_rate(64) > 0
