"""What a rule may look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from components.configuration.settings import MirrorSettings, ProxySettings, RegistrySettings, Secrets


@dataclass(frozen=True)
class Draft:
    """What could be read so far; the rules that join sections look at it even if another section is broken.

    ``users`` is None where it is no object; ``acknowledged`` is the number of words in ``acknowledge``, None where that
    is broken; ``unreadable`` has the paths of mirrors and secrets that are given, but cannot be used.
    """

    users: Mapping[str, object] | None
    registry: RegistrySettings | None
    proxy: ProxySettings | None
    mirrors: Mapping[str, MirrorSettings]
    unreadable: frozenset[tuple[str, ...]]
    acknowledge: frozenset[str]
    acknowledged: int | None
    name_prefix: str
    secrets: Secrets

    def is_unreadable(self, key: str, name: str) -> bool:
        """Whether ``name`` may be given under ``key``, but was refused there already."""
        return not self.unreadable.isdisjoint({(key,), (key, name)})
