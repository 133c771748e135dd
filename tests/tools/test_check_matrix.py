import unittest

from tree import TreeTest, load

matrix = load("check_matrix")

HEAD = "| promise | tests |\n|---|---|\n"


class Matrix(TreeTest):
    def test_a_row_with_a_test_that_exists(self):
        self.assertEqual(matrix.check(HEAD + "| kept | `a` and `b` |\n", {"a": False, "b": False}), [])

    def test_a_row_without_a_test(self):
        self.assertEqual(matrix.check("text\n\n" + HEAD + "| kept | later |\n", {}), ["line 5: names no test: kept"])

    def test_a_name_that_nobody_knows(self):
        self.assertEqual(matrix.check(HEAD + "| kept | `a` |\n", {"b": False}), ["line 3: ctest knows no a"])

    def test_a_disabled_test_keeps_no_promise(self):
        self.assertEqual(matrix.check(HEAD + "| kept | `a` |\n", {"a": True}), ["line 3: a is disabled"])

    def test_only_the_last_column_names_tests(self):
        self.assertEqual(matrix.check(HEAD + "| `-s malloc` too | `a` |\n", {"a": False}), [])

    def test_the_header_of_a_second_table_is_no_promise(self):
        text = HEAD + "| kept | `a` |\n\n" + HEAD + "| kept | `a` |\n"
        self.assertEqual(matrix.check(text, {"a": False}), [])

    def test_parked_tests_are_found(self):
        self.write("vmod/tests/x.vtc.disabled", "")
        self.write("src/a/a_test.cc", "TEST(A, DISABLED_Slow) {}\n")
        self.assertEqual(len(matrix.parked(self.root)), 2)


if __name__ == "__main__":
    unittest.main()
