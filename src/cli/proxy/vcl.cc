#include "cli/proxy/vcl.h"

#include "base/units.h"

namespace om::cli::proxy {
namespace {

// A VCL long string: no escapes inside, and nothing of ours contains its end.
std::string quoted(const std::string& text) { return "\"" + text + "\""; }

std::string bytes(std::uint64_t count) { return std::to_string(count) + "B"; }

std::string backend(const VclInput& in, const std::string& name, bool with_probe) {
  std::string text = "backend " + name + " {\n";
  if (in.origin.is_unix()) {
    text += "\t.path = " + quoted(in.origin.path) + ";\n";
  } else {
    text += "\t.host = " + quoted(in.origin_address) + ";\n";
    text += "\t.port = " + quoted(std::to_string(in.origin.port)) + ";\n";
  }
  const std::string host = in.host_header.empty() ? in.origin.host_header() : in.host_header;
  // .host_header stands in for a request that has no Host of its own.
  text += "\t.host_header = " + quoted(host) + ";\n";
  if (with_probe) {
    text += "\t.probe = {\n";
    text += "\t\t.request =\n\t\t\t\"HEAD " + in.probe + " HTTP/1.1\"\n\t\t\t\"Host: " + host +
            "\"\n\t\t\t\"Connection: close\"\n\t\t\t\"User-Agent: objm-proxy-probe\";\n";
    text += "\t\t.interval = 5s;\n\t\t.timeout = 2s;\n\t\t.window = 4;\n\t\t.threshold = 2;\n";
    text += "\t\t.initial = 2;\n\t}\n";
  } else {
    text += "\t.connect_timeout = 3s;\n\t.first_byte_timeout = 60s;\n";
    text += "\t.between_bytes_timeout = 60s;\n";
  }
  return text + "}\n";
}

constexpr char kAdmin[] = R"vcl(
# Who may PURGE and BAN.
acl objm_admin {
	"127.0.0.0"/8;
	"::1";
}

# A purge is recorded before it is answered, so that no crash brings the object back.
sub vcl_purge {
	objmapper.purge();
}
)vcl";

constexpr char kRecvBegin[] = R"vcl(
sub vcl_recv {
	# `objm proxy` asks over a private socket whether we are there.
	if (local.socket == "objm_control" && req.url == "/ready") {
		return (synth(200, "Ready"));
	}
	if (req.restarts == 0) {
		# Words between the subs below, never from outside.
		unset req.http.X-Objm-Has-Stale;
		unset req.http.X-Objm-Want-Fresh;
		unset req.http.X-Objm-Want-Stale;
		unset req.http.X-Objm-Cache;
		# CVE-2016-5385: a CGI program takes it for a setting.
		unset req.http.Proxy;
	}
)vcl";

constexpr char kRecvAdmin[] = R"vcl(
	# Removals come from this machine, and not from a client of a TLS terminator on this machine: one
	# leaves a second address in X-Forwarded-For. They are written down before they are answered.
	if (req.method == "PURGE" || req.method == "BAN") {
		if (client.ip !~ objm_admin || remote.ip !~ objm_admin || req.http.X-Forwarded-For ~ ",") {
			return (synth(403, "PURGE and BAN are for this machine only"));
		}
		# Objects are found under the lower-case name. The built-in VCL sees to it, and comes later.
		if (req.http.Host ~ "[[:upper:]]") {
			set req.http.Host = req.http.Host.lower();
		}
		if (req.method == "PURGE") {
			return (purge);
		}
		# BAN /images/ removes all below it on this host; X-Ban: EXPRESSION whatever it matches.
		if (!req.http.X-Ban) {
			set req.http.X-Ban = "obj.http.X-Objm-Host == " + req.http.Host +
			    " && obj.http.X-Objm-Url ~ ^" +
			    regsuball(req.url, "([.^$*+?()\[\]{}|\\])", "\\\1");
		}
		if (std.ban(req.http.X-Ban)) {
			return (synth(200, "Banned"));
		}
		return (synth(400, std.ban_error()));
	}
)vcl";

constexpr char kRecvEnd[] = R"vcl(
	# WebSockets are no business of a cache.
	if (req.http.Upgrade ~ "(?i)websocket") {
		return (pipe);
	}

	# A request with a Cookie is not looked up (built-in VCL). Cookies that only scripts in the
	# browser read are taken out, and pictures, style sheets, scripts and fonts do without.
	if (req.http.Cookie) {
		if (req.url ~ "(?i)^[^?]*\.(css|js|mjs|map|woff2?|ttf|otf|ico|svg|png|jpe?g|gif|webp|avif)(\?|$)") {
			unset req.http.Cookie;
		} else {
			set req.http.Cookie = ";" + req.http.Cookie;
			set req.http.Cookie = regsuball(req.http.Cookie, "; *(_ga[A-Za-z0-9_]*|_gid|_gat[A-Za-z0-9_]*|_gcl_[a-z]+|__utm[a-z]+|_fbp|_fbc|_hj[A-Za-z]+|_pk_[a-z]+[^=;]*)=[^;]*", "");
			set req.http.Cookie = regsub(req.http.Cookie, "^[; ]+", "");
			if (req.http.Cookie == "") {
				unset req.http.Cookie;
			}
		}
	}

	# How old is too old? Usually what expired is fetched anew, and the client waits for it. While
	# the origin is sick, or has just failed, an old copy is better than none (see vcl_hit).
	if (req.http.X-Objm-Want-Fresh) {
		set req.grace = 10s;
	} elsif (req.http.X-Objm-Want-Stale) {
		# A restart keeps the value from before.
		set req.grace = 365d;
	}
}
)vcl";

constexpr char kStale[] = R"vcl(
# A copy that expired at most 10 s ago goes out while a new one is fetched behind it. An older one
# makes the client wait for the new one; if that fails, the old one goes out after all
# (stale-if-error, for as long as beresp.grace keeps it).
sub vcl_hit {
	unset req.http.X-Objm-Cache;
	if (obj.ttl > -10s) {
		return (deliver);
	}
	if (HEALTHY && !req.http.X-Objm-Want-Stale) {
		set req.http.X-Objm-Has-Stale = "1";
		set req.http.X-Objm-Want-Fresh = "1";
		return (restart);
	}
	return (deliver);
}

sub vcl_miss {
	set req.http.X-Objm-Cache = "miss";
}

sub vcl_pass {
	set req.http.X-Objm-Cache = "pass";
}

# X-Objm-Has-Stale goes along, because what comes back is judged by it.
sub vcl_backend_fetch {
	unset bereq.http.X-Objm-Want-Fresh;
	unset bereq.http.X-Objm-Want-Stale;
	unset bereq.http.X-Objm-Cache;
}

sub vcl_backend_response {
	set beresp.do_stream = true;

	# A failure replaces nothing that is there.
	if (beresp.status >= 500) {
		if (bereq.is_bgfetch || bereq.http.X-Objm-Has-Stale) {
			return (abandon);
		}
		# Nobody waits in line for the next failure.
		set beresp.uncacheable = true;
		set beresp.ttl = 2s;
		return (deliver);
	}
	if (beresp.http.Cache-Control ~ "(?i)(must|proxy)-revalidate") {
		set beresp.grace = 0s;
	} elsif (beresp.grace < 24h) {
		set beresp.grace = 24h;
	}
	# For bans that the ban lurker can apply by itself.
	set beresp.http.X-Objm-Host = bereq.http.Host.lower();
	set beresp.http.X-Objm-Url = bereq.url;
}

sub vcl_backend_error {
	if (bereq.is_bgfetch || bereq.http.X-Objm-Has-Stale) {
		return (abandon);
	}
}

sub vcl_synth {
	if (local.socket == "objm_control") {
		set resp.body = "";
		return (deliver);
	}
	# The fetch was abandoned, and there is an old copy.
	if (resp.status == 503 && req.http.X-Objm-Has-Stale && !req.http.X-Objm-Want-Stale) {
		unset req.http.X-Objm-Has-Stale;
		unset req.http.X-Objm-Want-Fresh;
		set req.http.X-Objm-Want-Stale = "1";
		return (restart);
	}
}

sub vcl_pipe {
	if (req.http.Upgrade) {
		set bereq.http.Upgrade = req.http.Upgrade;
		set bereq.http.Connection = "Upgrade";
	}
}
)vcl";

constexpr char kDeliver[] = R"vcl(
sub vcl_deliver {
	unset resp.http.X-Objm-Host;
	unset resp.http.X-Objm-Url;
)vcl";

constexpr char kXCache[] =
    R"vcl(	# hit, stale, miss or pass, and how often it was a hit. --no-x-cache leaves it out.
	if (req.http.X-Objm-Cache) {
		set resp.http.X-Cache = req.http.X-Objm-Cache;
	} elsif (obj.ttl < 0s) {
		set resp.http.X-Cache = "stale (" + obj.hits + ")";
	} else {
		set resp.http.X-Cache = "hit (" + obj.hits + ")";
	}
)vcl";

}  // namespace

std::string make_vcl(const VclInput& in) {
  const bool probed = !in.probe.empty();
  std::string text =
      "vcl 4.1;\n\n"
      "# Written by `objm proxy` for the origin " +
      in.origin.text() + ".\n" + "import std;\n" + "import objmapper from " + quoted(in.vmod_path) +
      ";\n\n" + backend(in, "origin", false);
  if (probed) {
    text +=
        "\n# Only asked for its health, so that a probe which is wrong about the origin makes "
        "copies\n"
        "# live longer and refuses nothing.\n" +
        backend(in, "origin_health", true);
  }
  text += "\nsub vcl_init {\n\tnew cache = objmapper.storage(\n\t    socket = " +
          quoted(in.objmapper_socket) + ",\n\t    memory = " + bytes(in.memory_bytes);
  if (in.disk_bytes > 0) text += ",\n\t    disk = " + bytes(in.disk_bytes);
  text += ");\n\tcache.set_default();\n}\n";
  text += kAdmin;
  text += kRecvBegin;
  text += "}\n";
  if (!in.user_vcl_path.empty()) {
    // Before ours: what the user's subs return, holds; where they do not, ours go on.
    text += "\n# Your own subs (--vcl). Where they do not return, those below go on.\ninclude " +
            quoted(in.user_vcl_path) + ";\n";
  }
  text += "\nsub vcl_recv {";
  // Before the removals: objects are stored under this name.
  if (!in.host_header.empty()) {
    text += "\n\t# --host\n\tset req.http.Host = " + quoted(in.host_header) + ";\n";
  }
  text += kRecvAdmin;
  text += kRecvEnd;
  std::string stale = kStale;
  const std::string word = "HEALTHY";
  stale.replace(stale.find(word), word.size(), probed ? "std.healthy(origin_health)" : "true");
  text += stale;
  text += kDeliver;
  if (in.x_cache) text += kXCache;
  return text + "}\n";
}

}  // namespace om::cli::proxy
