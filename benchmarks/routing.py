"""The A/B router against the sketch it replaces, md5 % 100 of the user alone, on the same users.

    python benchmarks/routing.py
    python benchmarks/routing.py --rounds 15

Wall-clock nanoseconds a call, the loop around it included. The sketch knows two arms, whole percents and no salt.
"""

import argparse
import hashlib
import statistics
import time
from collections.abc import Callable

from rounds import Ratio, interleaved, print_target

from mlops_hydra import Router, get_model_variant

EVEN = {"control": 50, "treatment": 50}
SIX = {"control": 50, "a": 10, "b": 10, "c": 10, "d": 10, "e": 10}


def sketch(user_id: str) -> str:
    """What is usually written first."""
    return "control" if int(hashlib.md5(user_id.encode()).hexdigest(), 16) % 100 < 50 else "treatment"


def timed(assign: Callable[[str], str], users: list[str]) -> Callable[[], float]:
    """Nanoseconds a call."""

    def measure() -> float:
        start = time.perf_counter_ns()
        for user in users:
            assign(user)
        return (time.perf_counter_ns() - start) / len(users)

    return measure


def main() -> None:
    """Read the arguments and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    users = [f"user-{number}" for number in range(arguments.users)]
    assignments: dict[str, Callable[[str], str]] = {
        "sketch": sketch,
        "router, two arms": Router("checkout", EVEN).variant,
        "router, six arms": Router("checkout", SIX).variant,
        "router, two arms, overrides": Router("checkout", EVEN, overrides={"alice": "treatment"}).variant,
        "get_model_variant": lambda user: get_model_variant(user, "checkout"),
        "get_model_variant, weights": lambda user: get_model_variant(user, "checkout", EVEN),
        "a router a call": lambda user: Router("checkout", EVEN).variant(user),
    }
    few = users[: max(1, len(users) // 100)]  # for what is slow
    work = {name: timed(assign, few if name == "a router a call" else users) for name, assign in assignments.items()}
    times = interleaved(work, arguments.rounds)
    print(f"nanoseconds a call, median of {arguments.rounds} rounds of {arguments.users:,} users")
    for name, values in times.items():
        print(f"  {name:<32} {statistics.median(values):10.0f}")
    print("\nthe sketch's time over ours, round by round")
    for name in list(times)[1:-1]:
        print(f"  {name:<32} {Ratio.of(times['sketch'], times[name])}")
    print_target("router, two arms, over the sketch", Ratio.of(times["router, two arms"], times["sketch"]), "<=", 1.0)


if __name__ == "__main__":
    main()
