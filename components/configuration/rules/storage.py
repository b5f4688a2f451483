"""Rules for data volumes and data folders."""

from __future__ import annotations

from collections.abc import Iterator

from components.configuration.fields import lies_in
from components.configuration.naming import data_stores, mirror_alias
from components.configuration.problems import Problem, path, remove_command, set_command
from components.configuration.rules.draft import Draft


def _volume_problems(draft: Draft) -> Iterator[Problem]:
    """Refuse volume names of other data volumes and of the stack's own volumes, which `up` may replace."""
    own = tuple(f"{draft.name_prefix}-{component}-" for component in ("registry", "mirror", "proxy"))
    seen: dict[str, str] = {}
    for parts, (storage, default) in data_stores(draft.name_prefix, draft.registry, draft.mirrors).items():
        volume = storage.volume or default
        if storage.host_path:
            continue
        other = seen.setdefault(volume, path(*parts))
        if storage.volume and (other != path(*parts) or (volume != default and volume.startswith(own))):
            yield Problem(
                path(*parts, "volume"),
                volume,
                f"a volume that nothing else uses. Names that start with {', '.join(own)} are reserved for the stack",
                remove_command(*parts, "volume"),
            )


def _folder_problems(draft: Draft) -> Iterator[Problem]:
    """Refuse data stores that share a folder: a mirror serves everything in its folder without a login."""
    stores = data_stores(draft.name_prefix, draft.registry, draft.mirrors)
    folders = {(*parts, "host_path"): one.host_path for parts, (one, _) in stores.items() if one.host_path}
    seen: dict[str, str] = {}
    for parts, folder in folders.items():
        if other := next((one for one in seen if lies_in(folder, one) or lies_in(one, folder)), None):
            how = (
                "is also the folder"
                if folder == other
                else f"lies in {other}, the folder"
                if lies_in(folder, other)
                else f"contains {other}, the folder"
            )
            name = "data" if parts[0] == "registry" else mirror_alias(parts[1])
            beside = f"{min(folder, other, key=len)}-{name}"
            yield Problem(
                path(*parts),
                f"{folder}, which {how} of {seen[other]}",
                "one folder for each store, none inside another: a mirror serves all of its folder without a login",
                set_command(path(*parts), beside),
                (remove_command(*parts),),
            )
        seen.setdefault(folder, path(*parts))


RULES = (_volume_problems, _folder_problems)
