"""Checks of the Docker host that a preview or `up` runs before it changes anything."""
