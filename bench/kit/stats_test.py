import unittest

from kit import stats


class Interval(unittest.TestCase):
    def test_holds_the_median_and_narrows_with_samples(self):
        few = stats.median_interval([1.0, 1.1, 0.9, 1.05, 0.95])
        many = stats.median_interval([1.0, 1.1, 0.9, 1.05, 0.95] * 20)
        self.assertEqual(few[0], 1.0)
        self.assertLessEqual(few[1], few[0])
        self.assertLess(many[2] - many[1], few[2] - few[1] + 1e-9)

    def test_straddling_the_bound_is_undecided(self):
        self.assertEqual(stats.verdict((1.0, 0.9, 1.1), at_most=1.05), "undecided")
        self.assertEqual(stats.verdict((1.0, 0.9, 1.04), at_most=1.05), "met")
        self.assertEqual(stats.verdict((1.2, 1.1, 1.3), at_most=1.05), "missed")
        self.assertEqual(stats.verdict((1.2, 1.1, 1.3), at_least=1.05), "met")


if __name__ == "__main__":
    unittest.main()
