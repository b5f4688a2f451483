"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Stack = Annotated[str | None, typer.Option("--stack", "-s", help="Name of the stack. Default: the selected stack.")]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config-file", help="The stack's configuration file, if the file is not beside Pulumi.yaml."),
]
