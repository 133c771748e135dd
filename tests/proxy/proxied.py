"""An origin whose answers a test decides, and an `objm proxy` in front of it."""
import http.client
import http.server
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import uuid

from support.daemon import BUILD, OBJM, wait_until


def free_port():
    """A port that is free now. Two tests at once may be given the same one only if both ask between
    our close and the use of it, so ports come from a range of this process's own."""
    for _ in range(200):
        free_port.next = 20000 + (os.getpid() * 37 + free_port.count * 101) % 12000
        free_port.count += 1
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", free_port.next))
            except OSError:
                continue
            return free_port.next
    raise AssertionError("no free port")


free_port.count = 0


class Origin:
    """Answers every path with its own text; `count` requests were seen (the probe's are not
    counted); stop() makes it refuse connections."""

    def __init__(self, socket_path=None):
        self.count = 0
        self.status = 200
        self.headers = {"Cache-Control": "max-age=600"}
        self.last = {}
        origin = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"  # no connection outlives stop()

            def log_message(self, *_):
                pass

            def address_string(self):
                return "client"

            def do_GET(self):
                body = origin.body(self.path)
                if self.headers.get("User-Agent") != "objm-proxy-probe":
                    origin.count += 1
                    origin.last = dict(self.headers)
                self.send_response(origin.status)
                self.send_header("Content-Length", str(len(body)))
                for name, value in origin.headers_for(self.path).items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_HEAD = do_GET

        if socket_path:
            class UnixServer(http.server.ThreadingHTTPServer):
                address_family = socket.AF_UNIX

                def server_bind(self):
                    self.socket.bind(self.server_address)
                    os.chmod(self.server_address, 0o666)
                    self.server_name, self.server_port = "localhost", 80

                def get_request(self):
                    return self.socket.accept()[0], ("client", 0)

            self.server = UnixServer(socket_path, Handler)
            self.url = "unix:" + socket_path
        else:
            self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
            self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def headers_for(self, _path):
        return self.headers

    @staticmethod
    def body(path):
        return (path + "\n").encode() * 100

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


def processes_with(text):
    """Pids whose command line contains `text`."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                state = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
            except OSError:
                continue
            if text in line and state != "Z":
                found.append(int(entry.name))
    return found


class Proxy:
    """A running `objm proxy`. Everything of it carries `name`, which nobody else has."""

    def __init__(self, origin, *extra, memory="64M", port=None, user=None, objm=OBJM, name=None, environment=None,
                 **more):
        self.port = port or free_port()
        self.name = name or "t" + uuid.uuid4().hex[:10]
        self.command = [objm, "proxy", "--origin", origin, "--listen", f"127.0.0.1:{self.port}",
                        "--memory", memory, "--name", self.name, *extra]
        self.output = tempfile.TemporaryFile()
        settings = {"user": user, "group": user, "extra_groups": []} if user is not None else {}
        settings = {"stderr": subprocess.STDOUT, **settings, **more}
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=self.output,
                                        env=environment, **settings)

    def said(self):
        return os.pread(self.output.fileno(), 1 << 20, 0).decode(errors="replace")

    def wait_ready(self):
        def ready():
            if self.process.poll() is not None:
                raise AssertionError(f"objm proxy ended with {self.process.returncode}:\n{self.said()}")
            return "is ready" in self.said()
        try:
            wait_until(ready, "objm proxy is ready", 60)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.said()}") from None
        return self

    def get(self, path="/", method="GET", headers=None):
        """(status, X-Cache, body); a connection that is refused is tried again for a while."""
        def attempt():
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
            try:
                connection.request(method, path, headers=headers or {})
                response = connection.getresponse()
                body = response.read()
                return response.status, response.getheader("X-Cache"), body
            except (ConnectionError, http.client.BadStatusLine):
                return None
            finally:
                connection.close()
        return wait_until(attempt, "the proxy answers", 30)

    def varnishds(self):
        return processes_with(f"/{self.name}/varnish")

    def daemons(self):
        return [pid for pid in processes_with(f"/{self.name}/store/objmapper.sock") if pid != self.process.pid]

    def keeps(self, path):
        """Whether `path` is whole in the cache's region. A client has its body a moment earlier than that."""
        text = pathlib.Path(f"/proc/{self.daemons()[0]}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        sock = re.search(rf"\S*/{self.name}/store/objmapper.sock", text).group().split("=")[-1]
        listed = subprocess.run([OBJM, "--socket", sock, "list", "--regions"], capture_output=True, text=True,
                                timeout=20)
        return any(word.endswith(path) for word in listed.stdout.split())

    def stop(self, seconds=30):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def clean(self):
        """Ends it for sure and removes what it keeps for its next start."""
        if self.process.poll() is None:
            self.stop()
        for directory in re.findall(r"(?:--memory-dir|in) (/dev/shm/\S+)", self.said()) + [
            f"/dev/shm/objm-proxy-{self.name}", f"/run/objm-proxy/{self.name}",
        ] + [str(p) for p in pathlib.Path("/dev/shm").glob(f"objm-proxy-*{self.name}")
        ] + [str(p) for p in pathlib.Path("/tmp").glob(f"objm-proxy-*/{self.name}")]:
            shutil.rmtree(directory, ignore_errors=True)
        self.output.close()
