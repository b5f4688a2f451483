"""Install or build everything for `make up` and `make test` on a machine with only Python and package registries."""
