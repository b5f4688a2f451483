"""Commands for tasks that a Pulumi program cannot declare: `python -m operations …`."""
