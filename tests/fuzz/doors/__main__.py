"""``python -m tests.fuzz.doors DOOR --messages N``: bad messages at one kind of socket, until so many were said."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from random import Random

from tests.fuzz.doors import bus, link, vhost_user
from tests.fuzz.doors.place import Place, sizes

Door = Callable[[Place, Random], Iterator[int]]
DOORS: dict[str, Door] = {
    "link-to-device": link.to_a_device,
    "link-to-machine": link.to_the_machine,
    "bus": bus.strangers,
    "vhost-user": vhost_user.front_ends,
}
_MORE = 8  # descriptors that may be in use at the moment
_WARM = 0.1  # of all that is said, until memory is what it will be


def run(door: str, messages: int, seed: int) -> str:
    """Say so much, and return the figures; raises what should not have been."""
    said, began, warm = 0, time.monotonic(), {}
    with Place() as place:
        rounds = DOORS[door](place, Random(seed))
        try:
            while said < messages:
                said += next(rounds)
                if not warm and said >= _WARM * messages:
                    warm = sizes(place)
            place.check()
            now = sizes(place)
        except BaseException:
            print(f"{door}, seed {seed}, after {said} messages:\n{place.logs()}", file=sys.stderr)
            raise
        finally:
            rounds.close()
    grown = [
        f"{name} {now[name][0] - kib:+} KiB {now[name][1] - fds:+} descriptors" for name, (kib, fds) in warm.items()
    ]
    assert all(now[name][1] <= fds + _MORE for name, (_, fds) in warm.items()), f"descriptors stay open: {grown}"
    return f"{door}: {said} bad messages in {time.monotonic() - began:.0f} s, nobody lost; {', '.join(grown)}"


def main(argv: list[str]) -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.doors", description=__doc__.splitlines()[0])
    parser.add_argument(
        "doors", nargs="*", choices=[[], *DOORS], metavar="DOOR", help=f"{', '.join(DOORS)}; default: all"
    )
    parser.add_argument("--messages", type=int, default=20_000, metavar="N", help="how many each (default: 20000)")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="what follows from it is the same again")
    options = parser.parse_args(argv)
    for door in options.doors or DOORS:
        print(run(door, options.messages, options.seed), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
