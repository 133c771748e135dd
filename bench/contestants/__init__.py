"""Who takes part. One module for each server, with its configuration and the reasons for it.

Rules that hold for all of them:
- Debian's packages, started from scratch in folders of their own, two worker processes or as many
  threads as the package's defaults give on two cores.
- The same memory for bodies where a work speaks of equal memory; access logs off, as varnishd has none.
- Connections are kept, towards clients and towards the origin, and never closed for their age.
- A cache that can coalesce requests for one object does so.
"""

from contestants import nginx_cache, nginx_static, objmapper, traffic_server, varnish

ALL = {
    "varnish-malloc": varnish.Malloc,
    "varnish-file": varnish.File,
    "mapped": objmapper.Mapped,
    "native": objmapper.Native,
    "dual": objmapper.Dual,
    "auto": objmapper.Auto,
    "nginx-static": nginx_static.Static,
    "nginx-cache-tmpfs": nginx_cache.OnTmpfs,
    "nginx-cache-disk": nginx_cache.OnDisk,
    "traffic-server": traffic_server.TrafficServer,
}
BASELINE = "varnish-malloc"
OURS = ("mapped", "native", "dual", "auto")


def make(name, setup):
    contestant = ALL[name](name, setup)
    contestant.group = setup.group
    contestant.address = setup.address
    if contestant.has_unix:
        contestant.unix = contestant.folder / "http"
    return contestant
