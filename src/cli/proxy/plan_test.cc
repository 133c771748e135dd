#include "cli/proxy/plan.h"

#include <gtest/gtest.h>

namespace om::cli::proxy {
namespace {

TEST(ShellLine, IsReadBackByAShell) {
  EXPECT_EQ(shell_line({"objmapperd", "--memory", "64M", "-a", "http=[::1]:80"}),
            "objmapperd --memory 64M -a 'http=[::1]:80'");
  EXPECT_EQ(shell_line({"a b", "", "$(x)"}), "'a b' '' '$(x)'");
  EXPECT_EQ(shell_line({"/it's/here; rm -r x"}), R"('/it'\''s/here; rm -r x')");
}

}  // namespace
}  // namespace om::cli::proxy
