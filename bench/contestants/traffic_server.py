"""Apache Traffic Server: a memory cache before a store of its own on disk.

ram_cache.size is the memory that the others get for bodies, ram_cache_cutoff lets objects of any size
into it (4 MiB by default, which would send larger ones to disk each time). agg_write_backlog is 64 MiB: at its
5 MiB a burst of fetches is not stored. The store is a file twice the
memory, or `disk`. Logging off, connections kept. X-Cache comes from the Via code that it writes itself:
[...cH...] and [...cR...] are hits of disk and memory; it is the origin's counter that proves them. It
does not listen on Unix sockets.
"""

import os
import shutil
import subprocess

from contestants import base

RECORDS = """
CONFIG proxy.config.http.server_ports STRING {ports}
CONFIG proxy.config.exec_thread.autoconfig INT 1
CONFIG proxy.config.log.logging_enabled INT 0
CONFIG proxy.config.cache.ram_cache.size INT {memory}
CONFIG proxy.config.cache.ram_cache_cutoff INT {memory}
CONFIG proxy.config.cache.agg_write_backlog INT 67108864
CONFIG proxy.config.cache.min_average_object_size INT 8000
CONFIG proxy.config.http.cache.required_headers INT 0
CONFIG proxy.config.http.cache.ignore_client_cc_max_age INT 1
CONFIG proxy.config.cache.enable_read_while_writer INT 1
CONFIG proxy.config.http.keep_alive_no_activity_timeout_in INT 3600
CONFIG proxy.config.http.background_fill_active_timeout INT 0
CONFIG proxy.config.http.background_fill_completed_threshold FLOAT 0.0
CONFIG proxy.config.reverse_proxy.enabled INT 1
CONFIG proxy.config.url_remap.remap_required INT 1
CONFIG proxy.config.admin.user_id STRING trafficserver
CONFIG proxy.config.net.connections_throttle INT 30000
"""


# Where it looks for its parts: its own folders for all that it writes.
RUNROOT = """prefix: {root}
exec_prefix: {root}
bindir: /usr/bin
sbindir: /usr/sbin
sysconfdir: {root}/etc
datadir: {root}/share
includedir: /usr/include
libdir: /usr/lib/trafficserver
libexecdir: /usr/lib/trafficserver/modules
localstatedir: {root}/var
runtimedir: {root}/run
logdir: {root}/log
cachedir: {root}/cache
"""


class TrafficServer(base.Server):
    has_unix = False
    needs = (("traffic_server", "trafficserver"),)

    def configure(self, root):
        shutil.copytree("/etc/trafficserver", root / "etc")
        for name in ("share", "var", "run", "log", "cache"):
            (root / name).mkdir()
        ports = "%d" % self.port if self.address else "%d:ip-in=127.0.0.1" % self.port
        (root / "runroot.yaml").write_text(RUNROOT.format(root=root))
        (root / "etc" / "records.config").write_text(RECORDS.format(ports=ports, memory=self.setup.memory))
        (root / "etc" / "storage.config").write_text(
            "%s %d\n" % (self.folder / "disk", max(self.setup.disk, 2 * self.setup.memory)))
        (root / "etc" / "remap.config").write_text("map / http://127.0.0.1:%d/\n" % self.origin.port)

    def start(self):
        root = self.folder / "ts"
        (self.folder / "disk").mkdir(exist_ok=True)
        if not root.exists():
            self.configure(root)
        if os.getuid() == 0:  # it refuses to be root, and the package made a user for it
            subprocess.run(["chown", "-R", "trafficserver", str(root), str(self.folder / "disk")], check=True)
        self.spawn("traffic_server", "--run-root=%s" % (root / "runroot.yaml"))

    def cache_folders(self):
        return [self.folder / "disk"]
