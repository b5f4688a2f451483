"""Checks that a preview or `up` runs: of the Docker host, before anything changes, and of the upstreams."""
