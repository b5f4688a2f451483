"""Configurations of an operator's own proxy that include the snippet of the stack."""

from __future__ import annotations

import re
from pathlib import Path

from tests.harness.certificates import certificate_pair


def own_caddy(snippet: str, folder: Path) -> str:
    """An operator's Caddy: the snippet, the time limits of docs/proxies.md, and certificates from files."""
    pair = certificate_pair("localhost")
    (folder / "chain.pem").write_text(pair["certificate"])
    (folder / "key.pem").write_text(pair["private_key"])
    known = rf"\1 {{\n\ttls {folder}/chain.pem {folder}/key.pem"
    (folder / "registry.caddy").write_text(re.sub(r"^(https://.*) {$", known, snippet, flags=re.MULTILINE))
    times = "servers {\n\t\ttimeouts {\n\t\t\tread_body_idle 15m\n\t\t\twrite_idle 30s\n\t\t}\n\t}"
    return f"{{\n\tadmin off\n\tauto_https disable_redirects\n\t{times}\n}}\nimport {folder}/registry.caddy\n"


def own_nginx(snippet: str, folder: Path) -> str:
    """An operator's nginx: the snippet in an ``http`` block, certbot's certificates, and enough connections."""
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
    http = f"access_log off; {temporary} include {included};"
    return f"pid {folder}/pid; events {{ worker_connections 4096; }} http {{ {http} }}"
