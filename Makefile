# Everything here works on a new Debian or Ubuntu machine; python -m local makes what is missing under .local/.
PYTHON := .venv/bin/python

.PHONY: up down purge test lint bench golden lock

up down purge: .venv/installed
	@$(PYTHON) -m local $@

test: .venv/installed
	$(PYTHON) -m local prepare
	$(PYTHON) -m local with-engine debian -- $(PYTHON) -m pytest tests
	$(PYTHON) -m local with-engine modules -- $(PYTHON) -m pytest tests/engine

lint: .venv/installed
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

bench: .venv/installed
	$(PYTHON) -m local prepare
	$(PYTHON) -m local with-engine debian -- $(PYTHON) -m benchmarks

golden: .venv/installed
	$(PYTHON) -m pytest tests/render --rewrite-golden

lock: .venv/installed
	$(PYTHON) -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
		--no-emit-index-url --no-emit-find-links --upgrade --output-file requirements.lock requirements.in

.venv/installed: requirements.lock local/venv.sh
	@sh local/venv.sh
