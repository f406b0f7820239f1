# `make help` lists the targets. The binary is static: musl where rustup has the target, else glibc.

PREFIX ?= /usr/local
DESTDIR ?=

ARCH = $(shell uname -m)
MUSL = $(ARCH)-unknown-linux-musl
HAS_MUSL = $(shell test -d "$$(rustc --print sysroot)/lib/rustlib/$(MUSL)/lib" && echo yes)
TARGET = $(if $(HAS_MUSL),$(MUSL),$(ARCH)-unknown-linux-gnu)
BINARY = target/$(TARGET)/release/opensandbox
STATIC = $(if $(HAS_MUSL),,RUSTFLAGS="$(RUSTFLAGS) -C target-feature=+crt-static")

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

.PHONY: setup
setup: ## install what is missing to build and test
	@scripts/setup build test

# A target of its own: which TARGET there is, is known only after it.
.PHONY: toolchain
toolchain:
	@scripts/setup build

.PHONY: build
build: toolchain ## build the static binary
	$(STATIC) cargo build --locked --release --target $(TARGET)

.PHONY: run
run: ## see egress filter real DNS
	@scripts/setup build run
	@scripts/demo

.PHONY: test
test: setup ## run every test, and check that the binary is static
	cargo test --locked --workspace
	@$(MAKE) --no-print-directory build
	scripts/check-static $(BINARY)
	scripts/check-image $(BINARY)
	scripts/check-systemd $(BINARY)

.PHONY: bench
bench: build ## run the benchmarks (SPECIFICATION.md), in six minutes
	OPENSANDBOX_BENCH_BINARY=$(abspath $(BINARY)) cargo bench --locked --profile quick --bench '*'

.PHONY: lint
lint: ## check format and lints
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings

.PHONY: man
man: ## write the manual pages anew
	rm -rf man
	cargo run --locked --quiet -- generate man man

.PHONY: completions
completions: ## write the shell completions anew
	rm -rf completions
	cargo run --locked --quiet -- generate completions completions

.PHONY: install
install: build ## install below DESTDIR and PREFIX, with a link an applet
	install -D -m 755 $(BINARY) $(DESTDIR)$(PREFIX)/bin/opensandbox
	for applet in $$($(BINARY) --list); do \
	    ln -sf opensandbox $(DESTDIR)$(PREFIX)/bin/opensandbox-$$applet || exit 1; \
	done
	install -d $(DESTDIR)$(PREFIX)/share/man/man1
	install -m 644 man/*.1 $(DESTDIR)$(PREFIX)/share/man/man1
	install -D -m 644 completions/opensandbox.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/opensandbox
	install -D -m 644 completions/_opensandbox $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_opensandbox
	install -D -m 644 completions/opensandbox.fish $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/opensandbox.fish

.PHONY: clean
clean: ## remove what was built
	cargo clean
