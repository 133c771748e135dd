import unittest

from tree import TreeTest, load

check_format = load("check_format")


class Format(TreeTest):
    def setUp(self):
        super().setUp()
        self.write(".clang-format", "BasedOnStyle: Google\n")
        self.write("good.cc", "int f() { return 1; }\n")
        self.write("bad.cc", "int  f( ) {return 1;}\n")
        self.track()
        self.write("untracked.cc", "int  g( );\n")

    def test_names_the_one_that_is_not_formatted(self):
        self.assertEqual(check_format.check(self.root), ["bad.cc"])

    def test_fix_formats_it_and_only_it(self):
        check_format.check(self.root, fix=True)
        self.assertEqual((self.root / "bad.cc").read_text(), "int f() { return 1; }\n")
        self.assertEqual((self.root / "untracked.cc").read_text(), "int  g( );\n")
        self.assertEqual(check_format.check(self.root), [])


if __name__ == "__main__":
    unittest.main()
