"""nginx that serves files: no cache at all, the floor of what a server of files can cost.

sendfile, without tcp_nopush: its documentation advises that for files, but on loopback it costs up to 40 ms for each
answer of 64 KiB out of proxy_cache (350 to 500 requests/s instead of 15,000 to 21,000). open_file_cache, as varnishd does not
open a file for each hit either. Two workers for two cores. sendfile_max_chunk stays at its 2m, so that a
fast client does not keep a worker for itself. The files are those that the origin has (same bytes), on
the file system of $TMPDIR.
"""

from contestants import base

CONF = """
worker_processes 2; daemon off; error_log stderr; pid {folder}/pid; user root root; worker_rlimit_nofile 65536;
events {{ worker_connections 8192; }}
http {{
  access_log off; sendfile on; tcp_nopush off; tcp_nodelay on;
  keepalive_timeout 1h; keepalive_requests 1000000000;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  open_file_cache max=20000 inactive=1d; open_file_cache_valid 1d;
  default_type application/octet-stream;
  {rest}
}}
"""


def listen(contestant):
    lines = ["listen 127.0.0.1:%d;" % contestant.port, "listen unix:%s;" % contestant.unix]
    if contestant.address:
        lines.append("listen %s:%d;" % (contestant.address, contestant.port))
    return " ".join(lines)


class Nginx(base.Server):
    needs = (("nginx", "nginx-light"),)

    def rest(self):
        raise NotImplementedError

    def start(self):
        if self.unix.exists():
            self.unix.unlink()  # of an nginx that was killed
        (self.folder / "nginx.conf").write_text(CONF.format(folder=self.folder, rest=self.rest()))
        self.spawn("nginx", "-e", "stderr", "-c", self.folder / "nginx.conf")


class Static(Nginx):
    fetches = False

    def rest(self):
        return "server { %s root %s; }" % (listen(self), self.setup.files)

    def cache_folders(self):
        return [self.setup.files]
