"""Show every version that the registry's tags had, and the line that goes back to a version."""
