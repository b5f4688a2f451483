"""Show what uses the registry's disk space."""
