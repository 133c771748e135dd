"""What a work is given: who takes part, how much time there is, and where results go.

A contestant that does not start, gives a wrong answer or ends is named in the report, and the others go
on. A case that runs out of time keeps the rounds that it has.
"""

import contextlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import traceback

import contestants
from contestants.base import Setup
from kit import cgroup, machine, netns, origin


# Head figures are ours beside plain Varnish, and beside the rival that a work names (`head` of a field). The
# others are there for orientation: they sit out the rounds after this many.
RIVAL_ROUNDS = 5


class Wrong(RuntimeError):
    """A contestant's answer that makes its figures worthless."""


def brief(failed):
    lines = [line.strip() for line in str(failed).strip().splitlines() if line.strip()]
    if len(lines) > 4:
        lines = lines[:1] + lines[-3:]
    return "%s: %s" % (type(failed).__name__, " | ".join(lines)[:600])


class Bench:
    def __init__(self, results, mode, only_contestants=None, rounds=None, seconds=None, verbose=True):
        self.results = results
        self.mode = mode
        self.only_contestants = only_contestants
        self.rounds_wanted = rounds
        self.seconds_wanted = seconds
        self.verbose = verbose
        self.work = None
        self.deadline = float("inf")
        self.folder = None

    def say(self, text):
        if self.verbose:
            print(text, file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def a_work(self, name, deadline):
        self.work, self.deadline = name, deadline
        self.results.begin(name, self.mode)
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="om-bench-"))
        self.folder.chmod(0o755)
        begin = time.monotonic()
        try:
            yield
        except Exception as failed:  # the next work goes on
            self.failed("-", "-", failed)
        finally:
            self.results.work(name)["seconds"] = time.monotonic() - begin
            self.results.save()
            shutil.rmtree(self.folder, ignore_errors=True)
            os.sync()  # lest the next work waits for the disk of this one

    def over(self):
        return time.monotonic() > self.deadline

    def failed(self, case, contestant, failed):
        self.say("   %s, %s: %s" % (case, contestant, brief(failed)))
        if not isinstance(failed, (Wrong, RuntimeError, OSError, TimeoutError, subprocess.SubprocessError)):
            self.say(traceback.format_exc())
        self.results.failure(self.work, case, contestant, brief(failed))

    def present(self, names):
        """Those of `names` that can take part; why the others cannot stands in the report."""
        result = []
        for name in names:
            if self.only_contestants and name not in self.only_contestants:
                continue
            why = contestants.ALL[name].why_not()
            if why is None:
                self.results.data["absent"].pop(name, None)
                result.append(name)
            else:
                self.results.absent(name, why)
        return result

    def urls(self, name, lines):
        path = self.folder / name
        path.write_text("".join(line + "\n" for line in lines))
        return path

    def files(self, urls):
        """The bodies of a URL file as files, for who serves those."""
        folder = self.folder / "files"
        subprocess.run([str(machine.BUILD / "bin" / "objm-origin"), "--write", str(folder), "--urls", str(urls)],
                       check=True)
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        return folder

    @contextlib.contextmanager
    def field(self, names, memory=1 << 30, disk=0, files=None, limit=None, count_memory=False, namespace=None,
              delay_ms=0, head=()):
        """The contestants, running, each with a memory cgroup of `limit` bytes if there is one."""
        with contextlib.ExitStack() as stack:
            source = stack.enter_context(origin.Origin(delay_ms))
            field = Field(self, source, {contestants.BASELINE, *contestants.OURS, *head})
            for name in self.present(names):
                try:
                    group = None
                    if limit is not None or count_memory:
                        group = stack.enter_context(cgroup.MemoryGroup(name, limit))
                    size, share = (memory[name], disk[name]) if isinstance(memory, dict) else (memory, disk)
                    setup = Setup(source, size, share, files, group, namespace.address if namespace else None)
                    contestant = stack.enter_context(contestants.make(name, setup))
                    first_answer(contestant)
                    field.running[name] = contestant
                except Exception as failed:
                    self.failed("start", name, failed)
            yield field

    @contextlib.contextmanager
    def namespace(self):
        """kit.netns.Namespace, or None with a line in the report."""
        try:
            with netns.Namespace() as space:
                yield space
        except RuntimeError as failed:
            self.failed("veth", "-", failed)
            yield None


def first_answer(contestant):
    """The port of varnishd listens before its child answers."""
    end = time.monotonic() + 60
    with tempfile.NamedTemporaryFile("w", suffix=".urls") as urls:
        urls.write("/o/1/first\n")
        urls.flush()
        while time.monotonic() < end:
            got = machine.load(contestant, urls.name, requests=1, connections=1)
            if got["requests"] == 1 and not any(k.startswith("5") for k in got["status"]):
                return
            time.sleep(0.05)
    raise RuntimeError("%s gives no answer:\n%s" % (contestant.name, contestant.logs()[-1000:]))


class Field:
    """Contestants that run at the same time, one of which is asked at a time."""

    def __init__(self, bench, source, head):
        self.bench = bench
        self.origin = source
        self.head = head
        self.running = {}

    def each(self, case, what):
        """what(contestant) for each; who fails is out of this field. Returns those that are left."""
        for name, contestant in list(self.running.items()):
            try:
                what(contestant)
            except Exception as failed:
                self.bench.failed(case, name, failed)
                del self.running[name]
        return list(self.running)

    def rounds(self, case, count, what, after=None, only=None, part=(0, 1)):
        """`count` rounds of what(contestant, round) -> metrics, interleaved; who begins changes from round to
        round, so that a drift of the machine hits all alike. Who is not of the head: RIVAL_ROUNDS of them.
        `part`: the i-th of n parts of them, the others being another field's."""
        bench = self.bench
        count = bench.rounds_wanted or count
        out = set()
        for number in range(count * part[0] // part[1], count * (part[0] + 1) // part[1]):
            if number >= 2 and bench.over():
                bench.say("   %s: time is up after %d rounds" % (case, number))
                break
            names = [n for n in self.running if n not in out and (only is None or n in only)
                     and (number < RIVAL_ROUNDS or n in self.head)]
            turn = number % max(1, len(names))
            for name in names[turn:] + names[:turn]:
                try:
                    metrics = what(self.running[name], number)
                    if metrics:
                        bench.results.add(bench.work, case, name, number, metrics)
                except Exception as failed:
                    bench.failed(case, name, failed)
                    out.add(name)
        if after:
            for name in [n for n in self.running if n not in out and (only is None or n in only)]:
                try:
                    after(self.running[name])
                except Exception as failed:
                    # Its figures are worth nothing then.
                    bench.failed(case, name, failed)
                    bench.results.work(bench.work)["cases"].get(case, {}).pop(name, None)
        bench.results.save()

    def proven_hits(self, case, urls, requests, **options):
        """Fills the caches, then has every body compared while the origin is asked for nothing. Contestants
        that answer otherwise are out. Returns the check for afterwards."""

        def check(contestant, when):
            before = self.origin.count()
            got = machine.load(contestant, urls, requests=requests, in_order=True, verify=True, **options)
            asked = self.origin.count() - before
            if got["errors"] or got["compared"] != requests or (contestant.fetches and asked):
                raise Wrong("%s: not from the cache, or wrong: %d asked of the origin, %s" % (when, asked, got["errors"]))
            if hasattr(contestant, "stored_elsewhere") and contestant.stored_elsewhere():
                raise Wrong("%s: %d objects are not in objmapper" % (when, contestant.stored_elsewhere()))
            return got

        def prepare(contestant):
            # Traffic Server lets go of a write lock a moment after the body is out.
            for _ in range(2):
                machine.load(contestant, urls, requests=requests, in_order=True, **options)
            for attempt in range(3):
                try:
                    check(contestant, "beforehand")
                    return
                except Wrong:
                    if attempt == 2:
                        raise
                    time.sleep(0.3)

        def afterwards(contestant):
            check(contestant, "afterwards")
            self.bench.results.proof(self.bench.work, case, contestant.name,
                                     "%d bodies compared before and after, origin asked for none" % requests)

        self.each(case, prepare)
        return afterwards


def right(got, hits=None):
    """`got` itself, unless something in it is wrong."""
    if got["errors"]:
        raise Wrong("errors: %s" % got["errors"])
    if hits is not None and got["hits"] != hits:
        raise Wrong("%d hits of %d requests" % (got["hits"], got["requests"]))
    return got


def costs(got):
    """The metrics that every load has."""
    requests = max(1, got["requests"])
    return {
        "cpu_us": 1e6 * got["server_cpu"] / requests,
        "total_cpu_us": 1e6 * got["machine_cpu"] / requests,
        "cpu_s_per_gb": got["server_cpu"] / max(1, got["body_bytes"]) * 1e9,
        "per_s": got["requests"] / got["seconds"],
        "gb_per_s": got["body_bytes"] / got["seconds"] / 1e9,
        "first_byte_us": got["first_byte_us"]["p50"],
        "latency_us": got["latency_us"]["p50"],
    }


def latencies(got):
    return {"p50_us": got["latency_us"]["p50"], "p99_us": got["latency_us"]["p99"],
            "p999_us": got["latency_us"]["p999"], "first_byte_us": got["first_byte_us"]["p50"]}
