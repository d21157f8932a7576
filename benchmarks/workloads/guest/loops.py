"""``loops.py NAME SECONDS``: a pure-Python program, round after round; prints rounds per second. Runs in the guest."""

import sys
import time

Vector = list[float]


def nbody() -> None:
    """Five bodies and their attraction: floating point."""
    bodies: list[tuple[Vector, Vector, float]] = [
        ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0], 39.47841760435743),
        ([4.84143144246472, -1.16032004402742, -0.103622044471123], [0.60632639, 2.81198684, -0.02521836], 0.0376936),
        ([8.34336671824457, 4.1247985641243, -0.403523417114321], [-1.01077434, 1.82566237, 0.00841576], 0.0112863),
        ([12.894369562139, -15.111151401698, -0.2233075788926], [1.08279100, 0.86871301, -0.01083263], 0.0017237),
        ([15.379697114850, -25.919314609987, 0.1792587729503], [0.97909073, 0.59469899, -0.03475595], 0.0020336),
    ]
    pairs = [(one, other) for i, one in enumerate(bodies) for other in bodies[i + 1 :]]
    for _ in range(400):
        for (place, speed, mass), (far, drift, other) in pairs:
            x, y, z = place[0] - far[0], place[1] - far[1], place[2] - far[2]
            pull = 0.001 / (x * x + y * y + z * z) ** 1.5
            for axis, distance in enumerate((x, y, z)):
                speed[axis] -= distance * other * pull
                drift[axis] += distance * mass * pull
        for place, speed, _mass in bodies:
            for axis in range(3):
                place[axis] += 0.001 * speed[axis]
    assert abs(bodies[1][0][0] - 5.017) < 0.1, bodies


def fannkuch(size: int = 7) -> None:
    """Turn pancakes over in every order: integers and lists."""
    count, most = list(range(1, size + 1)), 0
    order, turn = list(range(size)), size
    while True:
        count[1:turn] = range(2, turn + 1)
        stack, flips = order[:], 0
        while first := stack[0]:
            stack[: first + 1] = stack[first::-1]
            flips += 1
        most, turn = max(most, flips), 1
        while turn < size:
            order.insert(turn, order.pop(0))
            count[turn] -= 1
            if count[turn]:
                break
            count[turn] = turn + 1
            turn += 1
        else:
            break
    assert most == 16, most


def words() -> None:
    """Count, split, join and sort words: dictionaries and strings."""
    text = " ".join(f"w{number * 7919 % 997:03d}" for number in range(4000))
    counts: dict[str, int] = {}
    for word in text.split():
        counts[word] = counts.get(word, 0) + 1
    lines = [f"{word}={times}" for word, times in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    joined = "\n".join(lines).replace("w", "W").encode()
    assert (len(counts), joined[:6]) == (997, b"W000=5"), joined[:6]


def main() -> None:
    """Run rounds of the loop named on the command line until the time is over."""
    loop, seconds = {"nbody": nbody, "fannkuch": fannkuch, "words": words}[sys.argv[1]], float(sys.argv[2])
    loop()
    rounds, started = 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < seconds:
        loop()
        rounds += 1
    print(f"per second: {rounds / passed:.3f}")


if __name__ == "__main__":
    main()
