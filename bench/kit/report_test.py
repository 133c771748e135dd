"""Results, claims, the guard and the report, from figures made up for it."""

import json
import pathlib
import tempfile
import unittest

from kit import bench, claims, guard, report, results


def made_up(folder):
    held = results.Results(folder)
    held.data["machine"] = {"cpus": 2, "cpu": "a | b", "memory_gib": 1, "kernel": "6", "packages": {}, "huge_pages": {}}
    held.absent("native", "not in this build: mode")
    held.begin("hits", "head")
    for number in range(8):
        drift = 1 + number / 10  # of the machine: hits all alike
        held.add("hits", "tcp 1K", "varnish-malloc", number, {"cpu_us": 40 * drift, "per_s": 1000 / drift})
        held.add("hits", "tcp 1K", "mapped", number, {"cpu_us": 38 * drift, "per_s": 1010 / drift})
        held.add("hits", "tcp 1M", "varnish-malloc", number, {"cpu_us": 100.0, "per_s": 100.0})
        held.add("hits", "tcp 1M", "mapped", number, {"cpu_us": 90.0 if number % 2 else 130.0, "per_s": 80.0})
    held.failure("hits", "tcp 1M", "nginx-static", "Wrong: a | b")
    held.proof("hits", "tcp 1K", "mapped", "64 bodies compared")
    held.fact("hits", "tcp 1K", "mapped", cpu_by_process={"cache-main": 0.9, "objmapperd": 0.1}, peak_mib=12.0)
    held.begin("restart", "head")
    held.curve("restart", "hit ratio", "mapped", [[-1, 1], [0, 0], [1, 1]])
    held.begin("latency", "head")
    held.curve("latency", "1K p50_us", "mapped", [[100, 50], [200, 60]])
    return held


class Results(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.path = pathlib.Path(self.folder.name)
        self.held = made_up(self.path)

    def test_ratios_are_paired_so_that_drift_cancels(self):
        middle, low, high = self.held.ratio("hits", "tcp 1K", "cpu_us", "mapped", "varnish-malloc")
        self.assertAlmostEqual(low, 0.95)
        self.assertAlmostEqual(high, 0.95)
        self.assertIsNone(self.held.ratio("hits", "tcp 1K", "cpu_us", "dual", "varnish-malloc"))

    def test_a_round_that_failed_leaves_its_place(self):
        self.held.add("hits", "tcp 1K", "dual", 2, {"cpu_us": 80.0})
        self.assertEqual(self.held.samples("hits", "tcp 1K", "dual", "cpu_us"), [None, None, 80.0])
        self.assertEqual(self.held.rounds("hits", "tcp 1K", "dual", "cpu_us"), 1)
        interval = self.held.ratio("hits", "tcp 1K", "cpu_us", "dual", "varnish-malloc")
        self.assertAlmostEqual(interval[0], 80 / 48)
        self.assertFalse(interval.enough)

    def test_a_later_run_extends_what_is_there_and_replaces_a_work(self):
        self.held.save()
        again = results.Results(self.path)
        again.begin("restart", "quick")
        self.assertEqual(again.cases("hits"), ["tcp 1K", "tcp 1M"])
        self.assertEqual(again.work("restart")["curves"], {})

    def test_an_unknown_metric_is_our_mistake(self):
        with self.assertRaises(KeyError):
            self.held.add("hits", "tcp 1K", "dual", 0, {"speed": 1.0})

    def test_claims_and_the_decision(self):
        verdicts = {claim.what: claim.judge(self.held)[1] for claim in claims.claims(self.held)}
        self.assertEqual(verdicts["hit 1K, mapped: CPU per request"], "met")
        self.assertEqual(verdicts["hit 1M, mapped: CPU per GB"], "undecided")
        self.assertEqual(verdicts["hit 64K, mapped: CPU per request"], "not measured")
        costs = {case: (interval, verdict) for _, case, interval, verdict in claims.costs_less_than_the_limit(self.held)}
        self.assertEqual(costs["tcp 1K"][1], "met")
        # 80 of 100 requests a second are a cost of 25 %.
        self.assertAlmostEqual(costs["tcp 1M"][0][0], 1.25)
        self.assertEqual(costs["tcp 1M"][1], "missed")

    def test_expectations(self):
        self.assertEqual(claims.compared((1.07, 1.06, 1.08), (0.05, 0.10), "less"), "as expected")
        self.assertEqual(claims.compared((0.9, 0.88, 0.92), (0.05, 0.10), "less"), "better")
        self.assertEqual(claims.compared((0.9, 0.88, 0.92), (-0.05, -0.05), "more"), "worse")
        self.assertEqual(claims.compared((1.1, 0.9, 1.3), (0.05, 0.10), "less"), "undecided")

    def test_a_bound_has_the_tolerance_that_its_spread_justifies(self):
        steady = guard.bound_of((0.95, 0.949, 0.951), "less")
        self.assertEqual((steady["tolerance"], steady["at_most"]), (0.05, 0.9975))
        noisy = guard.bound_of((1.0, 0.9, 1.1), "more")
        self.assertAlmostEqual(noisy["tolerance"], 0.3)
        self.assertAlmostEqual(noisy["at_least"], 1 / 1.3, places=3)

    def test_the_guard_names_what_fell(self):
        bound = {"work": "hits", "case": "tcp 1K", "metric": "cpu_us", "contestant": "mapped", "against": "varnish-malloc"}
        bounds = [dict(bound, at_most=1.0), dict(bound, at_most=0.9), dict(bound, case="tcp 1M", at_most=1.0),
                  dict(bound, case="tcp 9K", at_most=1.0), dict(bound, metric="per_s", at_least=1.2)]
        self.assertEqual([verdict for *_, verdict in guard.judge(self.held, bounds)],
                         ["held", "fell", "undecided", "not measured", "fell"])
        path = self.path / "bounds.json"
        guard.save(path, {"cpus": 2}, bounds)
        self.assertEqual(guard.load(path), bounds)

    def test_the_report_says_it_all(self):
        path = report.Report(self.held, self.path).write()
        text = path.read_text()
        for part in ("not in this build: mode", "Wrong: a \\| b", "64 bodies compared: mapped (tcp 1K)", "cache-main 90 %",
                     "**No: not in every measure.**", "throughput, small objects | tcp 1K | mapped | +1 % [+1 %, +1 %] | -10 % | better",
                     "![Hits, resident](hits.svg)", "![Latency of hits, 1K](latency-1k.svg)", "restart-curve.svg"):
            self.assertIn(part, text)
        self.assertTrue((self.path / "hits.svg").read_text().startswith("<svg"))
        for line in text.splitlines():
            if line.startswith("| tcp") and "mapped" in line:
                self.assertEqual(line.replace("\\|", "").count("|") in (4, 5, 7), True, line)

    def test_an_empty_folder_has_a_report_too(self):
        with tempfile.TemporaryDirectory() as folder:
            text = report.Report(results.Results(folder), pathlib.Path(folder)).write().read_text()
        self.assertIn("Not measured.", text)


class Rounds(unittest.TestCase):
    """Who fails is named, and the others go on."""

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.held = results.Results(self.folder.name)
        self.bench = bench.Bench(self.held, "try", verbose=False)

    def test_a_contestant_that_fails_is_out_of_the_case(self):
        order = []

        def once(contestant, number):
            order.append(contestant)
            if contestant == "b" and number == 1:
                raise RuntimeError("broken")
            return {"cpu_us": 1.0}

        with self.bench.a_work("hits", float("inf")):
            field = bench.Field(self.bench, None, {"a", "b"})
            field.running = {"a": "a", "b": "b"}
            field.rounds("case", 3, once)
        self.assertEqual(order, ["a", "b", "b", "a", "a"])  # who begins changes
        self.assertEqual(self.held.samples("hits", "case", "a", "cpu_us"), [1.0, 1.0, 1.0])
        self.assertEqual(self.held.work("hits")["failures"], [["case", "b", "RuntimeError: broken"]])

    def test_figures_of_who_did_not_answer_from_its_cache_are_dropped(self):
        def afterwards(contestant):
            raise bench.Wrong("the origin was asked")

        with self.bench.a_work("hits", float("inf")):
            field = bench.Field(self.bench, None, {"a", "b"})
            field.running = {"a": "a"}
            field.rounds("case", 2, lambda c, n: {"cpu_us": 1.0}, afterwards)
        self.assertEqual(self.held.work("hits")["cases"]["case"], {})

    def test_time_ends_a_case_after_two_rounds(self):
        with self.bench.a_work("hits", 0.0):
            field = bench.Field(self.bench, None, {"a", "b"})
            field.running = {"a": "a"}
            field.rounds("case", 20, lambda c, n: {"cpu_us": 1.0})
        self.assertEqual(self.held.rounds("hits", "case", "a", "cpu_us"), 2)

    def test_rivals_sit_out_the_rounds_after_the_fifth(self):
        with self.bench.a_work("hits", float("inf")):
            field = bench.Field(self.bench, None, {"a"})
            field.running = {"a": "a", "rival": "rival"}
            field.rounds("case", 7, lambda c, n: {"cpu_us": 1.0 + n})
        self.assertEqual(self.held.rounds("hits", "case", "a", "cpu_us"), 7)
        self.assertEqual(self.held.samples("hits", "case", "rival", "cpu_us"), [1.0, 2.0, 3.0, 4.0, 5.0])

    def test_a_work_that_breaks_is_in_the_report_and_on_disk(self):
        with self.bench.a_work("hits", float("inf")):
            raise ValueError("a mistake of ours")
        saved = json.loads((pathlib.Path(self.folder.name) / "results.json").read_text())
        self.assertIn("a mistake of ours", saved["works"]["hits"]["failures"][0][2])


class Plans(unittest.TestCase):
    def test_every_work_has_what_run_needs(self):
        import contestants
        import works
        for name, module in works.ALL.items():
            for mode, plan in module.PLANS.items():
                self.assertIn("seconds", plan, (name, mode))
                self.assertLessEqual(set(plan.get("who", ())), set(contestants.ALL), name)
            self.assertLessEqual(set(module.SHOW), set(results.METRICS), name)
            self.assertIn("try", module.PLANS)
        quick = sum(m.PLANS["quick"]["seconds"] for m in works.ALL.values() if "quick" in m.PLANS)
        self.assertLessEqual(quick, 290)


if __name__ == "__main__":
    unittest.main()
