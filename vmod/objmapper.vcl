# objmapper.vcl: purging and banning so that a restart does not undo it.
#
#     import objmapper;
#     include "objmapper.vcl";
#     sub vcl_recv { call objmapper_recv; }
#
# PURGE removes the URL with all variants, BAN /regex removes every URL of the host that matches. Both
# are for clients in the acl `objmapper_purgers`, and answered only once they are recorded: 200 is a
# promise that also holds when varnishd is killed right afterwards. What cannot be recorded is a 503.
#
# Whoever writes his own: `objmapper.purge();` in vcl_purge is the part that matters.

acl objmapper_purgers {
	"localhost";
	"127.0.0.0"/8;
	"::1";
}

sub objmapper_recv {
	# Objects are found under the lower-case name. The built-in vcl_recv sees to it, and comes too late here.
	if ((req.method == "PURGE" || req.method == "BAN") && req.http.host ~ "[[:upper:]]") {
		set req.http.host = req.http.host.lower();
	}
	if (req.method == "PURGE") {
		if (client.ip !~ objmapper_purgers) {
			return (synth(405, "Not allowed"));
		}
		return (purge);
	}
	if (req.method == "BAN") {
		if (client.ip !~ objmapper_purgers) {
			return (synth(405, "Not allowed"));
		}
		# Whole expressions, for tests on obj.http: those are the ones that the lurker can do.
		if (req.http.X-Ban) {
			objmapper.ban(req.http.X-Ban);
		} else {
			objmapper.ban("req.http.host == " + req.http.host + " && req.url ~ " + req.url);
		}
		return (synth(200, "Banned"));
	}
}

sub vcl_purge {
	objmapper.purge();
}

# verify = on_read: the stored copy is not what was stored, and is removed. Fetch it anew.
# And a removal that could not be recorded says so.
sub vcl_synth {
	if (objmapper.damaged()) {
		return (restart);
	}
	if (objmapper.removal_error()) {
		set resp.reason = "Not recorded";
		set resp.http.Content-Type = "text/plain; charset=utf-8";
		synthetic(objmapper.removal_error() + {"
"});
		return (deliver);
	}
}
