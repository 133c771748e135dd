# By URL: what is below /media/ lies in objmapper, all else where it was.
vcl 4.1;
import objmapper;

backend default { .host = "127.0.0.1"; .port = "8081"; }

include "objmapper.vcl";

sub vcl_init {
	new store = objmapper.storage(memory = 2GB);
}

sub vcl_recv {
	call objmapper_recv;
}

sub vcl_backend_response {
	if (bereq.url ~ "^/media/") {
		set beresp.storage = store.storage();
	}
}
