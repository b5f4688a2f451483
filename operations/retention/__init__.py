"""Decide which tags and manifests the registry keeps, and delete the others."""
