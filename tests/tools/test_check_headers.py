import json
import unittest

from tree import TreeTest, load

headers = load("check_headers")


class Headers(TreeTest):
    def check(self):
        self.write("build/compile_commands.json", json.dumps([
            {"file": str(self.root / "src/a/a.cc"), "command": f"g++ -I{self.root}/src -std=gnu++20 -O2 -o a.o -c a.cc"}
        ]))
        return headers.check(self.root / "build", self.root)

    def test_one_that_needs_nothing_before_it(self):
        self.write("src/a/a.h", "#pragma once\n#include <string>\ninline std::string a();\n")
        self.assertEqual(self.check(), ([], 1))

    def test_one_that_does(self):
        self.write("src/a/a.h", "#pragma once\ninline std::string a();\n")
        failed, _ = self.check()
        self.assertEqual([name for name, _ in failed], ["src/a/a.h (c++)"])
        self.assertIn("string", failed[0][1])

    def test_a_change_further_down_is_seen(self):
        self.write("src/a/b.h", "#pragma once\nusing B = int;\n")
        self.write("src/a/a.h", '#pragma once\n#include "a/b.h"\ninline B a();\n')
        self.assertEqual(self.check()[0], [])
        self.write("src/a/b.h", "#pragma once\n")
        self.assertEqual([name for name, _ in self.check()[0]], ["src/a/a.h (c++)"])

    def test_one_that_its_source_includes_first_is_left_to_the_build(self):
        self.write("src/a/a.h", "#pragma once\ninline std::string a();\n")
        self.write("src/a/a.cc", '// Of strings.\n#include "a/a.h"\n\n#include <string>\n')
        self.assertEqual(self.check(), ([], 1))
        for before in ("#include <string>\n", "#define X 1\n", '#include "a/b.h"\n'):
            self.write("src/a/a.cc", before + '#include "a/a.h"\n')
            self.assertEqual([name for name, _ in self.check()[0]], ["src/a/a.h (c++)"])

    def test_a_header_of_the_c_interface_is_compiled_as_c_too(self):
        self.write("include/o/o.h", '#ifdef __cplusplus\nextern "C" {\n#endif\nbool f(void);\n#ifdef __cplusplus\n}\n#endif\n')
        self.assertEqual([name for name, _ in self.check()[0]], ["include/o/o.h (c)"])


if __name__ == "__main__":
    unittest.main()
