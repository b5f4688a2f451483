"""Everything that `make up` and `make test` need on a machine that has only Python and package registries."""
