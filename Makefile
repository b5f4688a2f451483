# Everything here works on a new Debian or Ubuntu machine; python -m local makes what is missing under .local/.
VENV := .venv/bin/python

.PHONY: up down purge test test-caddy test-nginx test-any-proxy test-current-engine test-over-ssh lint bench golden lock

up down purge: .venv/installed
	@$(VENV) -m local $@

# Two engines at a time, since a test waits as much as it works; what each prints comes whole, when it has ended.
test: .venv/installed
	$(VENV) -m local prepare
	$(VENV) -m pytest tests/unit tests/render tests/binaries
	$(MAKE) --jobs=2 --keep-going --output-sync=target \
		test-caddy test-nginx test-any-proxy test-current-engine test-over-ssh

test-caddy:
	$(VENV) -m local with-engine debian -- $(VENV) -m pytest tests/engine -m "not any_proxy"

test-nginx:
	$(VENV) -m local with-engine debian -- $(VENV) -m pytest tests/engine -m "not any_proxy" --proxy nginx

test-any-proxy:
	$(VENV) -m local with-engine debian -- $(VENV) -m pytest tests/engine -m any_proxy

test-current-engine:
	$(VENV) -m local with-engine modules -- $(VENV) -m pytest tests/engine -m "not once"

test-over-ssh:
	$(VENV) -m local with-engine debian -- $(VENV) -m pytest tests/engine -m "not once and not any_proxy" --over-ssh

lint: .venv/installed
	$(VENV) -m ruff check .
	$(VENV) -m ruff format --check .
	$(VENV) -m mypy

bench: .venv/installed
	$(VENV) -m local prepare
	$(VENV) -m local with-engine debian -- $(VENV) -m benchmarks

golden: .venv/installed
	$(VENV) -m pytest tests/render --rewrite-golden

lock: .venv/installed
	$(VENV) -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
		--no-emit-index-url --no-emit-find-links --upgrade --output-file requirements.lock requirements.in

.venv/installed: requirements.lock local/venv.sh
	@sh local/venv.sh
