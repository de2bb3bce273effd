"""What the benches take the machine for."""

import os

from loadtest.bench.house import House
from loadtest.bench.machine import cores, on_core


def test_a_house_built_on_one_core_still_keeps_the_gateways_on_the_other() -> None:
    allowed = os.sched_getaffinity(0)
    server, other = cores()
    with on_core(other):
        house = House()
        assert (house.server_core, house.other_core) == (server, other)
    assert len({server, other}) == min(2, len(allowed))
    assert os.sched_getaffinity(0) == allowed
