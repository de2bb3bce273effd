"""``python -m loadtest.swarm PLAN.json``: one line of JSON a second, until the plan is played."""

import sys
from pathlib import Path

from loadtest.bench.machine import CannotMeasure
from loadtest.swarm.engine import Swarm
from loadtest.swarm.plan import Tick, encoder, plans


def tell(tick: Tick) -> None:
    """One line."""
    sys.stdout.write(encoder.encode(tick).decode() + "\n")
    sys.stdout.flush()


def main() -> int:
    """Exit code 3 with a sentence where it cannot be played here."""
    try:
        Swarm(plans.decode(Path(sys.argv[1]).read_bytes()), tell).run()
    except (CannotMeasure, ValueError) as reason:
        sys.stderr.write(f"{reason}\n")
        return 3
    except BrokenPipeError:
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
