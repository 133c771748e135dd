"""Every file of docs/vcl/ is loaded by varnishd and serves: where its objects lie is in the log."""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from proxied import BUILD, Origin, free_port  # noqa: E402
from support.daemon import Daemon, wait_until  # noqa: E402

SOURCE = pathlib.Path(os.environ["OM_SOURCE_DIR"])
MIB = 1 << 20

# file: {(path, content type, length): the store that must have it, or None for varnishd's own}
EXPECTED = {
    "start.vcl": {("/a", "text/html", 100): "store"},
    "by_url.vcl": {("/media/a", "text/html", 100): "store", ("/a", "text/html", 100): None},
    "by_content_type.vcl": {("/a", "image/png", 100): "store", ("/b", "text/html", 100): None},
    "large_media.vcl": {("/a", "video/mp4", MIB): "media", ("/b", "video/mp4", MIB - 1): None},
    "two_stores.vcl": {("/a", "image/png", 100): "media", ("/b", "text/html", 100): "pages"},
    "several_sites.vcl": {("/shop", "text/html", 100): "store_shop", ("/blog", "text/html", 100): "store_blog"},
    "percentage.vcl": {},
}


class Varnish:
    """varnishd with one of the files, pointed at our ports, sockets and a smaller memory."""

    def __init__(self, name, origin_port, socket):
        self.directory = tempfile.mkdtemp(prefix="om-vcl-")
        os.chmod(self.directory, 0o755)
        for what in (pathlib.Path(BUILD) / "lib/libvmod_objmapper.so", SOURCE / "vmod/objmapper.vcl"):
            shutil.copy(what, self.directory)
        text = (SOURCE / "docs/vcl" / name).read_text()
        text = text.replace("import objmapper;", f'import objmapper from "{self.directory}/libvmod_objmapper.so";')
        text = text.replace('include "objmapper.vcl"', f'include "{self.directory}/objmapper.vcl"')
        text = text.replace('.port = "8081"', f'.port = "{origin_port}"')
        text = re.sub(r"storage\(memory = \w+\)", f'storage(socket = "{socket}", memory = 16MB)', text)
        self.vcl = os.path.join(self.directory, "test.vcl")
        pathlib.Path(self.vcl).write_text(text)
        self.port = free_port()
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            ["/usr/sbin/varnishd", "-F", "-n", self.directory + "/n", "-i", name.replace(".", "-"), "-f", self.vcl,
             "-a", f"127.0.0.1:{self.port}", "-s", "s0=malloc,32M", "-p", "cc_command=exec tcc -shared -fpic -o %o %s"],
            stdout=self.log, stderr=subprocess.STDOUT)

    def get(self, path, host):
        """The X-Varnish of the answer, once there is one; asserts on the body's length."""
        import http.client

        def attempt():
            if self.process.poll() is not None:
                raise AssertionError(os.pread(self.log.fileno(), 1 << 16, 0).decode())
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
            try:
                connection.request("GET", path, headers={"Host": host})
                response = connection.getresponse()
                return response.status, response.getheader("X-Varnish"), response.read()
            except (ConnectionError, http.client.BadStatusLine):
                return None
            finally:
                connection.close()
        return wait_until(attempt, "varnishd answers", 30)

    def storages(self):
        """URL -> the Storage record of its fetch."""
        shown = subprocess.run(["varnishlog", "-n", self.directory + "/n", "-d", "-b", "-g", "vxid", "-i",
                                "BereqURL,Storage"], capture_output=True, text=True, timeout=20)
        return dict(re.findall(r"BereqURL\s+(\S+)\n-\s+Storage\s+(.*)", shown.stdout))

    def close(self):
        self.process.terminate()
        self.process.wait(30)
        self.log.close()
        shutil.rmtree(self.directory, ignore_errors=True)


class TypedOrigin(Origin):
    def __init__(self, wanted):
        super().__init__()
        self.wanted = {path: (content_type, length) for path, content_type, length in wanted}
        self.types = {path: content_type for path, content_type, _ in wanted}
        self.body = lambda path: b"x" * self.wanted.get(path, ("", 100))[1]

    def headers_for(self, path):
        return {"Content-Type": self.types.get(path, "text/html"), **self.headers}


class DocsVcl(unittest.TestCase):
    def test_every_file_has_its_row(self):
        self.assertEqual({p.name for p in (SOURCE / "docs/vcl").glob("*.vcl")}, set(EXPECTED))

    def test_every_file_puts_objects_where_it_says(self):
        for name, rows in EXPECTED.items():
            with self.subTest(name):
                self.run_one(name, rows)

    def run_one(self, name, rows):
        origin = TypedOrigin(rows)
        self.addCleanup(origin.stop)
        with Daemon(memory="80M") as daemon:
            os.chmod(daemon.directory, 0o755)
            if os.path.exists(daemon.socket):
                os.chmod(daemon.socket, 0o666)
            varnish = Varnish(name, origin.server.server_address[1], daemon.socket)
            try:
                for path, _, length in rows:
                    host = path[1:] + ".example.org"
                    status, first, body = varnish.get(path, host)
                    self.assertEqual((status, len(body)), (200, length), path)
                    status, second, body = varnish.get(path, host)
                    self.assertEqual(len(second.split()), 2, f"{name}: {path} is no hit: {second}")
                if name == "percentage.vcl":
                    for i in range(300):
                        varnish.get(f"/p{i}", "a")
                    wait_until(lambda: len(varnish.storages()) == 300, "all are logged")
                    ours = sum("objmapper" in s for s in varnish.storages().values())
                    self.assertTrue(8 <= ours <= 70, ours)
                    return
                storages = wait_until(lambda: len(s := varnish.storages()) == len(rows) and s, "all are logged")
                for (path, _, _), store in rows.items():
                    self.assertEqual(storages[path], f"objmapper {store}" if store else "malloc s0", (name, path))
            finally:
                varnish.close()


if __name__ == "__main__":
    unittest.main()
