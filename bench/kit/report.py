"""The report: Markdown and SVG from what results.py holds."""

import platform
import re
import subprocess
import time

import contestants
import works
from kit import claims, guard, machine, netns, plots, stats
from kit.results import METRICS


def describe_machine():
    with open("/proc/cpuinfo") as f:
        names = re.findall(r"model name\s*:\s*(.*)", f.read())
    with open("/proc/meminfo") as f:
        memory = int(f.readline().split()[1]) / 1048576
    versions = {}
    for package in ("varnish", "nginx-light", "nginx", "trafficserver", "wrk", "nghttp2-client"):
        done = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", package], capture_output=True, text=True)
        if done.returncode == 0 and done.stdout:
            versions[package] = done.stdout
    commit = subprocess.run(["git", "-C", str(machine.ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    huge = {}
    for what in ("enabled", "shmem_enabled"):
        try:
            with open("/sys/kernel/mm/transparent_hugepage/" + what) as f:
                huge[what] = re.search(r"\[(\w+)\]", f.read()).group(1)
        except (OSError, AttributeError):
            pass
    with open("/proc/loadavg") as f:
        load = f.read().split()[0]
    return {"cpus": len(names), "cpu": names[0] if names else platform.machine(), "memory_gib": round(memory, 1),
            "kernel": platform.release(), "tcp": netns.tcp(), "packages": versions,
            "objmapper": commit.stdout.strip(), "huge_pages": huge, "load_at_start": load, "date": time.strftime("%Y-%m-%d %H:%M")}


def three(value):
    """Three significant digits, no exponents."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return "%.0f" % value
    return "%.3g" % value if abs(value) >= 0.001 else "%.2g" % value


def interval_text(interval):
    return "%s [%s, %s]" % tuple(three(x) for x in interval)


def percent(x):
    return "%+.0f %%" % (100 * x)


def percents(interval):
    return "%s [%s, %s]" % tuple(percent(x - 1) for x in interval)


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return lines + ["| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows]


def better_or_worse(ratio, better):
    if ratio[1] == ratio[2] == 1:
        return "equal"
    return {"met": "better" if better == "less" else "worse", "missed": "worse" if better == "less" else "better",
            "undecided": "no difference to be told"}.get(stats.verdict(ratio, at_most=1.0), "too few rounds")


def slug(text):
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def base_of(module):
    """Whom a work's ratios are to: plain Varnish with malloc, unless that cannot do the work."""
    return getattr(module, "BASE", contestants.BASELINE)


class Report:
    def __init__(self, results, folder, bounds=()):
        self.results = results
        self.folder = folder
        self.bounds = bounds
        self.lines = []

    def add(self, *lines):
        self.lines += lines

    def plot(self, name, text, drawn):
        if drawn:
            (self.folder / (name + ".svg")).write_text(drawn)
            self.add("", "![%s](%s.svg)" % (text, name), "")

    def write(self):
        self.head()
        self.asked_for()
        self.decision()
        self.claims()
        if self.bounds:
            self.guard()
        for name, module in works.ALL.items():
            if name in self.results.data["works"]:
                self.work(name, module)
        self.add("", "## How this was made", "", "`bench/run` of the tree; samples of every round are in `results.json`. How to read "
                 "it: `docs/benchmarks.md`.", "")
        path = self.folder / "report.md"
        path.write_text("\n".join(self.lines))
        return path

    def head(self):
        m = self.results.data["machine"]
        self.add("# objmapper beside what else there is", "",
                 "Ratios are to plain Varnish (`-s malloc`) in the same round; medians with their 95 % bootstrap intervals. A "
                 "ratio below 1 is less.", "")
        self.add(*table(("", ""), [
            ("machine", "%s x %s, %s GiB, Linux %s" % (m.get("cpus"), m.get("cpu"), m.get("memory_gib"), m.get("kernel"))),
            ("TCP", ", ".join("%s: %s" % item for item in m.get("tcp", {}).items())),
            ("huge pages", ", ".join("%s: %s" % item for item in m.get("huge_pages", {}).items())),
            ("packages", ", ".join("%s %s" % item for item in m.get("packages", {}).items())),
            ("objmapper", m.get("objmapper")),
            ("date", m.get("date")),
            ("load average at the start", "%s (anything above .3 makes the figures doubtful)" % m.get("load_at_start")),
        ]))
        if self.results.data["absent"]:
            self.add("", "Not taking part:", "")
            self.add(*["- %s: %s" % item for item in self.results.data["absent"].items()])

    def asked_for(self):
        self.add("", "## The table that was asked for", "", "Against plain Varnish; beside it what had been expected before "
                 "anything was built.", "")
        rows = []
        for what, work, cases, metric, expected, better in claims.MEASURES:
            for mode in contestants.OURS:
                for case, interval in claims.measured(self.results, work, cases, metric, mode):
                    hoped = expected.get(mode)
                    text = "-" if hoped is None else percent(hoped[0]) if hoped[0] == hoped[1] else "%s to %s" % tuple(
                        percent(x) for x in hoped)
                    rows.append((what, case, mode, percents(interval), text,
                                 "-" if hoped is None else claims.compared(interval, hoped, better)))
        self.add(*(table(("measure", "case", "mode", "measured", "expected", "so it is"), rows) if rows else ["Not measured."]))

    def decision(self):
        rows = claims.costs_less_than_the_limit(self.results)
        self.add("", "## The decision rule: does mapping cost less than 15 %?", "")
        if not rows:
            self.add("Not measured.")
            return
        verdicts = {verdict for *_, verdict in rows}
        answer = ("Yes, in every measure." if verdicts == {"met"} else
                  "No: not in every measure." if "missed" in verdicts else
                  "Undecided: no measure says no, some intervals straddle the limit.")
        self.add("**%s**" % answer, "", *table(("measure", "case", "cost of `mapped`", "below 15 %?"), [
            (what, case, percents(interval), {"met": "yes", "missed": "no"}.get(verdict, verdict))
            for what, case, interval, verdict in rows]))

    def claims(self):
        self.add("", "## What is claimed", "")
        rows = []
        for claim in claims.claims(self.results):
            interval, verdict = claim.judge(self.results)
            if interval is None:
                continue
            bound = "at most %g" % claim.at_most if claim.at_most is not None else "at least %g" % claim.at_least
            rows.append((claim.what, bound, interval_text(interval), verdict))
        self.add(*(table(("claim", "bound", "ratio", "verdict"), rows) if rows else ["Nothing was measured."]))

    def guard(self):
        self.add("", "## Against the committed bounds", "")
        self.add(*table(("work", "case", "metric", "contestant", "bound", "ratio", "verdict"), [
            (b["work"], b["case"], b["metric"], "%s / %s" % (b["contestant"], b["against"]),
             "at most %g" % b["at_most"] if "at_most" in b else "at least %g" % b["at_least"],
             interval_text(interval) if interval else "-", verdict)
            for b, interval, verdict in guard.judge(self.results, self.bounds)]))

    def work(self, name, module):
        data = self.results.work(name)
        self.add("", "## " + module.TITLE, "", module.ABOUT.replace("\n", " "), "",
                 "Mode %s, %s, %.0f s." % (data["mode"], data["started"], data["seconds"]))
        for metric in module.SHOW:
            if not any(metric in series for case in data["cases"].values() for series in case.values()):
                continue
            what, unit, better = METRICS[metric]
            self.add("", "### %s%s" % (what[0].upper() + what[1:], " (%s)" % unit if unit else ""), "")
            if metric == module.SHOW[0]:
                self.ratio_plot(name, module, data, metric)
            self.figures(name, data, metric, better, base_of(module))
        self.curves(name, module, data)
        self.processes(data)
        facts = [(case, who, ", ".join("%s %s" % (k, three(v) if isinstance(v, (int, float)) else v)
                                       for k, v in facts.items() if k != "cpu_by_process"))
                 for case, each in data["facts"].items() for who, facts in each.items()
                 if any(k != "cpu_by_process" for k in facts)]
        if facts:
            self.add("", "Beside it:", "", *table(("case", "contestant", "facts"), facts))
        if data["failures"]:
            self.add("", "**Failed, and left out:**", "", *table(("case", "contestant", "why"), data["failures"]))
        if data["proofs"]:
            by_text = {}
            for case, who, text in data["proofs"]:
                by_text.setdefault(text, []).append("%s (%s)" % (who, case))
            self.add("", "<details><summary>Proofs that answers were right and came from the cache</summary>", "",
                     *["- %s: %s" % (text, ", ".join(who)) for text, who in by_text.items()], "", "</details>")

    def ratio_plot(self, name, module, data, metric):
        panels = []
        base = base_of(module)
        for case in data["cases"]:
            rows = []
            for who in data["cases"][case]:
                interval = self.results.ratio(name, case, metric, who, base)
                if who != base and interval is not None and interval[1] > 0:
                    rows.append((who, interval))
            panels.append((case, rows))
        what, _, better = METRICS[metric]
        bounds = {c.case: c.at_most or c.at_least for c in claims.claims(self.results)
                  if c.work == name and c.metric == metric and c.other == base}
        # A page holds about a dozen cases.
        for number in range(0, len(panels), 12):
            self.plot(slug(name) + ("-%d" % (number // 12 + 1) if number else ""), module.TITLE,
                      plots.ratio(module.TITLE, "%s, ratio to %s in the same round" % (what, base), panels[number:number + 12],
                                  better, bounds))

    def figures(self, name, data, metric, better, base):
        rows = []
        for case, series in data["cases"].items():
            for who in series:
                own = self.results.interval(name, case, who, metric)
                if own is None:
                    continue
                ratio = None
                if who != base:
                    ratio = self.results.ratio(name, case, metric, who, base)
                verdict = ""
                if ratio is not None:
                    verdict = better_or_worse(ratio, better)
                rows.append((case, who, interval_text(own) if own[1] != own[2] else three(own[0]),
                             interval_text(ratio) if ratio else "", verdict, self.results.rounds(name, case, who, metric)))
        self.add(*table(("case", "contestant", "median", "ratio to " + base, "", "rounds"), rows))

    def curves(self, name, module, data):
        curves = data["curves"]
        if name == "restart" and curves:
            self.plot("restart-curve", "Hit ratio and origin load across a restart", plots.lines(
                "Hit ratio and origin load across a restart", "all cache processes killed at 0 and started again",
                [("hits, as a share of the requests that were due", curves.get("hit ratio", {}), False),
                 ("origin requests per second", curves.get("origin requests per second", {}), False)],
                "seconds", marks=((0, "kill -9"),)))
        if name == "latency":
            for size in sorted({key.split()[0] for key in curves}):
                self.plot("latency-" + slug(size), "Latency of hits, " + size, plots.lines(
                    "Latency of hits at equal offered rates, " + size, "from when a request was due; logarithmic",
                    [("median, us", curves.get(size + " p50_us", {}), True), ("99 %, us", curves.get(size + " p99_us", {}), True)],
                    "requests per second offered"))

    def processes(self, data):
        rows = []
        for case, each in data["facts"].items():
            for who, facts in each.items():
                used = facts.get("cpu_by_process")
                total = sum(used.values()) if used else 0
                if total > 0:
                    rows.append((case, who, ", ".join("%s %.0f %%" % (process, 100 * s / total) for process, s in
                                                      sorted(used.items(), key=lambda item: -item[1]) if s / total >= 0.005)))
        if rows:
            self.add("", "<details><summary>CPU by process (last round)</summary>", "", *table(("case", "contestant", "share"), rows),
                     "", "</details>")
