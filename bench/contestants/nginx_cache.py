"""nginx proxy_cache, on tmpfs and on disk.

use_temp_path=off: a body is written once, where it stays. proxy_cache_lock: one fetch for each object, as
varnishd does it. Upstream connections are kept. keys_zone is large enough for a million objects. inactive
is longer than any run. The key is the URI: one host. X-Cache tells hits; the suite counts the origin's
requests as well. proxy_force_ranges: ranges of what is cached, though the origin announces none.

On tmpfs: sendfile. On disk: sendfile, and `aio threads`, so that a worker does not wait for the disk:
the best that nginx has for caches larger than memory.
"""

import pathlib
import shutil
import tempfile

from contestants.nginx_static import Nginx, listen


class OnTmpfs(Nginx):
    aio = ""

    def place(self):
        return pathlib.Path(tempfile.mkdtemp(prefix="om-bench-", dir="/dev/shm"))

    def size(self):
        return self.setup.memory

    def rest(self):
        if not hasattr(self, "cache"):
            self.cache = self.place()
        return """
  %s
  proxy_cache_path %s levels=1:2 keys_zone=bench:160m max_size=%d inactive=1d use_temp_path=off;
  upstream origin { server 127.0.0.1:%d; keepalive 64; keepalive_requests 1000000000; }
  server {
    %s
    location / {
      proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_cache bench; proxy_cache_key $request_uri; proxy_cache_lock on; proxy_cache_lock_timeout 60s;
      proxy_force_ranges on; add_header X-Cache $upstream_cache_status;
    }
  }""" % (self.aio, self.cache, self.size(), self.origin.port, listen(self))

    def cache_folders(self):
        return [self.cache]

    def __exit__(self, *_):
        super().__exit__()
        shutil.rmtree(getattr(self, "cache", "/nonexistent"), ignore_errors=True)


class OnDisk(OnTmpfs):
    aio = "aio threads;"

    def place(self):
        (self.folder / "disk").mkdir()
        return self.folder / "disk"

    def size(self):
        return self.setup.disk or self.setup.memory
