"""The input of the rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from components.configuration.fields import Endpoint
from components.configuration.settings import MirrorSettings, ProxySettings, RegistrySettings, Secrets


@dataclass(frozen=True)
class Draft:
    """All readable sections; rules that compare sections use them even if another section is broken.

    ``mirrors`` has the values of ``mirror_defaults``; ``default_lists`` has the mirrors with the default ``allow``.

    ``users`` is None if that section is not an object. ``acknowledged`` is the number of words in ``acknowledge``, or
    None if that list is broken. ``unreadable`` has the paths of mirrors, secrets and sections for all mirrors that are
    set but unusable.
    """

    users: Mapping[str, object] | None
    registry: RegistrySettings | None
    proxy: ProxySettings | None
    mirrors: Mapping[str, MirrorSettings]
    default_lists: frozenset[str]
    mirror_url: Endpoint | None
    unreadable: frozenset[tuple[str, ...]]
    acknowledge: frozenset[str]
    acknowledged: int | None
    name_prefix: str
    secrets: Secrets

    def is_unreadable(self, key: str, name: str) -> bool:
        """Whether ``name`` under ``key``, or all of ``key``, is set but was already refused."""
        return not self.unreadable.isdisjoint({(key,), (key, name)})
