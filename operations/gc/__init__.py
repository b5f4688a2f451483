"""Free the space of blobs that no manifest references, while writing pauses and pulls go on."""
