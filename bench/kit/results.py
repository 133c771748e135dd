"""What a run has measured: one number for each work, case, contestant, metric and round. Kept as JSON
after every case, so that a run that ends early has lost nothing and another one can go on in the same
folder.

    works: NAME: {mode, started, seconds, cases: {CASE: {CONTESTANT: {METRIC: [by round, null if none]}}},
                  proofs, failures: [[case, contestant, text]], facts: {CASE: {CONTESTANT: {...}}},
                  curves: {NAME: {CONTESTANT: [[x, y], ...]}}}
"""

import json
import os
import pathlib
import time

from kit import stats

# metric: (what it is, unit, which is better)
METRICS = {
    "cpu_us": ("server CPU per request", "us", "less"),
    "total_cpu_us": ("CPU of the whole machine per request, client and origin too", "us", "less"),
    "cpu_s_per_gb": ("server CPU per GB", "s/GB", "less"),
    "per_s": ("requests per second, closed loop", "1/s", "more"),
    "gb_per_s": ("throughput", "GB/s", "more"),
    "first_byte_us": ("time to first byte, median", "us", "less"),
    "latency_us": ("time to last byte, median", "us", "less"),
    "p50_us": ("latency, median, from when a request was due", "us", "less"),
    "p99_us": ("latency, 99 %", "us", "less"),
    "p999_us": ("latency, 99.9 %", "us", "less"),
    "hit_ratio": ("hits of requests", "", "more"),
    "byte_hit_ratio": ("bytes hit of bytes", "", "more"),
    "disk_share": ("bytes that the disk was asked for / bytes served", "", "less"),
    "fetches_per_key": ("origin requests per object", "", "less"),
    "bytes_per_object": ("memory per object beside its body", "B", "less"),
    "memory_per_body": ("memory held / bytes of bodies stored", "", "less"),
    "memory_per_configured": ("peak memory / memory that was configured for bodies", "", "less"),
    "descriptors": ("descriptors that the objects added", "", "less"),
    "mappings": ("mappings that the objects added", "", "less"),
    "errors": ("requests without a right answer", "", "less"),
    "origin_after_restart": ("origin requests in the ten seconds after a restart / expected without a cache", "",
                             "less"),
    "away_s": ("time without an answer at a restart", "s", "less"),
    "peak_mib": ("peak of the memory cgroup", "MiB", "less"),
    "start_cpu_s": ("CPU until the first answer", "s", "less"),
}

# Counted rather than timed: one round says as much as twenty.
COUNTED = {"hit_ratio", "byte_hit_ratio", "disk_share", "fetches_per_key", "bytes_per_object", "memory_per_body", "memory_per_configured", "descriptors", "mappings",
           "errors", "origin_after_restart", "peak_mib"}


class Results:
    def __init__(self, folder):
        self.path = pathlib.Path(folder) / "results.json"
        self.data = {"machine": {}, "absent": {}, "works": {}}
        if self.path.exists():
            self.data.update(json.loads(self.path.read_text()))

    def begin(self, work, mode):
        """Forgets what an earlier run has of this work."""
        self.data["works"][work] = {"mode": mode, "started": time.strftime("%Y-%m-%d %H:%M:%S"), "seconds": 0.0,
                                    "cases": {}, "proofs": [], "failures": [], "facts": {}, "curves": {}}

    def work(self, work):
        return self.data["works"][work]

    def add(self, work, case, contestant, number, metrics):
        series = self.work(work)["cases"].setdefault(case, {}).setdefault(contestant, {})
        for metric, value in metrics.items():
            if metric not in METRICS:
                raise KeyError("a metric that results.py does not know: " + metric)
            values = series.setdefault(metric, [])
            values.extend([None] * (number - len(values)))
            values[number:number + 1] = [value]

    def fact(self, work, case, contestant, **facts):
        self.work(work)["facts"].setdefault(case, {}).setdefault(contestant, {}).update(facts)

    def proof(self, work, case, contestant, text):
        self.work(work)["proofs"].append([case, contestant, text])

    def failure(self, work, case, contestant, text):
        self.work(work)["failures"].append([case, contestant, text])

    def curve(self, work, name, contestant, points):
        self.work(work)["curves"].setdefault(name, {})[contestant] = points

    def absent(self, contestant, why):
        self.data["absent"][contestant] = why

    def cases(self, work):
        return list(self.data["works"].get(work, {}).get("cases", {}))

    def samples(self, work, case, contestant, metric):
        series = self.data["works"].get(work, {}).get("cases", {}).get(case, {}).get(contestant, {})
        return series.get(metric, [])

    def interval(self, work, case, contestant, metric):
        """(median, low, high) of a contestant's own samples, or None."""
        values = [v for v in self.samples(work, case, contestant, metric) if v is not None]
        return stats.median_interval(values) if values else None

    def ratio(self, work, case, metric, one, other):
        """(median, low, high) of one / other, paired by round, or None."""
        pairs = [a / b for a, b in zip(self.samples(work, case, one, metric), self.samples(work, case, other, metric))
                 if a is not None and b]
        if not pairs:
            return None
        interval = stats.median_interval(pairs)
        interval.enough = interval.enough or metric in COUNTED
        return interval

    def rounds(self, work, case, contestant, metric):
        return sum(1 for v in self.samples(work, case, contestant, metric) if v is not None)

    def save(self):
        partial = self.path.with_suffix(".tmp")
        partial.write_text(json.dumps(self.data, indent=1))
        os.replace(partial, self.path)
