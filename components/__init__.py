"""A private registry, pull-through mirrors and a TLS proxy on one Docker host."""

from components.private_registry import PrivateRegistry, PrivateRegistryArgs
from components.pull_through_mirror import PullThroughMirror, PullThroughMirrorArgs
from components.tls_proxy import TlsProxy, TlsProxyArgs

__all__ = [
    "PrivateRegistry",
    "PrivateRegistryArgs",
    "PullThroughMirror",
    "PullThroughMirrorArgs",
    "TlsProxy",
    "TlsProxyArgs",
]
