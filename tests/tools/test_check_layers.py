import unittest

from tree import TreeTest, load

layers = load("check_layers")


class Layers(TreeTest):
    def test_downwards_is_fine(self):
        self.write("src/store/put.cc", '#include "store/put.h"\n#include "posix/memfd.h"\n#include <vector>\n')
        self.assertEqual(layers.check(self.root), [])

    def test_upwards_is_not(self):
        self.write("src/store/put.cc", '#include "server/session.h"\n')
        self.assertEqual(layers.check(self.root), ["src/store/put.cc: store/ may not include server/ (server/session.h)"])

    def test_a_subfolder_belongs_to_its_layer(self):
        self.write("src/store/catalog/journal.h", '#  include "wire/codec.h"\n')
        self.assertEqual(len(layers.check(self.root)), 1)

    def test_the_store_never_learns_of_the_client_but_its_test_may_use_the_interface(self):
        self.write("src/server/session_test.cc", '#include "objmapper/client.h"\n')
        self.write("src/server/session.cc", '#include "objmapper/client.h"\n')
        self.assertEqual([p.split(":")[0] for p in layers.check(self.root)], ["src/server/session.cc"])

    def test_everybody_may_speak_of_a_result(self):
        self.write("src/base/result.h", '#include "objmapper/result.h"\n')
        self.assertEqual(layers.check(self.root), [])

    def test_only_the_vmod_sees_varnish(self):
        self.write("vmod/storage.cc", '#include "cache/cache.h"\n#include "abi/v7_1.h"\n#include "region/region.h"\n')
        self.write("src/region/region.h", '#include "cache/cache.h"\n')
        self.assertEqual([p.split(":")[0] for p in layers.check(self.root)], ["src/region/region.h"])

    def test_a_layer_within_another_has_its_own_row(self):
        self.write("bench/trace/trace.cc", '#include "store/eviction/policy.h"\n#include "trace/trace.h"\n')
        self.write("bench/hits.cc", '#include "store/eviction/policy.h"\n')
        self.assertEqual([p.split(":")[0] for p in layers.check(self.root)], ["bench/hits.cc"])

    def test_links_count_as_includes(self):
        self.write("src/wire/CMakeLists.txt", "om_library(om_wire SOURCES a.cc USES om_base om_posix)\n")
        self.assertEqual(layers.check(self.root), ["src/wire/CMakeLists.txt: om_wire may not link om_posix"])

    def test_the_client_is_linked_by_those_who_use_the_interface(self):
        self.write("src/cli/CMakeLists.txt", "om_library(om_cli SOURCES a.cc USES om_client om_base om_posix)\n")
        self.assertEqual(layers.check(self.root), [])


if __name__ == "__main__":
    unittest.main()
