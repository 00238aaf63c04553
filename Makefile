# The commands of this project. `make demo` and `make test` need a Rust toolchain and nothing else: they install
# the system packages they use when they may (root on Debian or Ubuntu), and name them otherwise.

CARGO ?= cargo
PREFIX ?= /usr/local
TARGET_DIR := $(abspath $(or $(CARGO_TARGET_DIR),target))
SKIP_LOG := $(TARGET_DIR)/skipped-tests.txt
BOOT_SKIP_LOG := $(TARGET_DIR)/skipped-boot-tests.txt
BENCH_ARGS ?=
BOOT_ARGS ?=
BINARY := $(TARGET_DIR)/release/clonetool

.PHONY: help build demo test test-boot lint deny bench install clean

help:
	@echo 'make demo      clone a small production root to a standby, change it, sync it, verify it'
	@echo 'make test      format, lints, every test, the short form of test-boot, and the licence check'
	@echo 'make test-boot a copy of a Debian host, prepared and booted in qemu, and each step left out in turn;'
	@echo '               BOOT_ARGS=--short for the shorter half of it'
	@echo 'make lint      format, lints and licence check alone'
	@echo 'make bench     against rsync; BENCH_ARGS="--quick --only W3,W5" and the like, or'
	@echo '               BENCH_ARGS="--full --memory --charts doc --markdown doc/performance.md" for every number'
	@echo 'make build     the release binary: $(BINARY)'
	@echo 'make install   the binary, its manual, completions and boot unit, below PREFIX (now $(PREFIX)) and DESTDIR'

build:
	@packaging/prerequisites.sh build
	$(CARGO) build --release --locked --package clonetool

demo:
	@packaging/prerequisites.sh demo
	$(CARGO) build --release --locked --package clonetool
	@packaging/demo.sh '$(BINARY)'

test:
	@packaging/prerequisites.sh test
	@$(MAKE) --no-print-directory lint
	@mkdir -p '$(TARGET_DIR)' && rm -f '$(SKIP_LOG)'
	CLONETOOL_SKIP_LOG='$(SKIP_LOG)' $(CARGO) test --workspace --locked
	@packaging/check-skips.sh '$(SKIP_LOG)' tests/expected-skips.txt
	@$(MAKE) --no-print-directory test-boot BOOT_ARGS=--short

test-boot:
	@packaging/prerequisites.sh boot
	@mkdir -p '$(TARGET_DIR)' && rm -f '$(BOOT_SKIP_LOG)'
	CLONETOOL_SKIP_LOG='$(BOOT_SKIP_LOG)' $(CARGO) test --locked --package clonetool --test boot -- $(BOOT_ARGS)
	@packaging/check-skips.sh '$(BOOT_SKIP_LOG)' tests/boot/expected-skips.txt

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	@$(MAKE) --no-print-directory deny

deny:
	@if $(CARGO) deny --version >/dev/null 2>&1; then \
	    $(CARGO) fetch --locked --quiet && \
	    $(CARGO) deny --locked --offline check licenses bans sources; \
	else \
	    echo 'lint: cargo-deny is not installed (cargo install --locked cargo-deny); licences were not checked'; \
	fi

bench:
	@packaging/prerequisites.sh bench
	$(CARGO) bench --locked --package clonetool --bench versus-rsync -- $(BENCH_ARGS)

install: build
	install -d '$(DESTDIR)$(PREFIX)/bin' '$(DESTDIR)$(PREFIX)/share/man/man1' \
	    '$(DESTDIR)$(PREFIX)/share/bash-completion/completions' '$(DESTDIR)$(PREFIX)/lib/systemd/system'
	install -m 755 '$(BINARY)' '$(DESTDIR)$(PREFIX)/bin/clonetool'
	'$(BINARY)' man >'$(DESTDIR)$(PREFIX)/share/man/man1/clonetool.1'
	'$(BINARY)' completions bash >'$(DESTDIR)$(PREFIX)/share/bash-completion/completions/clonetool'
	sed 's|/usr/local/bin|$(PREFIX)/bin|' packaging/systemd/clonetool-recover.service \
	    >'$(DESTDIR)$(PREFIX)/lib/systemd/system/clonetool-recover.service'

clean:
	$(CARGO) clean
