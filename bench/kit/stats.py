"""Medians and their intervals.

A claim is a ratio of two contestants measured in interleaved pairs: the median of the pairs' ratios
with a bootstrap interval of 95 % (Efron, 1979). An interval that straddles the bound decides nothing.
"""

import functools
import random
import statistics


LEAST_SAMPLES = 5


class Interval(tuple):
    """(median, low, high) that knows whether it comes from enough samples to decide something: the bootstrap
    of two or three is hardly wider than they are apart, by chance."""

    enough = True


def median_interval(samples, seed=1, rounds=1000):
    """(median, low, high): the percentile bootstrap of the median at 95 %."""
    if not samples:
        return (float("nan"),) * 3
    interval = Interval(bootstrap(tuple(samples), seed, rounds))
    interval.enough = len(samples) >= LEAST_SAMPLES
    return interval


# The report asks for the same series again and again.
@functools.lru_cache(maxsize=None)
def bootstrap(samples, seed, rounds):
    if len(samples) == 1:
        return (samples[0],) * 3
    draw = random.Random(seed)
    half, odd = divmod(len(samples), 2)
    medians = []
    for _ in range(rounds):
        drawn = sorted(draw.choices(samples, k=len(samples)))
        medians.append(drawn[half] if odd else (drawn[half - 1] + drawn[half]) / 2)
    medians.sort()
    return (
        statistics.median(samples),
        medians[int(0.025 * rounds)],
        medians[int(0.975 * rounds) - 1],
    )


def verdict(interval, at_most=None, at_least=None):
    """"met", "missed" or "undecided", for an interval (median, low, high) and a bound. Nothing is decided by
    an Interval of too few samples."""
    if not getattr(interval, "enough", True):
        return "too few rounds"
    _, low, high = interval
    if at_most is not None:
        return "met" if high <= at_most else "missed" if low > at_most else "undecided"
    if at_least is not None:
        return "met" if low >= at_least else "missed" if high < at_least else "undecided"
    return ""


def show(interval):
    return "%.3f [%.3f, %.3f]" % interval
