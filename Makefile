# All targets work on a new Debian or Ubuntu machine: python -m local installs or builds missing programs in .local/.
VENV := .venv/bin/python

.PHONY: up down purge check test test-unit test-commands test-binaries test-caddy test-caddy-under-load \
	test-nginx test-nginx-under-load test-any-proxy test-any-proxy-once test-current-engine \
	test-over-ssh lint bench golden lock outdated

up down purge: .venv/installed
	@$(VENV) -m local $@

# Targets run in parallel, because a test waits half of its time. The output of a target appears when the target ends.
AT_A_TIME := $(MAKE) --no-print-directory --jobs=4 --keep-going --output-sync=target

# All checks that need no engine, in two and a half minutes.
check: .venv/installed
	@$(VENV) -m local prepare
	@$(AT_A_TIME) test-commands test-binaries test-unit lint

test: .venv/installed
	$(VENV) -m local prepare
	@$(AT_A_TIME) test-unit test-any-proxy-once test-caddy-under-load test-nginx-under-load test-any-proxy \
		test-caddy test-nginx test-current-engine test-binaries test-commands test-over-ssh

test-unit:
	$(VENV) -m pytest tests/unit tests/render

# Separate from the tests of the servers, so that both targets take about the same time.
COMMANDS := tests/binaries/test_credential_commands.py tests/binaries/test_fixes.py

test-commands:
	$(VENV) -m pytest $(COMMANDS)

test-binaries:
	$(VENV) -m pytest tests/binaries $(addprefix --ignore=,$(COMMANDS))

test-on = $(VENV) -m local with-engine $(1) -- $(VENV) -m pytest tests/engine

test-caddy:
	$(call test-on,debian) -m "not any_proxy and not load"

test-caddy-under-load:
	$(call test-on,debian) -m load

test-nginx:
	$(call test-on,debian) -m "not any_proxy and not load" --proxy nginx

test-nginx-under-load:
	$(call test-on,debian) -m load --proxy nginx

test-any-proxy:
	$(call test-on,debian) -m "any_proxy and not once"

test-any-proxy-once:
	$(call test-on,debian) -m "any_proxy and once"

test-current-engine:
	$(call test-on,modules) -m "not once"

test-over-ssh:
	$(call test-on,debian) -m "not once and not any_proxy" --over-ssh

lint: .venv/installed
	$(VENV) -m ruff check .
	$(VENV) -m ruff format --check .
	$(VENV) -m mypy

bench: .venv/installed
	$(VENV) -m local prepare
	$(VENV) -m local with-engine debian -- $(VENV) -m benchmarks

golden: .venv/installed
	$(VENV) -m pytest tests/render --rewrite-golden

COMPILE := $(VENV) -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	--no-emit-index-url --no-emit-find-links

# Resolve the larger file first: a subset of a resolved set always resolves.
lock: .venv/installed
	$(COMPILE) --upgrade --output-file requirements-dev.lock requirements-dev.in
	$(COMPILE) --constraints requirements-dev.lock --output-file requirements.lock requirements.in

outdated: .venv/installed
	@$(VENV) -m local outdated

.venv/installed: requirements-dev.lock local/venv.sh
	@sh local/venv.sh
