"""A stranger's program against what `cmake --install` puts down: pkg-config, CMake package, C and
C++, shared and static, also after the installed tree was moved."""

import os
import shutil
import subprocess
import tempfile
import unittest

from support.daemon import BUILD, Daemon

SOURCE = os.environ.get("OM_SOURCE_DIR", os.path.join(os.path.dirname(__file__), "../.."))
EXAMPLES = os.path.join(SOURCE, "examples")

CMAKELISTS = """cmake_minimum_required(VERSION 3.20)
project(stranger LANGUAGES C CXX)
find_package(objmapper REQUIRED)
add_executable(hello_cc {examples}/hello.cc)
target_link_libraries(hello_cc PRIVATE objmapper::objmapper)
add_executable(hello_static {examples}/hello.cc)
target_link_libraries(hello_static PRIVATE objmapper::objmapper_static)
"""


def run(*command, **more):
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, **more)
    if done.returncode != 0:
        raise AssertionError(f"{command}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


class Install(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = tempfile.mkdtemp(prefix="om-install-")
        staged = os.path.join(cls.directory, "staged")
        run("cmake", "--install", BUILD, "--prefix", staged, "--component", "client")
        cls.prefix = os.path.join(cls.directory, "moved", "here")
        os.makedirs(os.path.dirname(cls.prefix))
        os.rename(staged, cls.prefix)
        found = []
        for folder, _, files in os.walk(cls.prefix):
            found += [folder for name in files if name == "objmapper.pc"]
        cls.environment = dict(os.environ, PKG_CONFIG_PATH=found[0],
                               LD_LIBRARY_PATH=os.path.dirname(found[0]))
        cls.daemon = Daemon(memory="16M")

    @classmethod
    def tearDownClass(cls):
        cls.daemon.close()
        shutil.rmtree(cls.directory, ignore_errors=True)

    def flags(self, *more):
        return run("pkg-config", *more, "--cflags", "--libs", "objmapper",
                   env=self.environment).split()

    def says_hello(self, program):
        self.assertEqual(run(program, self.daemon.socket, env=self.environment), "hello, world\n")

    def test_c_through_pkg_config(self):
        program = os.path.join(self.directory, "hello-c")
        run("cc", "-std=c99", "-Wall", "-Werror", os.path.join(EXAMPLES, "hello.c"),
            *self.flags(), "-o", program)
        self.says_hello(program)

    def test_cc_through_pkg_config(self):
        program = os.path.join(self.directory, "hello-cc")
        run("c++", "-std=c++20", "-Wall", "-Wextra", "-Werror", os.path.join(EXAMPLES, "hello.cc"),
            *self.flags(), "-o", program)
        self.says_hello(program)

    def test_flags_name_the_place_where_it_lies_now(self):
        self.assertIn(f"-I{self.prefix}/include",
                      [os.path.normpath(flag.replace("-I", "")) and
                       "-I" + os.path.normpath(flag[2:]) for flag in self.flags()
                       if flag.startswith("-I")])

    def test_cmake_package_shared_and_static(self):
        project = os.path.join(self.directory, "project")
        os.makedirs(project)
        with open(os.path.join(project, "CMakeLists.txt"), "w") as file:
            file.write(CMAKELISTS.format(examples=os.path.abspath(EXAMPLES)))
        build = os.path.join(project, "build")
        run("cmake", "-S", project, "-B", build, "-G", "Ninja", f"-DCMAKE_PREFIX_PATH={self.prefix}")
        run("cmake", "--build", build, "-j2")
        self.says_hello(os.path.join(build, "hello_cc"))
        self.says_hello(os.path.join(build, "hello_static"))

    def test_nobody_there_is_an_error_in_words(self):
        program = os.path.join(self.directory, "hello-nobody")
        run("cc", os.path.join(EXAMPLES, "hello.c"), *self.flags(), "-o", program)
        done = subprocess.run([program, "/nonexistent/s"], capture_output=True, text=True,
                              env=self.environment, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("unavailable", done.stderr)

    def test_the_library_shows_nothing_else(self):
        library = next(os.path.join(folder, name) for folder, _, files in os.walk(self.prefix)
                       for name in files if name.startswith("libobjmapper.so."))
        shown = run("nm", "-D", "--defined-only", "-C", library).splitlines()
        names = [line.split(" ", 2)[2] for line in shown]
        for name in names:
            self.assertTrue(name.startswith(("om_", "om::Client::", "om::Claim::", "om::Lease::", "om::Writer::",
                                             "om::Pool::", "om::Follower::", "om::RemovalHead::",
                                             "om::expires_in", "om::commit(",
                                             "om::release(", "om::describe",
                                             "om::to_string", "OBJMAPPER_0")), name)
        self.assertIn("om_client_open@@OBJMAPPER_0", names)


if __name__ == "__main__":
    unittest.main()
