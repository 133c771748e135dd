"""varnishd of the distribution, with the two storages that people use.

-s malloc,SIZE      the baseline: every ratio of the suite is to this one.
-s file,PATH,SIZE   one file, mapped. Granularity and advice are left at their defaults (a page; random):
                    that is what those have who write `-s file` into their unit.

nuke_limit: 50 by default, which makes a store full of small objects refuse a large one; 5000 for every
varnishd here, ours included, since refusals are no measure of speed. Inside a memory cgroup the log gets a 128th of
the limit (vsl_space: 80 MiB by default, locked in memory). All else is the default.
"""

import json
import subprocess

from contestants import base
from kit import machine

PARAMETERS = ("nuke_limit=5000",)


class Varnish(base.Server):
    needs = (("varnishd", "varnish"),)
    parameters = PARAMETERS

    def storage(self):
        raise NotImplementedError

    def all_parameters(self):
        # The log is locked in memory. Where that is short, nobody would give it 80 MiB.
        limit = self.setup.group.limit if self.setup.group else None
        return (*self.parameters, *(["vsl_space=%d" % max(limit // 128, 1 << 20)] if limit else []))

    def vcl(self):
        return 'vcl 4.1;\nbackend default { .host = "127.0.0.1"; .port = "%d"; }\n' % self.origin.port

    def start(self):
        (self.folder / "v.vcl").write_text(self.vcl())
        command = ["varnishd", "-F", "-n", self.folder / "v", "-f", self.folder / "v.vcl",
                   "-a", "127.0.0.1:%d" % self.port, "-a", "%s,mode=666" % self.unix, "-s", self.storage()]
        if self.address:
            command += ["-a", "%s:%d" % (self.address, self.port)]
        for parameter in self.all_parameters():
            command += ["-p", parameter]
        self.spawn(*command)

    def child(self):
        """The process that serves."""
        return machine.family(self.processes[-1].pid)[-1]

    def counter(self, name):
        out = subprocess.run(["varnishstat", "-n", self.folder / "v", "-j", "-1", "-f", name],
                             capture_output=True, text=True, check=True).stdout
        return sum(c["value"] for c in json.loads(out).get("counters", {}).values())


class Malloc(Varnish):
    def storage(self):
        return "malloc,%d" % self.setup.memory


class File(Varnish):
    def storage(self):
        (self.folder / "disk").mkdir(exist_ok=True)
        return "file,%s,%d" % (self.folder / "disk" / "store", max(self.setup.disk, self.setup.memory))

    def cache_folders(self):
        return [self.folder / "disk"]
