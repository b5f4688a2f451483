"""The hidden first line of a comment."""


def mark(stack: str, *, changes: bool) -> str:
    """Return the mark."""
    return f"<!-- registry-stack preview: stack={stack} changes={'yes' if changes else 'no'} -->"
