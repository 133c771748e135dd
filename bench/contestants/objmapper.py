"""The same varnishd with its cache in objmapper, in each mode that this build has.

The daemon's memory tier lies on a tmpfs of its own with huge=within_size, as the shipped mount unit has
it (/dev/shm when it cannot be mounted); its catalog and disk tier on the file system of $TMPDIR. The
store's `memory` is what the others get for bodies; in native and dual it holds attributes and small
bodies, and bodies by descriptor get `disk`. -s malloc,64m stands by as the storage that varnishd was
started with: the suite fails a run that uses it.
"""

import os
import pathlib
import shutil
import subprocess
import tempfile

from contestants import base, varnish
from kit import machine

MIB = 1 << 20


def mount_tier(folder, size):
    """Whether a tmpfs with huge pages could be mounted there."""
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=%d,mode=0755,huge=within_size" % size, "om-bench",
                           str(folder)], capture_output=True)
    return done.returncode == 0


class Objmapper(varnish.Varnish):
    mode = "mapped"
    disk_share = 0  # of the bodies that may lie on disk
    probed = {}

    def __init__(self, name, setup):
        super().__init__(name, setup)
        self.daemon = None
        self.tier = None
        self.mounted = False

    @classmethod
    def why_not(cls):
        missing = super().why_not()
        if missing:
            return missing
        for file in ("bin/objmapperd", "lib/libvmod_objmapper.so"):
            if not (machine.BUILD / file).exists():
                return "%s is not built: script/build release" % file
        if cls.mode not in cls.probed:
            cls.probed[cls.mode] = cls.probe()
        return cls.probed[cls.mode]

    @classmethod
    def probe(cls):
        """A VCL with this mode on a running varnishd: None when it loads."""

        class NoOrigin:
            port = 9

        contestant = cls("probe", base.Setup(NoOrigin, 32 * MIB, 64 * MIB if cls.disk_share else 0))
        contestant.unix = contestant.folder / "http"
        try:
            with contestant:
                return None
        except RuntimeError as failed:
            said = [line for line in str(failed).splitlines() if "mode" in line or "objmapper" in line]
            return "not in this build: " + (said[-1] if said else str(failed).splitlines()[0]).strip()[:200]

    def disk(self):
        return self.setup.disk or self.setup.memory if self.disk_share else 0

    def storage(self):
        return "malloc,64m"

    def vcl(self):
        disk = ", disk = %dB" % self.disk() if self.disk() else ""
        return super().vcl() + """
import objmapper from "%s/lib/libvmod_objmapper.so";
sub vcl_init {
    new store = objmapper.storage(socket = "%s/s", memory = %dB%s, mode = %s);
    store.set_default();
}
""" % (machine.BUILD, self.folder, self.setup.memory, disk, self.mode)

    def start(self):
        if self.daemon is None:
            self.start_daemon()
        super().start()

    def start_daemon(self):
        # Indexes and leases of regions beside the bodies.
        size = self.setup.memory * 102 // 100 + 32 * MIB
        self.tier = self.folder / "mem"
        self.tier.mkdir()
        self.mounted = mount_tier(self.tier, size + 16 * MIB)
        if not self.mounted:
            self.tier = pathlib.Path(tempfile.mkdtemp(prefix="om-bench-", dir="/dev/shm"))
        command = [machine.BUILD / "bin" / "objmapperd", "--socket", self.folder / "s", "--memory", size,
                   "--memory-dir", self.tier, "--state-dir", self.folder / "state"]
        if self.disk():
            command += ["--disk", "%s:%d" % (self.folder / "disk", self.disk() * 102 // 100 + 64 * MIB)]
        self.daemon = self.spawn(*command)
        machine.wait_for(lambda: machine.store_answers(self.folder / "s") or self.daemon.poll() is not None, what="objmapperd")
        if self.daemon.poll() is not None:
            raise RuntimeError("objmapperd ended:\n" + self.logs())
        os.chmod(self.folder / "s", 0o666)

    def kill(self):
        """varnishd, manager and child; the daemon stays, as it does when varnishd crashes."""
        self.processes.remove(self.daemon)
        try:
            super().kill()
        finally:
            self.processes.insert(0, self.daemon)

    def cache_folders(self):
        return [self.folder / "disk"] if self.disk() else []

    def ready(self):
        """varnishd answers before it has its region: it waits for the daemon for a moment only."""
        super().ready()
        machine.wait_for(self.has_region, seconds=60, what="the region of " + self.name)
        self.elsewhere_at_start = self.fallbacks()

    def has_region(self):
        try:
            return self.counter("OBJM.*.g_space") + self.counter("OBJM.*.g_bytes") > 0
        except subprocess.CalledProcessError:
            return False  # its child is not there yet

    def fallbacks(self):
        return self.counter("OBJM.*.c_fallback*")

    def stored_elsewhere(self):
        """Objects that went to varnishd's own storage."""
        return self.fallbacks() - self.elsewhere_at_start

    def __exit__(self, *_):
        tier = self.tier
        if self.mounted:
            # The daemon has it open until it ends, and the folder goes with super().
            for process in reversed(self.processes):
                process.terminate()
            for process in self.processes:
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            self.processes.clear()
            subprocess.run(["umount", str(tier)], capture_output=True)
        super().__exit__()
        if tier is not None and not self.mounted:
            shutil.rmtree(tier, ignore_errors=True)


class Mapped(Objmapper):
    mode = "mapped"


class Native(Objmapper):
    mode = "native"
    disk_share = 1


class Dual(Objmapper):
    mode = "dual"
    disk_share = 1


class Auto(Objmapper):
    """`auto` as a store with disk has it."""

    mode = "auto"
    disk_share = 1
