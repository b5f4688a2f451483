"""Texts that `make up` prints at its end: addresses, and the next commands.

``registry`` and ``mirror`` are host and port as they stand in image names.
"""

from __future__ import annotations


def where_it_is(registry: str, mirror: str) -> str:
    """Return what an `up` without a change prints."""
    return f"""
The registry runs at https://{registry}, the Docker Hub mirror at https://{mirror}.
Passwords are in .local/credentials.json. Before you use pulumi or python -m operations, run: . .local/env"""


def how_to_use(registry: str, mirror: str, *, has_authority: bool) -> str:
    """Return the next commands after an `up` that changed something."""
    python = "import json; print(json.load(open('.local/credentials.json'))['users']['ci'])"
    trust = f"""
docker trusts localhost. Other clients need .local/ca.crt, the certificate of the proxy's own authority:

  skopeo list-tags --cert-dir .local docker://{registry}/team/app    # podman has --cert-dir too
  SSL_CERT_FILE=.local/ca.crt crane ls {registry}/team/app           # any client written in Go
"""
    return f"""
The registry runs at https://{registry}, the Docker Hub mirror at https://{mirror}. Next, in this folder:

  python3 -c "{python}" | docker login {registry} --username ci --password-stdin
  docker tag registry:3.1.2 {registry}/team/app:1.0     # any image that you have
  docker push {registry}/team/app:1.0
  docker pull {registry}/team/app:1.0
  docker pull {mirror}/alpine:latest                    # through the mirror; needs access to Docker Hub
{trust if has_authority else ""}
To use pulumi and python -m operations on this stack, run in each shell:

  . .local/env
  python -m operations credentials list

Users: ci can push, production can pull, admin can also delete. Their passwords are in .local/credentials.json.
`make down` stops everything and keeps the data. `make purge` also removes the data."""
