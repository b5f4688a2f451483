"""The images of Compose files and Kubernetes manifests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

_CONTAINERS = ("containers", "initContainers", "ephemeralContainers")


class _Loader(yaml.SafeLoader):
    """A safe loader that ignores tags of its own, such as Compose's `!override`. `!reset` removes a value."""


def _untagged(loader: _Loader, tag: str, node: yaml.Node) -> Any:
    match node:
        case _ if tag == "reset":
            return None
        case yaml.MappingNode():
            return loader.construct_mapping(node, deep=True)
        case yaml.SequenceNode():
            return loader.construct_sequence(node, deep=True)
    return loader.construct_scalar(node)  # type: ignore[arg-type] # the only other kind is a scalar


_Loader.add_multi_constructor("!", _untagged)


def load(text: str) -> list[Any]:
    """Return the documents of a YAML text, without empty documents.

    Raises:
        yaml.YAMLError: if the text is not YAML.
    """
    try:
        return [document for document in yaml.load_all(text, _Loader) if document is not None]
    except (ValueError, LookupError, AttributeError, RecursionError):
        # Too deep, a date that does not exist, or a value that does not fit its tag.
        raise yaml.YAMLError from None


def is_compose(documents: list[Any]) -> bool:
    """Whether the documents are a Compose file."""
    return len(documents) == 1 and isinstance(documents[0], dict) and isinstance(documents[0].get("services"), dict)


def is_kubernetes(documents: list[Any]) -> bool:
    """Whether all documents are Kubernetes objects."""
    return bool(documents) and all(isinstance(one, dict) and {"apiVersion", "kind"} <= one.keys() for one in documents)


def compose_images(documents: list[Any]) -> Iterator[tuple[str, str]]:
    """Yield place and image of each service that Compose does not build. Variables are not replaced."""
    for name, service in documents[0]["services"].items():
        if isinstance(service, dict) and service.get("build") is None and service.get("image") is not None:
            yield f"services.{name}.image", str(service["image"])


def kubernetes_images(documents: list[Any]) -> Iterator[tuple[str, str]]:
    """Yield place and image of each container and of each image volume, at any depth of any kind of object."""
    seen = set[int]()  # a YAML alias repeats an object
    waiting: list[tuple[str, Any]] = [(f"{one['kind']}", one) for one in reversed(documents)]
    while waiting:
        place, value = waiting.pop()
        if not isinstance(value, dict | list) or id(value) in seen:
            continue
        seen.add(id(value))
        entries = list(value.items() if isinstance(value, dict) else enumerate(value))
        for key, entry in entries:
            if key in _CONTAINERS and isinstance(entry, list):
                for container in entry:
                    if isinstance(container, dict) and container.get("image") is not None:
                        yield f"{place}.{key}", str(container["image"])
            elif key == "image" and isinstance(entry, dict) and entry.get("reference") is not None:
                yield f"{place}.image.reference", str(entry["reference"])
        waiting += [(f"{place}.{key}", entry) for key, entry in reversed(entries)]
