# Step by step from varnishd -s malloc or -s file: a tenth of the objects lie in objmapper.
# Raise the number from day to day; 0 goes back. What is stored stays where it is until it expires.
vcl 4.1;
import objmapper;
import std;

backend default { .host = "127.0.0.1"; .port = "8081"; }

include "objmapper.vcl";

sub vcl_init {
	new store = objmapper.storage(memory = 2GB);
}

sub vcl_recv {
	call objmapper_recv;
}

sub vcl_backend_response {
	if (std.random(0, 100) < 10) {
		set beresp.storage = store.storage();
	}
}
