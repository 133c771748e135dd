# Several sites: each has a store, so that a busy one cannot empty another's cache.
vcl 4.1;
import objmapper;

backend shop { .host = "127.0.0.1"; .port = "8081"; }
backend blog { .host = "127.0.0.1"; .port = "8081"; }

include "objmapper.vcl";

sub vcl_init {
	new store_shop = objmapper.storage(memory = 1GB);
	new store_blog = objmapper.storage(memory = 512MB);
	store_blog.set_default();
}

sub vcl_recv {
	call objmapper_recv;
	if (req.http.Host ~ "^shop\.") {
		set req.backend_hint = shop;
	} else {
		set req.backend_hint = blog;
	}
}

sub vcl_backend_response {
	if (bereq.http.Host ~ "^shop\.") {
		set beresp.storage = store_shop.storage();
	}
}
