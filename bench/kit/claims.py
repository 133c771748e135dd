"""What is claimed, as ratios of two contestants with a bound; the table of expectations; the decision rule."""

import dataclasses
import typing

from kit import stats


@dataclasses.dataclass(frozen=True)
class Claim:
    what: str
    work: str
    case: str
    metric: str
    one: str
    other: str
    at_most: typing.Optional[float] = None
    at_least: typing.Optional[float] = None

    def judge(self, results):
        """(interval, verdict): the interval is None when it was not measured."""
        interval = results.ratio(self.work, self.case, self.metric, self.one, self.other)
        if interval is None:
            return None, "not measured"
        return interval, stats.verdict(interval, at_most=self.at_most, at_least=self.at_least)


def hit(size, metric="CPU per request"):
    return Claim("hit %s, mapped: %s" % (size, metric), "hits", "tcp " + size, "cpu_us", "mapped", "varnish-malloc", at_most=1.05)


def against(work, case, metric, one, other, text, **bound):
    return Claim(text, work, case, metric, one, other, **bound)


def memory_cases(results):
    return results.cases("memory")


def claims(results):
    plain = "varnish-malloc"
    result = [hit(size) for size in ("1K", "16K", "64K")] + [hit(size, "CPU per GB") for size in ("1M", "10M")]
    result += [against("misses", "full " + size, "cpu_us", "mapped", plain, "miss %s, store full, mapped: CPU" % size, at_most=most)
               for size, most in (("4K", 1.1), ("1M", 0.7), ("10M", 0.7))]
    result += [against("memory", case, "bytes_per_object", "mapped", plain, "memory beside the body, %s, mapped" % case, at_most=0.6)
               for case in memory_cases(results)]
    for mode in ("native", "auto"):
        result += [against("hits", "unix " + size, "cpu_s_per_gb", mode, plain,
                           "hit %s by Unix socket, %s: CPU per GB" % (size, mode), at_most=0.65) for size in ("1M", "10M")]
    for load in ("Zipf .9", "uniform"):
        for mode in ("native", "auto"):
            result += [
                against("larger", load, "per_s", mode, "varnish-file", "larger than memory, %s, %s: requests/s against -s file"
                        % (load, mode), at_least=8),
                against("larger", load, "per_s", mode, "nginx-cache-disk", "the same against nginx with aio threads", at_least=1.2),
                against("larger", load, "cpu_s_per_gb", mode, "nginx-cache-disk", "the same: CPU per GB", at_most=1),
                against("larger", load + ", offered rate", "p99_us", mode, "nginx-cache-disk", "the same: p99 at equal offered rate",
                        at_most=1),
            ]
    for case in results.cases("cold"):
        result += [
            against("cold", case, "gb_per_s", "native", "nginx-static", "cold %s, native: throughput against plain sendfile" % case,
                    at_least=0.85),
            against("cold", case, "first_byte_us", "native", "nginx-static", "the same: first byte", at_most=1.5)]
    result += [
        against("ingest", "10M", "gb_per_s", "native", "dd", "ingest to disk, native: throughput against dd", at_least=0.7),
        against("ingest", "10M", "cpu_s_per_gb", "native", "varnish-file", "ingest to disk, native: CPU per GB against -s file", at_most=1),
    ]
    result += [against("mixed", "trace", metric, "auto", mode, "mixed load, auto against %s: %s" % (mode, text), **bound)
               for mode in ("mapped", "native", "dual", plain)
               for metric, text, bound in (("cpu_us", "CPU per request", {"at_most": 1.03}), ("hit_ratio", "hit ratio", {"at_least": 0.97}))]
    return result


# What had been expected before anything was built: (from, to) of the change against plain Varnish.
#   row: (work, cases, metric, {mode: (low, high)}, which way is better)
MEASURES = [
    ("memory use", "memory", None, "memory_per_body", {"mapped": (0.5, 1.0), "native": (-0.2, -0.2)}, "less"),
    ("hit latency", "latency", ("1K at 20 %", "1K at 40 %", "64K at 20 %", "64K at 40 %"), "p50_us",
     {"mapped": (0.05, 0.10), "native": (-0.2, -0.1)}, "less"),
    ("miss latency", "misses", ("one at a time 4K", "one at a time 1M"), "latency_us",
     {"mapped": (0.10, 0.15), "native": (0.0, 0.0)}, "less"),
    ("throughput, large objects", "hits", ("tcp 1M", "tcp 10M"), "per_s", {"mapped": (-0.05, -0.05), "native": (0.15, 0.25)}, "more"),
    ("throughput, small objects", "hits", ("tcp 1K", "tcp 16K"), "per_s", {"mapped": (-0.10, -0.10), "native": (-0.05, -0.05)}, "more"),
]
DECISION_AT_MOST = 0.15


def measured(results, work, cases, metric, mode):
    """[(case, interval of the ratio to plain Varnish)]."""
    found = []
    for case in cases if cases is not None else results.cases(work):
        interval = results.ratio(work, case, metric, mode, "varnish-malloc")
        if interval is not None:
            found.append((case, interval))
    return found


def compared(interval, expected, better):
    """What became of an expectation: better, as expected, worse, or undecided."""
    if not getattr(interval, "enough", True):
        return "too few rounds"
    _, low, high = (x - 1 for x in interval)
    least, most = expected
    slack = 0.02
    if low >= least - slack and high <= most + slack:
        return "as expected"
    above, below = low > most + slack, high < least - slack
    if above or below:
        return "better" if below == (better == "less") else "worse"
    return "undecided"


def costs_less_than_the_limit(results):
    """The decision rule: does mapping cost less than 15 % in each measure? [(measure, case, cost interval, verdict)]."""
    rows = []
    for what, work, cases, metric, _, better in MEASURES:
        for case, interval in measured(results, work, cases, metric, "mapped"):
            if better == "more":  # throughput lost, as a cost
                cost = stats.Interval((1 / interval[0], 1 / interval[2], 1 / interval[1]))
                cost.enough = interval.enough
                interval = cost
            rows.append((what, case, interval, stats.verdict(interval, at_most=1 + DECISION_AT_MOST)))
    return rows
