# Two stores: pages and media do not push each other out.
vcl 4.1;
import objmapper;

backend default { .host = "127.0.0.1"; .port = "8081"; }

include "objmapper.vcl";

sub vcl_init {
	new pages = objmapper.storage(memory = 512MB);
	new media = objmapper.storage(memory = 1500MB);
	pages.set_default();
}

sub vcl_recv {
	call objmapper_recv;
}

sub vcl_backend_response {
	if (beresp.http.Content-Type ~ "^(image|audio|video)/") {
		set beresp.storage = media.storage();
	}
}
