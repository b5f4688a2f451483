"""Commands for what a declaration cannot do: `python -m operations …`."""
