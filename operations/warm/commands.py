"""Pull the images that files name through the mirrors: `warm`."""

from __future__ import annotations

import os
import re
import signal
import ssl
import threading
from pathlib import Path
from typing import Annotated

import typer
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from components.configuration.problems import Failure
from operations.console import say, show_table, waiting
from operations.options import ConfigFile, Stack
from operations.stack import StackConfig
from operations.trust import trust_in
from operations.warm.files import references
from operations.warm.mirrors import Mirror, Mirrors, from_deployed, interval
from operations.warm.pull import Puller, PullError, Stopped
from operations.warm.references import Reference

_PLATFORM = re.compile(r"[a-z0-9]+/[a-z0-9_]+(?:/[a-z0-9.]+)?")


def warm(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE",
            help="Compose files, Kubernetes manifests, Dockerfiles, or lists (.txt) with one image per line.",
            show_default=False,
        ),
    ],
    platform: Annotated[
        list[str] | None,
        typer.Option(metavar="OS/ARCH", help="A platform such as linux/amd64. Repeat the option. Default: all."),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Pull again and again, so that expired content is fetched soon.")
    ] = False,
    stack: Stack = None,
    config_file: ConfigFile = None,
) -> None:
    """Pull the images that files name through the mirrors, so that the mirrors have them.

    The table shows for each image its mirror, digest and bytes, or why it failed. Images of the private registry and of
    upstreams without a mirror are skipped. The exit status is 1 if an image failed.
    """
    if wrong := [one for one in platform or () if not _PLATFORM.fullmatch(one)]:
        raise Failure(f"--platform {wrong[0]} is not a platform", "use OS/ARCH, such as linux/amd64 or linux/arm64/v8")
    config = StackConfig(stack, config_file)
    wanted = references(files, os.environ)
    deployed = config.deployed_mirrors()
    mirrors, trust = from_deployed(deployed), trust_in(deployed.ca_certificate, config)
    seconds = None
    if keep:
        used = [found[1].ttl for one in wanted if not isinstance(found := mirrors.find(one), str)]
        if (seconds := interval(used)) is None:
            raise Failure("no mirror of these images lets content expire", "run the command without --keep")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    while True:
        try:
            failed = _run(wanted, mirrors, trust, platform or [], stop)
        except Stopped:
            break
        if seconds is None:
            raise typer.Exit(1 if failed else 0)
        say(f"The next run starts in {seconds} seconds. Stop the command with Ctrl-C.")
        if stop.wait(seconds):
            break
    say("stopped")
    raise typer.Exit(0 if keep else 1)


def _run(
    wanted: list[Reference], mirrors: Mirrors, trust: ssl.SSLContext, platforms: list[str], stop: threading.Event
) -> int:
    """Pull all references, print the table, and return the number of failures."""
    table = Table("Image", "Mirror", "Digest", "Bytes", "Result", box=None, pad_edge=False)
    for column in table.columns:
        column.overflow = "fold"
    arrived, failed, skipped, lock = 0, 0, 0, threading.Lock()
    with waiting("") as status:
        current = ""

        def progress(size: int) -> None:
            nonlocal arrived
            with lock:
                arrived += size
                status.update(f"{current}, {decimal(arrived)} so far")

        with Puller(trust, platforms, progress, stop) as puller:
            for number, reference in enumerate(wanted, 1):
                current = f"{number} of {len(wanted)}: {reference}"
                progress(0)
                match mirrors.find(reference):
                    case str() as reason:
                        skipped += 1
                        table.add_row(str(reference), "", "", "", f"skipped: {reason}")
                    case (at_upstream, mirror):
                        failed += not _pull(puller, reference, at_upstream, mirror, table)
    show_table(table)
    say(f"{len(wanted) - failed - skipped} pulled, {skipped} skipped, {failed} failed, {decimal(arrived)} in all")
    return failed


def _pull(puller: Puller, reference: Reference, at_upstream: Reference, mirror: Mirror, table: Table) -> bool:
    try:
        pulled = puller.pull(at_upstream, mirror)
    except PullError as error:
        # The mirror or the upstream chose words in it.
        words = "".join(filter(str.isprintable, str(error)))
        table.add_row(str(reference), mirror.url, "", "", escape(f"failed: {words}"))
        return False
    algorithm, _, encoded = pulled.digest.partition(":")
    table.add_row(str(reference), mirror.url, f"{algorithm}:{encoded[:12]}", decimal(pulled.size), "pulled")
    return True
