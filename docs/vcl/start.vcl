# The smallest one: everything that is cached lies in objmapper.
vcl 4.1;
import objmapper;

backend default { .host = "127.0.0.1"; .port = "8081"; }

include "objmapper.vcl";

sub vcl_init {
	new store = objmapper.storage(memory = 2GB);
	store.set_default();
}

sub vcl_recv {
	call objmapper_recv;
}
