import unittest

from tree import TreeTest, load

neutral = load("check_neutral")


class Neutral(TreeTest):
    def test_what_does_not_belong(self):
        for text in ["see /work/main/x", "/home/joe/x", "from pypi.org", "as in DESIGN.md", "ask my colleague"]:
            self.assertEqual(len(list(neutral.check_text(text))), 1, text)

    def test_words_that_only_look_like_it(self):
        for text in ["the work /var/lib", "https://example.org/work/item", "a session of a peer", "ARCHITECTURE.md"]:
            self.assertEqual(list(neutral.check_text(text)), [], text)

    def test_only_tracked_text_counts(self):
        self.write("a.md", "fine\n/home/joe/secret\n")
        (self.root / "b.bin").write_bytes(b"\0/home/joe/")
        self.track()
        self.write("c.md", "/home/joe/")
        self.assertEqual(neutral.check(self.root), ["a.md:2: /home/joe/: a path of one machine"])


if __name__ == "__main__":
    unittest.main()
