#!/usr/bin/env python3
"""Runs one .vtc against vmod_objmapper with an objmapperd of its own, and judges what the test itself cannot see.

    run_vtc.py [--plain] [--settings S] FILE.vtc run one test (what ctest does)
    run_vtc.py ctl DIR start|stop|kill|pause|resume|wait-up
    run_vtc.py ctl DIR body FILE BYTES           a body in which every eight bytes name their offset
    run_vtc.py ctl DIR kill-child PID            kill -9 of the child of the varnishd PID
    run_vtc.py ctl DIR hurt URL HOW              changes the record of URL in the one region there is: flip (a byte of it),
                                                 version (another one), crashed (the last adoption died at it), body (a
                                                 byte of it)
    run_vtc.py ctl DIR cut-files N               truncates every body of the region that lies in a file to N bytes
    run_vtc.py ctl DIR cold                      drops those files from the page cache
    run_vtc.py ctl DIR flip-files [N]            a bit of every body that lies in a file, or of the first N of them
    run_vtc.py ctl DIR descriptors PID N         lets the child of the varnishd PID open N more files than it has open
    run_vtc.py ctl DIR until TEXT -- COMMAND     runs COMMAND until its output has TEXT (10 s at most)

Another cache is played by `${om_put} KEY ...` (put_shared.cc), a director is made by `${om_director}`.

A .vtc says `${om_vcl}` in its VCL and so gets the import, a store named `store` and set_default(). Lines that begin with
`# om:` tell the runner what is special:

    # om: transient        some objects belong into Transient (pass, hit-for-miss, synthetic, request bodies)
    # om: fallback         falling back is the subject: other storages and counters above zero are no failure
    # om: nothing-stored   no object reaches our storage
    # om: no-daemon        the test starts the daemon itself, or wants none
    # om: memory=64M       capacity of the daemon        # om: store=24MB    size of the store in ${om_vcl}
    # om: region-daemon    region_daemon.py instead of objmapperd; version=N is the protocol it speaks
    # om: file-limit=8M    RLIMIT_FSIZE of the daemon    # om: params=a=b    further parameters for varnishd
    # om: disk=64MB        size of the store on disk     # om: mode=M threshold=N delivery=D   of the store
    # om: disks=DIR/a:9M,DIR/b:9M   what the daemon has, else DIR/disk:256M
    # om: real-disk        the disk is no tmpfs, but in /var/tmp
    # om: no-files         no body reaches a file, whatever the settings are
    # om: lane=mapped      nothing can go by the file lane
    # om: trusted          varnishd writes in place, as a member of --write-gid
    # om: without=SYMBOL   a varnishd that does not export SYMBOL: one that the VMOD does not know

S is a list such as mode=native,disk=64MB,delivery=file: what the test does not say itself about its store. So the same
conversations run with bodies in memory and in files, by either lane (docs/varnish.md has the matrix).

OM_TIME_FACTOR=N in the environment makes the limits of time N times as long. OM_VALGRIND=1 puts every varnishd under
valgrind (tools/valgrind/varnishd); whatever that says then fails the test.

For every other test the runner asserts that each Storage record of the log names our storage and that every fall-back
counter is zero at the end. With --plain the same file runs on `-s malloc`, to prove the test and not the storage.
"""

import glob
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "tests"))
from support.reachable import reachable  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
OUR_TYPE = "objmapper"
# valgrind makes a varnishd slow: script/test then asks for longer limits, not for fewer tests.
TIME_FACTOR = float(os.environ.get("OM_TIME_FACTOR", "1"))
DEADLINE_S = 10 * TIME_FACTOR
# What `# om:` or --settings may say of the store, as its arguments are called.
STORE_WORDS = ("disk", "mode", "threshold", "delivery")


def shared_memory():
    """The memory tier wants a tmpfs; /dev/shm is one everywhere."""
    return "/dev/shm" if os.path.isdir("/dev/shm") else None


class Daemon:
    """An objmapperd whose whole world is one directory; its pid is in DIR/daemon.pid."""

    def __init__(self, directory):
        self.directory = directory

    def path(self, name):
        return os.path.join(self.directory, name)

    def command(self):
        with open(self.path("daemon.cmd"), encoding="utf-8") as file:
            return file.read().split("\n")

    def pid(self):
        with open(self.path("daemon.pid"), encoding="utf-8") as file:
            return int(file.read())

    def start(self):
        with open(self.path("daemon.log"), "ab") as log:
            process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                       start_new_session=True, close_fds=True)
        with open(self.path("daemon.pid"), "w", encoding="utf-8") as file:
            file.write(str(process.pid))
        self.wait_up(process)

    def wait_up(self, process=None):
        import socket
        end = time.monotonic() + DEADLINE_S
        while time.monotonic() < end:
            if process is not None and process.poll() is not None:
                raise SystemExit(f"objmapperd ended with {process.returncode}; see {self.path('daemon.log')}")
            probe = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                probe.connect(self.path("om.sock"))
                self.let_varnish_in()
                return
            except OSError:
                time.sleep(0.01)
            finally:
                probe.close()
        raise SystemExit("objmapperd does not listen")

    def let_varnish_in(self):
        """Started by root, varnishd's child is another user: as with a group objmapper that it is a member of."""
        import grp
        try:
            os.chown(self.path("om.sock"), -1, grp.getgrnam("varnish").gr_gid)
        except (KeyError, PermissionError):
            pass
        os.chmod(self.path("om.sock"), 0o660)

    def alive(self):
        try:
            with open(f"/proc/{self.pid()}/stat", encoding="utf-8") as file:
                return file.read().rsplit(")", 1)[1].split()[0] not in "ZX"
        except (OSError, ValueError):
            return False

    def send(self, number):
        if self.alive():
            os.kill(self.pid(), number)

    def end(self, number=signal.SIGTERM):
        if not self.alive():
            return
        pid = self.pid()
        os.kill(pid, signal.SIGCONT)
        os.kill(pid, number)
        end = time.monotonic() + DEADLINE_S
        while self.alive():
            try:
                os.waitpid(pid, os.WNOHANG)  # ours when we started it, else init's
            except ChildProcessError:
                pass
            if time.monotonic() > end:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)


def write_body(path, size):
    with open(path, "wb") as file:
        offset = 0
        while offset < size:
            block = b"".join(b"%07x\n" % (at & 0xfffffff) for at in range(offset, min(size, offset + (1 << 20)), 8))
            file.write(block[:size - offset])
            offset += len(block)


def child_of(pid):
    with open(f"/proc/{pid}/task/{pid}/children", encoding="utf-8") as file:
        return [int(word) for word in file.read().split()]


def varnishd_without(symbol, directory):
    """The folder of a copy of the real varnishd in whose table of names `symbol` is called something else. varnishd itself does not look
    it up there; whoever asks the dynamic linker for it does."""
    with open(shutil.which("varnishd") or "/usr/sbin/varnishd", "rb") as file:
        image = file.read()
    name = b"\0" + symbol.encode() + b"\0"
    if name not in image:
        raise SystemExit(f"varnishd has no name {symbol}")
    folder = os.path.join(directory, "other")
    os.mkdir(folder)
    path = os.path.join(folder, "varnishd")
    with open(path, "wb") as file:
        file.write(image.replace(name, name[:-2] + b"_\0"))
    os.chmod(path, 0o755)
    return folder


def until(text, command):
    end = time.monotonic() + DEADLINE_S
    while True:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if text in done.stdout:
            return
        if time.monotonic() > end:
            raise SystemExit(f"never saw {text!r} in the output of {command}; last:\n{done.stdout}")
        time.sleep(0.02)


def hurt(directory, url, how):
    """Offsets as in src/region/format.h: the record's own are its slot at 8, its version at 72 and its url at 288 (offset,
    length), its first extent at 304; `adopting` is at 528 of the header."""
    regions = os.path.join(directory, "mem", "regions")
    name, = os.listdir(regions)
    with open(os.path.join(regions, name), "r+b") as file:
        data = file.read()
        at = data.find(b"OMRCORD1")
        while at >= 0:
            begin = at + int.from_bytes(data[at + 288:at + 292], "little")
            length = int.from_bytes(data[at + 292:at + 296], "little")
            if at % 64 == 0 and data[begin:begin + length] == url.encode():
                break
            at = data.find(b"OMRCORD1", at + 1)
        if at < 0:
            raise SystemExit(f"no record of {url}")
        if how == "flip":
            file.seek(at + 96)
            file.write(bytes([data[at + 96] ^ 1]))
        elif how == "body":
            begin = int.from_bytes(data[at + 304:at + 312], "little")
            file.seek(begin + 7)
            file.write(bytes([data[begin + 7] ^ 1]))
        elif how == "version":
            file.seek(at + 72)
            file.write(b"\xff\x00")
        else:
            file.seek(528)
            file.write(data[at + 8:at + 16])


def body_files(directory):
    bodies = [path for path in glob.glob(os.path.join(directory, "disk", "**", "*"), recursive=True)
              if os.path.isfile(path) and re.fullmatch("[0-9a-f]{16}", os.path.basename(path))]
    if not bodies:
        raise SystemExit("no body lies in a file")
    return sorted(bodies, key=os.path.basename)


def make_cold(path):
    file = os.open(path, os.O_RDONLY)
    os.fdatasync(file)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(file)


def leave_descriptors(pid, free):
    child, = child_of(pid)
    used = {int(name) for name in os.listdir(f"/proc/{child}/fd")}
    limit = 0
    while free > 0 or limit in used:
        free -= limit not in used
        limit += 1
    # The limits of a process are its own user's to change.
    with open(f"/proc/{child}/status", encoding="utf-8") as file:
        ids = {line.split()[0]: int(line.split()[1]) for line in file if line.startswith(("Uid:", "Gid:"))}
    if os.getuid() != ids["Uid:"]:
        os.setresgid(*[ids["Gid:"]] * 3)
        os.setresuid(*[ids["Uid:"]] * 3)
    _, hard = resource.prlimit(child, resource.RLIMIT_NOFILE)
    resource.prlimit(child, resource.RLIMIT_NOFILE, (limit, hard))


def flip_files(directory, first=None):
    """A bit in the middle of each, as a disk that lies."""
    for path in body_files(directory)[:first]:
        with open(path, "r+b") as file:
            middle = os.path.getsize(path) // 2
            file.seek(middle)
            byte = file.read(1)[0]
            file.seek(middle)
            file.write(bytes([byte ^ 1]))


def control(arguments):
    directory, verb, *rest = arguments
    daemon = Daemon(directory)
    if verb == "start":
        daemon.start()
    elif verb == "stop":
        daemon.end(signal.SIGTERM)
    elif verb == "kill":
        daemon.end(signal.SIGKILL)
    elif verb == "pause":
        daemon.send(signal.SIGSTOP)
    elif verb == "resume":
        daemon.send(signal.SIGCONT)
    elif verb == "wait-up":
        daemon.wait_up()
    elif verb == "body":
        write_body(rest[0], int(rest[1]))
    elif verb == "kill-child":
        for pid in child_of(int(rest[0])):
            os.kill(pid, signal.SIGKILL)
    elif verb == "descriptors":
        leave_descriptors(*map(int, rest))
    elif verb == "hurt":
        hurt(directory, *rest)
    elif verb == "flip-files":
        flip_files(directory, *map(int, rest))
    elif verb == "cut-files":
        # The daemon is not asked, nor told: as a file system that lost the end of its files would.
        for path in body_files(directory):
            os.truncate(path, int(rest[0]))
    elif verb == "cold":
        for path in body_files(directory):
            make_cold(path)
    elif verb == "until":
        until(rest[0], rest[rest.index("--") + 1:])
    else:
        raise SystemExit(f"unknown verb {verb}")


def directives(text):
    words = {}
    for line in re.findall(r"^# om: *(.*)$", text, re.M):
        for word in line.split():
            name, _, value = word.partition("=")
            words[name] = value
    return words


def judge(log, words):
    """What is wrong with the Storage records and the counters of a log, as a list of sentences."""
    wrong = []
    # "**** v1 vsl| 1002 Storage b objmapper store"
    records = re.findall(r"vsl\|\s*\d+ Storage\s+\S\s+(\S+) (\S+)", log)
    ours = [r for r in records if r[0] == OUR_TYPE]
    for kind, ident in sorted(set(records)):
        if kind == OUR_TYPE or "fallback" in words:
            continue
        if ident == "Transient" and "transient" in words:
            continue
        wrong.append(f"an object went to storage {kind} {ident}")
    if not ours and "nothing-stored" not in words:
        wrong.append("no object went to our storage")
    counters = re.findall(r"VSC (OBJM\.\S+) (\d+)", log)
    if "fallback" not in words:
        for name, value in counters:
            if "fallback" in name and int(value) != 0:
                wrong.append(f"counter {name} is {value}")
        if not counters and "nothing-stored" not in words:
            wrong.append("no OBJM counters found")
    return wrong


def judge_lanes(log, words, given):
    """Under given settings: that bodies lay where they were to lie, and went as they were to go."""
    counters = {}
    for name, value in re.findall(r"VSC OBJM\.\w+\.(\S+) (\d+)", log):
        counters[name] = counters.get(name, 0) + int(value)
    wrong = []
    files = counters.get("c_disk_bodies", 0) + counters.get("c_disk_moved", 0)
    if (files > 0) != ("disk" in given and "no-files" not in words):
        wrong.append(f"{files} bodies went to files")
    sent = counters.get("c_lane_file", 0)
    if given.get("delivery") == "file" and files > 0 and "lane" not in words and sent == 0:
        wrong.append("nothing went by the file lane")
    if (given.get("delivery") == "mapped" or words.get("lane") == "mapped") and sent > 0:
        wrong.append(f"{sent} deliveries went by the file lane")
    return wrong


def complaints_in(folder):
    """All that valgrind has written, process by process."""
    said = ""
    for name in sorted(os.listdir(folder)):
        with open(os.path.join(folder, name), encoding="utf-8", errors="replace") as file:
            said += file.read()
    # cachestat(2) is younger than valgrind, whose answer to us is that of an older kernel: ENOSYS.
    return re.sub(r"--\d+-- WARNING: unhandled amd64-linux syscall: 451\n(--\d+-- (You may|Read the|Nevertheless|it at).*\n){4}", "", said)


def run(path, plain, given):
    build = os.environ.get("OM_BUILD_DIR", "")
    source = os.environ.get("OM_SOURCE_DIR", os.path.dirname(os.path.dirname(HERE)))
    with open(path, encoding="utf-8") as file:
        text = file.read()
    words = given | directives(text)
    name = os.path.splitext(os.path.basename(path))[0]
    directory = tempfile.mkdtemp(prefix=f"omv.{name[:20]}.", dir=shared_memory())
    os.chmod(directory, 0o755)
    real_disk = None
    daemon = Daemon(directory)
    mount = os.environ.get("OM_VTC_MOUNT", "")  # mounted/run.py
    vmod = os.path.join(build, "lib", "libvmod_objmapper.so")
    if os.path.exists(vmod):
        vmod = reachable(vmod)
    objmapperd = os.path.join(build, "bin", "objmapperd")
    program = [objmapperd]
    if "region-daemon" in words or os.environ.get("OM_REGION_DAEMON"):
        program = [sys.executable, os.path.join(HERE, "region_daemon.py")]
    with open(os.path.join(directory, "daemon.cmd"), "w", encoding="utf-8") as file:
        command = program + [ "--socket", f"{directory}/om.sock", "--memory", words.get("memory", "64M"),
                   "--memory-dir", f"{directory}/mem", "--state-dir", f"{directory}/state", "--log-level", "debug"]
        if "real-disk" in words:
            real_disk = tempfile.mkdtemp(prefix="omv.", dir="/var/tmp")
            os.symlink(real_disk, os.path.join(directory, "disk"))
        elif "disk" in words:
            os.mkdir(os.path.join(directory, "disk"))
        if "disk" in words:
            for disk in words.get("disks", "DIR/disk:256M").split(","):
                command += ["--disk", disk.replace("DIR", directory).replace("MOUNT", mount)]
        if "trusted" in words and os.getuid() == 0:
            command += ["--write-gid", "varnish"]
        if "version" in words:
            command += ["--version", words["version"]]
        if "file-limit" in words:
            command = ["prlimit", f"--fsize={words['file-limit']}"] + command
        file.write("\n".join(command))

    load = f'import objmapper from "{vmod}";'
    store = words.get("store", "24MB")
    storage = f'objmapper.storage(socket = "{directory}/om.sock", memory = {store}'
    storage += "".join(f", {word} = {words[word]}" for word in STORE_WORDS if word in words) + ")"
    macros = {
        "om_dir": directory, "om_socket": f"{directory}/om.sock", "om_vmod": vmod,
        "om_put": f"{build}/test/put_shared {directory}/om.sock",
        "om_ban_ahead": f"{build}/test/ban_ahead",
        "om_director": f'objmapper.director(socket = "{directory}/om.sock", timeout = 10s)',
        "om_objm": f"{build}/bin/objm --socket {directory}/om.sock",
        "om_ctl": f"{sys.executable} {os.path.abspath(__file__)} ctl {directory}",
        "om_import": load, "om_storage": storage,
        "om_vcl": f"{load}\nsub vcl_init {{ new store = {storage}; store.set_default(); }}\n",
        "om_mount_ctl": f"{sys.executable} {HERE}/mounted/run.py ctl {mount}",
        "om_include": f'include "{reachable(os.path.join(source, "vmod", "objmapper.vcl"))}";', "om_type": OUR_TYPE,
    }
    epilogue = "\n" + "".join(f"varnish {v} -vsc OBJM.*\n"
                              for v in sorted(set(re.findall(r"^varnish (v\d)", text, re.M)))
                              if "no-counters" not in words)
    if plain:
        macros.update(om_vcl="", om_import="", om_include="", om_type="malloc")
        epilogue = ""
    copy = os.path.join(directory, name + ".vtc")
    with open(copy, "w", encoding="utf-8") as file:
        file.write(text + epilogue)

    parameters = ["shortlived=0", "'cc_command=exec tcc -shared -fpic -w -o %o %s'"]
    parameters += [p for p in words.get("params", "").split(",") if p]
    command = ["varnishtest", "-v", "-l", "-t", str(round(30 * TIME_FACTOR)), "-b", "64M"]
    for parameter in parameters:
        command += ["-p", parameter]
    for key, value in macros.items():
        command += ["-D", f"{key}={value}"]
    environment = dict(os.environ, TMPDIR=directory)
    if "without" in words:
        folder = varnishd_without(words["without"], directory)
        environment["PATH"] = folder + ":" + environment["PATH"]
        environment["OM_VARNISHD"] = os.path.join(folder, "varnishd")
    valgrind = os.path.join(directory, "valgrind") if os.environ.get("OM_VALGRIND") else None
    if valgrind:
        os.mkdir(valgrind)
        os.chmod(valgrind, 0o1777)  # varnishd's child is another user
        environment["OM_VALGRIND_LOGS"] = valgrind
        environment["PATH"] = os.path.join(source, "tools", "valgrind") + ":" + environment["PATH"]
    failure = None
    log = ""
    try:
        if not plain and "no-daemon" not in words:
            daemon.start()
        done = subprocess.run(command + [copy], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment,
                              cwd=directory, timeout=90 * TIME_FACTOR, check=False)
        log = done.stdout.decode("utf-8", "replace")
        wrong = [] if plain else judge(log, words)
        if not plain and os.path.basename(os.path.dirname(path)) == "features":
            wrong += judge_lanes(log, words, given)
        complaints = complaints_in(valgrind) if valgrind else ""
        log += complaints
        wrong += ["valgrind complains"] if complaints else []
        if done.returncode == 77 or re.search(r"^#\s+top\s+TEST .* skipped", log, re.M):
            wrong.append("the test was skipped")
        if done.returncode != 0:
            failure = f"varnishtest ended with {done.returncode}" + (", valgrind complains" if complaints else "")
        elif wrong:
            failure = "; ".join(wrong)
        if failure:
            print(log[-60000:])
    except subprocess.TimeoutExpired as late:
        log = (late.stdout or b"").decode("utf-8", "replace") + (complaints_in(valgrind) if valgrind else "")
        print(log[-60000:])
        failure = "time is up"
    finally:
        if not plain and os.path.exists(daemon.path("daemon.pid")):
            try:
                daemon.end()
            except (OSError, ValueError):
                pass
    if failure:
        kept = os.path.join(build or "/tmp", "vtc-failed", name)
        os.makedirs(kept, exist_ok=True)
        with open(os.path.join(kept, "log"), "w", encoding="utf-8") as file:
            file.write(log)
        for item in ("daemon.log", name + ".vtc"):
            if os.path.exists(os.path.join(directory, item)):
                shutil.copy(os.path.join(directory, item), kept)
        try:
            with open(daemon.path("daemon.log"), encoding="utf-8", errors="replace") as file:
                print("---- end of objmapperd's log\n" + file.read()[-5000:])
        except OSError:
            pass
        print(f"FAILED: {failure} (files in {kept})")
    shutil.rmtree(directory, ignore_errors=True)
    if real_disk:
        shutil.rmtree(real_disk, ignore_errors=True)
    return 1 if failure else 0


def main():
    arguments = sys.argv[1:]
    if arguments and arguments[0] == "ctl":
        return control(arguments[1:]) or 0
    plain = "--plain" in arguments
    settings = os.environ.get("OM_VTC_SETTINGS", "")
    if "--settings" in arguments:
        settings = arguments[arguments.index("--settings") + 1]
    given = dict(word.split("=", 1) for word in settings.split(",") if word)
    if not set(given) <= set(STORE_WORDS):
        raise SystemExit(f"settings are {', '.join(STORE_WORDS)}; not: {settings}")
    files = [a for a in arguments if a.endswith(".vtc")]
    if not files:
        raise SystemExit(__doc__)
    return max(run(os.path.abspath(file), plain, given) for file in files)


if __name__ == "__main__":
    sys.exit(main())
