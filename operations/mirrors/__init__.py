"""Whether the mirrors are reachable and used."""
