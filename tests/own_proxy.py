"""Configurations of a proxy that the operator already has, around a snippet that the stack writes for it."""

from __future__ import annotations

import re
from pathlib import Path

from tests.certificates import certificate_pair


def own_caddy(snippet: str, folder: Path) -> str:
    """The Caddy of an operator: little but the import of a snippet, and certificates instead of an authority."""
    pair = certificate_pair("localhost")
    (folder / "chain.pem").write_text(pair["certificate"])
    (folder / "key.pem").write_text(pair["private_key"])
    known = rf"\1 {{\n\ttls {folder}/chain.pem {folder}/key.pem"
    (folder / "registry.caddy").write_text(re.sub(r"^(https://.*) {$", known, snippet, flags=re.MULTILINE))
    return f"{{\n\tadmin off\n\tauto_https disable_redirects\n}}\nimport {folder}/registry.caddy\n"


def own_nginx(snippet: str, folder: Path) -> str:
    """The nginx of an operator: little but an ``http`` block that includes a snippet, and certbot's certificates."""
    certificates = re.findall(r"/etc/letsencrypt/live/(.*)/fullchain.pem", snippet)
    for host in certificates:
        pair = certificate_pair(host)
        (folder / host).mkdir(exist_ok=True)
        (folder / host / "fullchain.pem").write_text(pair["certificate"])
        (folder / host / "privkey.pem").write_text(pair["private_key"])
    included = folder / "registry.conf"
    included.write_text(snippet.replace("/etc/letsencrypt/live", str(folder)))
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"pid {folder}/pid; events {{}} http {{ access_log off; {temporary} include {included}; }}"
