"""Keep one comment per stack and pull request: `python -m operations comment`."""
