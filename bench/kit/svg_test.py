import unittest
import xml.etree.ElementTree

from kit import plots, svg


class Scales(unittest.TestCase):
    def test_twice_and_half_are_equally_far_from_one(self):
        axis = svg.Log(0.25, 4, 0, 100)
        self.assertAlmostEqual(axis(1), 50)
        self.assertAlmostEqual(axis(2) - axis(1), axis(1) - axis(0.5))

    def test_ticks_lie_within_and_are_enough(self):
        for low, high in ((0.9, 1.1), (0.5, 2), (0.01, 1000)):
            ticks = svg.Log(low, high, 0, 100).ticks()
            self.assertGreaterEqual(len(ticks), 2, (low, high))
            self.assertTrue(all(low * 0.99 <= t <= high * 1.01 for t in ticks))
        self.assertEqual(svg.Linear(0, 10, 0, 1).ticks(), [0, 2, 4, 6, 8, 10])
        self.assertEqual(svg.Linear(-1, 1, 0, 1).ticks(4)[0], -1)

    def test_an_axis_of_one_value_is_no_division_by_zero(self):
        self.assertEqual(svg.Linear(5, 5, 0, 10)(5), 0)
        svg.Log(0, 0, 0, 10)(1)

    def test_labels(self):
        self.assertEqual([svg.label(x) for x in (0.5, 12, 1500, 2e6)], ["0.5", "12", "1.5k", "2M"])


class Plots(unittest.TestCase):
    def parsed(self, text):
        return xml.etree.ElementTree.fromstring(text)

    def test_a_ratio_plot_is_xml_with_a_dot_for_each_contestant_and_the_bound(self):
        text = plots.ratio("Hits & <misses>", "sub", [("1K", [("mapped", (1.0, 0.9, 1.1)), ("dual", (0.5, 0.4, 0.6))]), ("none", [])],
                           bounds={"1K": 1.05})
        root = self.parsed(text)
        space = "{http://www.w3.org/2000/svg}"
        self.assertEqual(len(root.findall(space + "circle")), 2)
        self.assertEqual(len([line for line in root.findall(space + "line") if line.get("stroke-dasharray")]), 1)
        self.assertEqual(root.find(space + "title").text, "Hits & <misses>")

    def test_no_label_of_a_ratio_plot_lies_on_another(self):
        root = self.parsed(plots.ratio("t", "s", [("1K", [("varnish-malloc", (10.81, 10.51, 111.45))])]))
        texts = {text.text: text for text in root.findall("{http://www.w3.org/2000/svg}text")}
        median, interval = texts["10.81"], texts["10.51–111.45"]
        self.assertEqual(median.get("text-anchor"), "end")
        self.assertLess(float(median.get("x")), float(interval.get("x")))
        self.assertGreaterEqual(float(texts["varnish-malloc"].get("y")) - float(texts["1K"].get("y")), 13)

    def test_curves_share_the_x_axis(self):
        text = plots.lines("t", "s", [("a", {"mapped": [[0, 1], [1, 2]], "empty": []}, False), ("b", {"dual": [[0, 10], [2, 1000]]}, True)],
                           "x", marks=((0, "here"),))
        root = self.parsed(text)
        self.assertEqual(len(root.findall("{http://www.w3.org/2000/svg}polyline")), 2)

    def test_without_data_there_is_no_plot(self):
        self.assertIsNone(plots.ratio("t", "s", [("c", [])]))
        self.assertIsNone(plots.lines("t", "s", [("a", {}, False)], "x"))


if __name__ == "__main__":
    unittest.main()
