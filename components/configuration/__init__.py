"""Configuration of a stack: load it, check it, derive names from it. Nothing here imports Pulumi."""
