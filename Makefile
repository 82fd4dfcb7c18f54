# CoBox: what a person or a machine runs here. `make help` lists it.
#
# Everything is compiled once, in the release profile, into one folder outside the checkout: RocksDB
# and libp2p take longer than all the rest, and a second profile, feature set or folder would compile
# them again. Set CARGO_TARGET_DIR to put that folder elsewhere.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/cobox/target
CARGO ?= cargo
BIN := $(CARGO_TARGET_DIR)/release
SEEDER := $(CARGO_TARGET_DIR)/seeder
PREFIX ?= /usr/local

.PHONY: help deps build all test posix soak bench lint deny demo demo-seeder install clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

deps: ## install the Debian packages that building and mounting need, saying which and why
	@scripts/install-deps.sh

# The seeder is built in an invocation of its own: in a build of the whole workspace cargo would give
# it the code that opens things (the feature `keyed`), and the seeder that we ship links none of it.
build: deps ## build cobox-ctl, coboxd and the seeder (which links no code that opens anything)
	$(CARGO) build --release --locked -p cobox-net --bin cobox-seeder
	install -D -m 0755 "$(BIN)/cobox-seeder" "$(SEEDER)/cobox-seeder"
	$(CARGO) build --release --locked -p cobox-ctl --bins

all: build ## build everything, tests and benchmarks included
	$(CARGO) build --release --locked --workspace

test: build ## run every test in its short form
	scripts/test.sh

posix: build ## show that a mount is a POSIX disk: pjdfstest, fsx, programs (root; CHECKS="git tar" for some)
	COBOX_BIN="$(BIN)" scripts/posix.sh $(CHECKS)

soak: build ## run every test with the full counts; takes hours
	COBOX_SOAK=20 scripts/test.sh

bench: all ## measure, print the figures and put them into docs/performance.md (BENCH_SCALE=1 for the full sizes)
	scripts/bench.sh

# Advisories are the one check that needs a network: `cargo deny check advisories`.
deny: ## check licences, sources and bans of all dependencies (needs cargo-deny, no network)
	$(CARGO) deny --offline --locked check bans licenses sources

lint: deps ## rustfmt, clippy and (where installed) cargo deny
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --release --locked --workspace --all-targets -- -D warnings
	@if $(CARGO) deny --version >/dev/null 2>&1; then $(MAKE) deny; \
	else echo "cargo-deny is not installed; licences and sources were not checked"; fi

demo: build ## the whole story on real files, in the open (INPUT=path for your own)
	@COBOX_BIN="$(BIN)" COBOX_SEEDER="$(SEEDER)/cobox-seeder" INPUT="$(INPUT)" scripts/demo.sh

demo-seeder: build ## who has your back-ups: a claim, an agreement, a damaged disk, a seeder that is off, a release (as root)
	@COBOX_BIN="$(BIN)" COBOX_SEEDER="$(SEEDER)/cobox-seeder" scripts/demo-seeder.sh

install: build ## copy the programs and their systemd units to PREFIX (default /usr/local); packaging/README.md
	install -D -m 0755 "$(BIN)/cobox-ctl" "$(DESTDIR)$(PREFIX)/bin/cobox-ctl"
	install -D -m 0755 "$(BIN)/coboxd" "$(DESTDIR)$(PREFIX)/bin/coboxd"
	install -D -m 0755 "$(SEEDER)/cobox-seeder" "$(DESTDIR)$(PREFIX)/bin/cobox-seeder"
	install -d "$(DESTDIR)$(PREFIX)/lib/systemd/system" "$(DESTDIR)$(PREFIX)/lib/systemd/user"
	sed 's|/usr/local|$(PREFIX)|g' packaging/systemd/cobox-seeder.service >"$(DESTDIR)$(PREFIX)/lib/systemd/system/cobox-seeder.service"
	sed 's|/usr/local|$(PREFIX)|g' packaging/systemd/coboxd.service >"$(DESTDIR)$(PREFIX)/lib/systemd/user/coboxd.service"
	install -D -m 0644 packaging/systemd/cobox-seeder.sysusers "$(DESTDIR)$(PREFIX)/lib/sysusers.d/cobox-seeder.conf"
	install -D -m 0644 README.md "$(DESTDIR)$(PREFIX)/share/doc/cobox/README.md"

clean: ## remove everything that was compiled (the next build starts from nothing)
	rm -rf "$(CARGO_TARGET_DIR)"
