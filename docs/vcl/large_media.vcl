# Large media only: a body of 1 MB or more, by its Content-Length, lies in objmapper. Small objects
# stay in -s malloc. A body whose length is not known beforehand counts as small.
vcl 4.1;
import objmapper;
import std;

backend default { .host = "127.0.0.1"; .port = "8081"; }

include "objmapper.vcl";

sub vcl_init {
	new media = objmapper.storage(memory = 2GB);
}

sub vcl_recv {
	call objmapper_recv;
}

sub vcl_backend_response {
	if (std.bytes(beresp.http.Content-Length, 0B) >= 1MB) {
		set beresp.storage = media.storage();
	}
}
