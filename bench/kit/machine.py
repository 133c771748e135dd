"""Real servers, started for a benchmark and ended by pid; what they cost, from /proc."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

TICK = os.sysconf("SC_CLK_TCK")
ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("OM_BUILD_DIR", ROOT / "build" / "release"))


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(condition, seconds=20, what="condition"):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.02)
    raise TimeoutError("%s did not come true within %d s" % (what, seconds))


def answers(port):
    with socket.socket() as s:
        s.settimeout(0.5)
        return s.connect_ex(("127.0.0.1", port)) == 0


def store_answers(path):
    """Whether an objmapperd answers there. Its socket is there a little earlier, and its mode is not yet final."""
    done = subprocess.run([str(BUILD / "bin" / "objm"), "--socket", str(path), "status"], capture_output=True)
    return done.returncode == 0


def family(pid):
    """pid and all its descendants."""
    children = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open("/proc/%s/stat" % entry) as f:
                    parent = int(f.read().rsplit(")", 1)[1].split()[1])
                children.setdefault(parent, []).append(int(entry))
            except (OSError, IndexError):
                pass
    result, todo = [], [pid]
    while todo:
        p = todo.pop()
        result.append(p)
        todo += children.get(p, [])
    return result


def cpu_seconds(pid):
    """User and system time of one process, its threads included, by the kernel's clock of it: /proc
    counts in ticks of 10 ms, too coarse for half a second of load."""
    try:
        return time.clock_gettime(-8 * pid - 6)  # MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED)
    except OSError:
        return 0.0


def process_name(pid):
    try:
        with open("/proc/%d/comm" % pid) as f:
            return f.read().strip()
    except OSError:
        return "?"


def machine_cpu_seconds():
    """What all processes and the kernel itself have used since boot."""
    with open("/proc/stat") as f:
        fields = [int(x) for x in f.readline().split()[1:]]
    idle, waiting, stolen = fields[3], fields[4], fields[7]
    return (sum(fields[:8]) - idle - waiting - stolen) / TICK


def anonymous_bytes(pid):
    """RssAnon and page tables of one process."""
    total = 0
    with open("/proc/%d/status" % pid) as f:
        for line in f:
            if line.startswith(("RssAnon:", "VmPTE:")):
                total += int(line.split()[1]) * 1024
    return total


@contextlib.contextmanager
def scratch():
    """(folder, files): a folder for this run that servers of other users may read, and in it one for what an origin has."""
    with tempfile.TemporaryDirectory(prefix="om-bench-") as folder:
        folder = pathlib.Path(folder)
        folder.chmod(0o755)
        files = folder / "files"
        files.mkdir()
        yield folder, files


def disk_bytes_read(folder):
    """That the disk below a folder was asked for since the machine started, whoever asked; None: it has no disk of its own."""
    device = os.stat(folder).st_dev
    try:
        with open("/sys/dev/block/%d:%d/stat" % (os.major(device), os.minor(device)), encoding="ascii") as file:
            return int(file.read().split()[2]) * 512
    except OSError:
        return None


def same_body(port, path, want):
    """Ends the run when what lies at `path` is anything but `want`."""
    with urllib.request.urlopen("http://127.0.0.1:%d%s" % (port, path)) as answer:
        if answer.read() != want:
            sys.exit("%s: another body" % path)


class Contestant:
    """Servers that together answer on `port`, and where they can on `unix`, a socket, and on
    `address`, of a network namespace. A context manager; `pids` are those that count. With a `group`
    (kit/cgroup.py) every process of it lives there from its first instruction on."""

    unix = None
    address = None
    group = None

    def __init__(self, name):
        self.name = name
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="om-bench-"))
        self.port = free_port()
        self.processes = []

    def spawn(self, *command, **options):
        if self.group is not None:
            options["preexec_fn"] = self.group.enter
        with open(self.folder / ("log.%d" % len(self.processes)), "a") as log:
            process = subprocess.Popen(
                [str(c) for c in command], stdout=log, stderr=log, stdin=subprocess.DEVNULL, **options
            )
        self.processes.append(process)
        return process

    def pids(self):
        return [pid for process in self.processes for pid in family(process.pid)]

    def cpu(self):
        return sum(cpu_seconds(pid) for pid in self.pids())

    def cpu_by_process(self):
        """Name to seconds; the processes of one name together."""
        result = {}
        for pid in self.pids():
            name = process_name(pid)
            result[name] = result.get(name, 0.0) + cpu_seconds(pid)
        return result

    def logs(self):
        return "\n".join(log.read_text(errors="replace")[-2000:] for log in sorted(self.folder.glob("log.*")))

    def ready(self):
        wait_for(lambda: answers(self.port) or self.processes[-1].poll() is not None, what=self.name + " to listen")
        if self.processes[-1].poll() is not None:
            raise RuntimeError("%s ended:\n%s" % (self.name, self.logs()[-1500:]))

    def __enter__(self):
        try:
            self.start()
            self.ready()
        except TimeoutError as late:
            said = self.logs()
            self.__exit__()
            raise RuntimeError("%s\n%s" % (late, said)) from late
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
        for process in reversed(self.processes):
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


class Origin(Contestant):
    """nginx on a folder of files, with headers that make them cacheable. `rules`: more of its language."""

    def __init__(self, files, rules=""):
        super().__init__("origin")
        self.files = files
        self.rules = rules

    def start(self):
        (self.folder / "nginx.conf").write_text(
            """
worker_processes 1; daemon off; error_log stderr; pid %(folder)s/pid;
events { worker_connections 1024; }
http { access_log off; sendfile on; keepalive_requests 1000000; etag off;
  client_body_temp_path %(folder)s/t1; proxy_temp_path %(folder)s/t2; fastcgi_temp_path %(folder)s/t3;
  uwsgi_temp_path %(folder)s/t4; scgi_temp_path %(folder)s/t5;
  server { listen 127.0.0.1:%(port)d; root %(files)s; add_header Cache-Control "max-age=86400"; %(rules)s } }
"""
            % {"folder": self.folder, "port": self.port, "files": self.files, "rules": self.rules}
        )
        self.folder.chmod(0o755)
        self.spawn("nginx", "-e", "stderr", "-c", self.folder / "nginx.conf")


class Varnish(Contestant):
    """Stock varnishd with a storage of its own (-s)."""

    def __init__(self, name, origin, storage="malloc,2g", parameters=()):
        super().__init__(name)
        self.origin = origin
        self.storage = storage
        self.parameters = parameters

    def vcl(self):
        return 'vcl 4.1; backend default { .host = "127.0.0.1"; .port = "%d"; }' % self.origin.port

    def start(self):
        self.folder.chmod(0o755)
        (self.folder / "v.vcl").write_text(self.vcl())
        command = ["varnishd", "-F", "-n", self.folder / "v", "-f", self.folder / "v.vcl"]
        command += ["-a", "127.0.0.1:%d" % self.port, "-s", self.storage]
        if self.unix:
            command += ["-a", "%s,mode=666" % self.unix]
        if self.address:
            command += ["-a", "%s:%d" % (self.address, self.port)]
        for parameter in self.parameters:
            command += ["-p", parameter]
        self.spawn(*command)

    def child(self):
        """The process that serves."""
        return family(self.processes[-1].pid)[-1]

    def counter(self, name):
        out = subprocess.run(
            ["varnishstat", "-n", self.folder / "v", "-j", "-1", "-f", name],
            capture_output=True, text=True, check=True,
        ).stdout
        counters = json.loads(out).get("counters", {})
        return sum(c["value"] for c in counters.values())


class Objmapper(Varnish):
    """The same varnishd with its cache in objmapper. `trusted`: it writes in place what it publishes."""

    def __init__(self, name, origin, memory="2G", mode="mapped", daemon_memory=None, parameters=(), trusted=False):
        super().__init__(name, origin, "malloc,64m", parameters)
        self.memory = memory
        self.mode = mode
        self.trusted = trusted
        self.daemon_memory = daemon_memory or memory

    def vcl(self):
        return super().vcl() + """
import objmapper from "%s/lib/libvmod_objmapper.so";
sub vcl_init { new store = objmapper.storage(socket = "%s/s", memory = %sB, mode = %s); store.set_default(); }
""" % (BUILD, self.folder, self.memory, self.mode)

    def start(self):
        # The memory tier lies on a tmpfs, as in production.
        self.memory_dir = pathlib.Path(tempfile.mkdtemp(prefix="om-bench-", dir=os.environ.get("OM_BENCH_SHM", "/dev/shm")))
        self.spawn(
            BUILD / "bin" / "objmapperd", "--socket", self.folder / "s", "--memory",
            self.daemon_memory, "--memory-dir", self.memory_dir, "--state-dir", self.folder / "state",
            # Started by root, varnishd's worker is another user.
            *(("--write-gid", "varnish") if self.trusted and os.getuid() == 0 else ()),
        )
        wait_for(lambda: store_answers(self.folder / "s"), what="objmapperd")
        os.chmod(self.folder / "s", 0o666)
        super().start()

    def ready(self):
        super().ready()
        # Blocks of a large region take a while on a busy machine; until then varnishd's own storage gets the objects.
        wait_for(lambda: self.counter("OBJM.*.g_space") > 0, seconds=60, what=self.name + " to have its region")

    def __exit__(self, *_):
        super().__exit__()
        shutil.rmtree(getattr(self, "memory_dir", "/nonexistent"), ignore_errors=True)


def load(contestant, urls, via="tcp", prefix=(), timeout=300, **options):
    """Runs objm-load against a contestant, by TCP on loopback, over its Unix socket, or with `prefix`
    from another network namespace; its JSON, with the CPU that the contestant used meanwhile:
    `server_cpu`, and `cpu_by_process` with the client's and the whole machine's beside it."""
    where = {"tcp": ["--port", contestant.port], "unix": ["--unix", contestant.unix],
             "veth": ["--address", contestant.address, "--port", contestant.port]}[via]
    command = [*prefix, BUILD / "bin" / "objm-load", *where, "--urls", urls]
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        command += [flag] if value is True else [flag, value]
    before, machine_before = contestant.cpu_by_process(), machine_cpu_seconds()
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=timeout)
    after, machine_after = contestant.cpu_by_process(), machine_cpu_seconds()
    if not done.stdout.startswith("{"):
        raise RuntimeError("objm-load: " + done.stderr)
    result = json.loads(done.stdout)
    result["cpu_by_process"] = {name: after[name] - before.get(name, 0.0) for name in after}
    result["server_cpu"] = sum(result["cpu_by_process"].values())
    result["machine_cpu"] = machine_after - machine_before
    return result
