"""A private registry, pull-through mirrors and a TLS proxy on one Docker host."""

from components.data_stores import DataStores, DataStoresArgs
from components.private_registry import PrivateRegistry, PrivateRegistryArgs
from components.pull_through_mirror import PullThroughMirror, PullThroughMirrorArgs
from components.tls_proxy import TlsProxy, TlsProxyArgs

__all__ = [
    "DataStores",
    "DataStoresArgs",
    "PrivateRegistry",
    "PrivateRegistryArgs",
    "PullThroughMirror",
    "PullThroughMirrorArgs",
    "TlsProxy",
    "TlsProxyArgs",
]
