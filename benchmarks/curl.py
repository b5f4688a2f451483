"""Run parallel transfers with one curl, each over its own connection."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.containers import ANYONE
from tests.harness import clients

#: Timeout of a transfer in seconds.
LONGEST = 120


@dataclass(frozen=True)
class Transfer:
    """A download of ``size`` bytes from ``url``, or an upload of the file ``source`` to ``url``."""

    url: str
    size: int
    source: Path | None = None


def run(transfers: Sequence[Transfer], *, status: int, authority: Path) -> float:
    """Run all transfers. Return the seconds from the start of curl to its end.

    Args:
        transfers: only uploads or only downloads.
        status: the expected status of each answer.
        authority: the certificate that clients trust.

    Raises:
        RuntimeError: if a transfer has another result, or did not use its own connection.
    """
    options = [
        *["--disable", "--no-progress-meter", "--ipv4", "--cacert", str(authority), "--max-time", str(LONGEST)],
        *["--parallel", "--parallel-immediate", "--parallel-max", str(len(transfers))],
        *["--user", ":".join(ANYONE)],
        # Registry clients send without asking first.
        *["--header", "Expect:"],
        *[
            "--write-out",
            "%{http_code} %{num_connects} %{size_upload} %{size_download} %{local_port}\n",
        ],
    ]
    start = time.perf_counter()
    answer = clients.run("curl", *options, "--config", "-", stdin="".join(map(_lines, transfers)))
    seconds = time.perf_counter() - start
    found = sorted(line.rpartition(" ") for line in answer.stdout.splitlines())
    wanted = sorted(
        f"{status} 1 {transfer.size if transfer.source else 0} {0 if transfer.source else transfer.size}"
        for transfer in transfers
    )
    ports = {port for _, _, port in found}
    if answer.returncode or [line for line, _, _ in found] != wanted or len(ports) != len(transfers):
        raise RuntimeError(
            f"curl ended with {answer.returncode}: {answer.stderr.strip()}\nexpected status, new"
            f" connections, bytes up and down: {wanted}\nfound, on {len(ports)} connections: {answer.stdout}"
        )
    return seconds


def _lines(transfer: Transfer) -> str:
    source = f'upload-file = "{transfer.source}"\n' if transfer.source else ""
    return f'url = "{transfer.url}"\noutput = "/dev/null"\n{source}'
