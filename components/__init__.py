"""A private registry, pull-through mirrors and a TLS proxy on one Docker host."""
