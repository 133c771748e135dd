"""docs/h2o.md and docs/handoff.md as they are run by tests: the files of the page, put into a directory of
the test's own, and the programs that read them.

What differs from the page is what has to on a machine where others run tests too: ports,
directories, the size of the store. Started by somebody else than root, nobody changes users."""
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import tempfile

from proxy.proxied import BUILD, free_port
from support.daemon import Daemon, wait_until
from support.reachable import reachable

SOURCE = pathlib.Path(os.environ["OM_SOURCE_DIR"])
HOST = "www.example.org"
IS_ROOT = os.geteuid() == 0


def blocks(name):
    """name of a file -> its text, and the shell commands of the page."""
    page = (SOURCE / "docs" / name).read_text()
    files = dict(re.findall(r"^[^\n]*`(/etc/[^`]+)`:\n\n```\w+\n(.*?)^```$", page, re.M | re.S))
    shell = re.findall(r"^```sh\n(.*?)^```$", page, re.M | re.S)
    assert len(files) + len(shell) == len(re.findall(r"^```\w+$", page, re.M)), "a block without a name"
    return files, shell


class Chain:
    """A directory with the page's files in it. start_h2o() and start_varnish() run them."""

    def __init__(self, page="h2o.md"):
        self.directory = tempfile.mkdtemp(prefix="om-h2o-", dir="/tmp")
        os.chmod(self.directory, 0o755)
        self.ports = {}
        self.started = []
        files, self.shell = blocks(page)
        for name in ("etc", "run", "www"):
            os.mkdir(self.path(name))
        if IS_ROOT:
            os.chmod(self.path("run"), 0o777)
        self.daemon = Daemon(memory="224M")
        os.chmod(self.daemon.directory, 0o755)
        os.chmod(self.daemon.socket, 0o666)
        for name, text in files.items():
            pathlib.Path(self.path("etc", os.path.basename(name))).write_text(self.moved(text, name))
        if page == "h2o.md":
            certificate, self.look = (self.moved(command, "/etc/h2o/front.conf") for command in self.shell)
            subprocess.run(certificate, shell=True, check=True, capture_output=True, timeout=60)
            self.certificate = self.path("etc", "cert.pem")

    def path(self, *parts):
        return os.path.join(self.directory, *parts)

    def port(self, name):
        """That of the TCP listener of a file of the page; the VCL for an origin over TCP means origin.conf's."""
        name = {"origin.vcl": "origin.conf"}.get(os.path.basename(name), os.path.basename(name))
        if name not in self.ports:
            self.ports[name] = free_port()
        return self.ports[name]

    def moved(self, text, name):
        """The page's text with our places in it."""
        places = {"/etc/h2o/": "etc/", "/etc/varnish/": "etc/", "/run/h2o/": "run/", "/run/varnish/": "run/",
                  "/run/origin.sock": "run/origin.sock", "/var/www": "www"}
        # In one pass: what was moved may look like one of theirs.
        text = re.sub("|".join(map(re.escape, places)), lambda found: self.path(places[found[0]]), text)
        vmod = reachable(os.path.join(BUILD, "lib/libvmod_objmapper.so"))
        vcl = reachable(str(SOURCE / "vmod/objmapper.vcl"))
        for pattern, replacement in (
                (r'port: (443|8081)$', f"port: {self.port(name)}"),
                (r'\.port = "(8081)"', f'.port = "{self.port(name)}"'),
                (r"example.org:443:", f"example.org:{self.port(name)}:"),
                (r"https://www.example.org/", f"https://www.example.org:{self.port(name)}/"),
                (r"import objmapper;", f'import objmapper from "{vmod}";'),
                (r'include "objmapper.vcl"', f'include "{vcl}"'),
                (r"director\(\)", f'director(socket = "{self.daemon.socket}")'),
                (r"storage\(memory = 2GB\)", f'storage(socket = "{self.daemon.socket}", memory = 128MB)')):
            text = re.sub(pattern, replacement, text, flags=re.M)
        if not IS_ROOT:
            text = re.sub(r"^ *(user|owner): .*\n|,user=[\w-]+", "", text, flags=re.M)
        return text

    def spawn(self, command, log):
        with open(self.path(log), "ab") as output:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        self.started.append(process)
        return process

    def text(self, name):
        return pathlib.Path(self.path(name)).read_text(errors="replace")

    def wait_for(self, process, log, condition, what):
        def there():
            if process.poll() is not None:
                raise AssertionError(f"{what}: ended with {process.returncode}:\n{self.text(log)}")
            return condition()
        try:
            wait_until(there, what, 60)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.text(log)}") from None

    def start_h2o(self, name, change=lambda text: text):
        """H2O with the file `name` of the page; `change` is what a test adds to it."""
        conf = pathlib.Path(self.path("etc", name))
        changed = pathlib.Path(self.path("etc", "run-" + name))
        changed.write_text(change(conf.read_text()))
        log = f"h2o-{name}-{len(self.started)}.log"
        process = self.spawn(["h2o", "-c", str(changed)], log)
        self.wait_for(process, log, lambda: "is ready to serve" in self.text(log), f"h2o -c {name}")
        return process

    def varnishd_command(self, vcl=None):
        """ExecStart= of the drop-in, or the plain one with another VCL on a TCP port."""
        if vcl is None:
            lines = re.sub(r"\\\n", " ", self.text("etc/listen.conf")).splitlines()
            command = shlex.split([line for line in lines if line.startswith("ExecStart=/")][0][len("ExecStart="):])
        else:
            command = ["/usr/sbin/varnishd", "-F", "-a", f"127.0.0.1:{self.varnish_port}", "-f",
                       self.path("etc", vcl), "-s", "malloc,64M"]
        return command + ["-n", self.path("varnish"), "-p", "cc_command=exec tcc -shared -fpic -o %o %s"]

    def start_varnish(self, vcl=None):
        self.varnish_port = free_port()
        process = self.spawn(self.varnishd_command(vcl), "varnishd.log")
        self.wait_for(process, "varnishd.log", lambda: "Child starts" in self.text("varnishd.log"), "varnishd")
        return process

    def stop(self, process):
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def counters(self):
        shown = subprocess.run(["varnishstat", "-n", self.path("varnish"), "-1"], capture_output=True, text=True,
                               timeout=60, check=True)
        return {line.split()[0]: int(line.split()[1]) for line in shown.stdout.splitlines() if line}

    def storages(self):
        """URL -> the Storage records of its fetches."""
        shown = subprocess.run(["varnishlog", "-n", self.path("varnish"), "-d", "-b", "-g", "vxid", "-i",
                                "BereqURL,Storage"], capture_output=True, text=True, timeout=60)
        found = {}
        for url, storage in re.findall(r"BereqURL\s+(\S+)\n-\s+Storage\s+(.*)", shown.stdout):
            found.setdefault(url, set()).add(storage.strip())
        return found

    def close(self):
        for process in reversed(self.started):
            if process.poll() is None:
                # An H2O that is asked to end waits for its connections.
                if process.args[0] == "h2o":
                    process.kill()
                self.stop(process)
        self.daemon.close()
        shutil.rmtree(self.directory, ignore_errors=True)
