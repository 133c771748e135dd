"""The guard: ratios of a quick run against committed bounds.

A bound is a measured ratio and a tolerance: the larger of 5 % and three times the half width of the interval
that it was measured with, the noise of one run against another. Something fell only if its whole interval
lies beyond the bound; an interval that straddles it is named, and fails nothing.
"""

import json

LEAST_TOLERANCE = 0.05
WIDTHS = 3


def bound_of(interval, better):
    middle, low, high = interval
    spread = (high - low) / 2 / middle
    tolerance = max(LEAST_TOLERANCE, WIDTHS * spread)
    side = {"at_most": round(middle * (1 + tolerance), 4)} if better == "less" else {
        "at_least": round(middle / (1 + tolerance), 4)}
    return {"ratio": round(middle, 4), "spread": round(spread, 4), "tolerance": round(tolerance, 4), **side}


def derive(results, guarded, metrics):
    """Bounds from a run, of what has rounds enough. `guarded`: (work, case, metric, contestant, other)."""
    bounds = []
    for work, case, metric, one, other in guarded:
        interval = results.ratio(work, case, metric, one, other)
        if interval is not None and interval.enough:
            bounds.append({"work": work, "case": case, "metric": metric, "contestant": one, "against": other,
                           **bound_of(interval, metrics[metric][2])})
    return bounds


def judge(results, bounds):
    """[(bound, interval, verdict)]: "held", "fell", "undecided" or "not measured"."""
    rows = []
    for bound in bounds:
        interval = results.ratio(bound["work"], bound["case"], bound["metric"], bound["contestant"], bound["against"])
        if interval is None:
            rows.append((bound, None, "not measured"))
            continue
        _, low, high = interval
        if "at_most" in bound:
            verdict = "held" if high <= bound["at_most"] else "fell" if low > bound["at_most"] else "undecided"
        else:
            verdict = "held" if low >= bound["at_least"] else "fell" if high < bound["at_least"] else "undecided"
        rows.append((bound, interval, verdict))
    return rows


def load(path):
    return json.loads(path.read_text())["bounds"] if path.exists() else []


def save(path, machine, bounds):
    lines = ",\n  ".join(json.dumps(bound) for bound in bounds)
    path.write_text('{\n "about": "bench/run --quick compares with these. ratio and spread are measured; tolerance is the '
                    'larger of %.0f %% and %d times the spread. Written by bench/run --quick --set-bounds.",\n "machine": %s,\n '
                    '"bounds": [\n  %s\n ]\n}\n' % (100 * LEAST_TOLERANCE, WIDTHS, json.dumps(machine), lines))
