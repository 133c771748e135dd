# A phrase book: every line is a command you could have typed.
-include Makefile.local

T ?= .

.PHONY: help
help:
	@echo "make bootstrap            what Debian has to install (as root)"
	@echo "make dev                  configure, build and run the unit tests of the dev preset"
	@echo "make test                 everything that has to be right (script/test, up to 30 minutes)"
	@echo "make full                 the same with ThreadSanitizer, clang-tidy, valgrind, long fuzzing"
	@echo "make one T='lease|vtc_m'  build dev and run the tests whose names match"
	@echo "make asan | tsan | fuzz | tidy | release   that preset from configure to test"
	@echo "make vtc                  the conversations with varnishd"
	@echo "make check                layers, headers, format, promises, words"
	@echo "make format               clang-format in place"
	@echo "make bench                ours beside plain Varnish and rivals, in 5 minutes (bench/run --quick)"
	@echo "make server               a demonstration: H2O, objm proxy, what survives"

.PHONY: bootstrap test full server
bootstrap test server:
	script/$@
full:
	script/test --full

.PHONY: dev
dev:
	script/build dev && ctest --test-dir build/dev -L unit -j 3 --output-on-failure

.PHONY: asan tsan fuzz tidy release
asan tsan fuzz tidy release:
	cmake --workflow --preset $@

.PHONY: one vtc check format bench
one:
	script/build dev && ctest --test-dir build/dev -j 3 --output-on-failure -R '$(T)'
vtc:
	script/build release && ctest --test-dir build/release -j 3 --output-on-failure -L vtc
check:
	script/build release && ctest --test-dir build/release -j 3 --output-on-failure -L check
format:
	tools/check_format.py --fix
bench:
	script/build release && bench/run --quick
