"""Compare the deployed configuration with the new one: users, mirrors, hosts, certificates, images, settings.

Both are the stack's outputs ``configuration`` and ``users``. An older or newer version of the program may have written
the deployed one, so the comparison knows no model: it reads paths and values.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from components.configuration.problems import path
from operations.preview.events import recorded
from operations.preview.retention import ABSENT, retention_changes
from operations.preview.text import SENTENCE, code

OPEN = "**open to everyone**"
#: Most ranges of a new mirror that one cell shows.
_RANGES = 20
#: Characters of the longest value in a headline.
_PHRASE = 120


@dataclass(frozen=True)
class Change:
    """A change in words: its subject, the value before and after, and a phrase for the headline (``adds …``).

    ``part`` names the changed part of the subject, such as a setting of a mirror. ``noun`` counts the subject in a
    headline; empty if the noun is that of the section.
    """

    subject: str
    before: str
    after: str
    phrase: str
    part: str = ""
    noun: str = ""


@dataclass(frozen=True)
class Section:
    """The changes of one kind. ``noun`` counts the changed things; several changes may have the same subject."""

    title: str
    noun: str
    changes: tuple[Change, ...]


def sections(before: Mapping[str, Any], after: Mapping[str, Any], images_in_use: frozenset[str]) -> list[Section]:
    """Return the changes between the outputs of the stack, by section; a section without a change is left out.

    Before the first deployment, settings and images are no changes. After a deployment by a version of the program that
    recorded no settings, only users can be compared.
    """
    old, new = before.get("configuration") or {}, after.get("configuration") or {}
    was, now = old.get("settings") or {}, new.get("settings") or {}
    found = [Section("Rights", "user", tuple(_users(before, after, now)))]
    if was or not before:
        found += [
            Section("Mirrors", "mirror", (*_mirrors(was, now), *_upstream_passwords(old, new, now))),
            Section("Hosts and certificates", "host", (*_hosts(was, now), *_certificates(old, new))),
        ]
    if was:
        settings = list(_settings(was, now, images_in_use))
        secrets = _other_secrets(old, new)
        found += [
            Section("Retention", "retention setting", tuple(Change(*change) for change in retention_changes(was, now))),
            Section("Images", "image", tuple(change for title, change in settings if title == "Images")),
            Section("Settings", "setting", (*(change for title, change in settings if title == "Settings"), *secrets)),
        ]
    return [section for section in found if section.changes]


def _users(before: Mapping[str, Any], after: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Change]:
    """Compare the deployed logins; an expired user is in the settings, but not among the logins."""
    valid, configured = after.get("users") or {}, now.get("registry", {}).get("users", {})
    deployed = before.get("users") or {}
    earlier = recorded(before, "settings").get("registry", {}).get("users", {})
    keys = [recorded(outputs, "fingerprints").get("stack_secret") for outputs in (before, after)]
    for name in sorted(deployed.keys() | valid.keys()):
        user, role = code(name), (valid.get(name) or {}).get("role")
        former = deployed.get(name)
        former_role = former.get("role") if isinstance(former, Mapping) else None
        was, new = _login(former_role, earlier.get(name)), _login(role, configured.get(name))
        if former is None:
            yield Change(user, ABSENT, new, f"adds the user {user} ({role})")
        elif name not in valid and name in configured:
            day = configured[name].get("expires")
            yield Change(user, was, f"expired on {day}: can no longer log in", f"revokes the expired user {user}")
        elif name not in valid:
            yield Change(user, was, "removed: can no longer log in", f"removes the user {user}")
        elif former_role is not None:
            if role != former_role:
                yield Change(user, was, new, f"changes the role of {user} from {former_role} to {role}")
            elif was != new:
                yield Change(user, was, new, f"changes the expiry of {user}")
            if keys[0] == keys[1] and former.get("fingerprint") != valid[name].get("fingerprint"):
                yield Change(user, "set", "new value", f"changes the password of {user}", "password")


def _login(role: str | None, user: Mapping[str, Any] | None) -> str:
    expires = (user or {}).get("expires")
    return f"{code(role)}{f' until {expires}' if expires else ''}" if role else ABSENT


def _mirrors(was: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Change]:
    earlier, later = was.get("mirrors", {}), now.get("mirrors", {})
    for name in sorted(earlier.keys() | later.keys()):
        mirror = code(name)
        if name not in earlier:
            yield Change(mirror, ABSENT, _described(later[name]), f"adds the mirror {mirror}")
        elif name not in later:
            yield Change(mirror, _described(earlier[name]), "removed", f"removes the mirror {mirror}")
        else:
            lists = [bool(each[name].get("allow")) for each in (earlier, later)]
            if lists[0] != lists[1]:
                words = ["limited" if each else OPEN for each in lists]
                yield Change(mirror, words[0], words[1], f"changes who may use the mirror {mirror}", "access")
            for key, old, new in _differences(_plain(earlier[name]), _plain(later[name])):
                if key[0] not in ("url", "storage"):
                    phrase = f"changes {code(key[0])} of the mirror {mirror}"
                    yield Change(mirror, old, new, phrase, code(path(*key)))


def _described(mirror: Mapping[str, Any]) -> str:
    words = [code(mirror["url"]) if mirror.get("url") else "at `mirror_url`", f"TTL {code(mirror.get('ttl'))}"]
    if upstream := mirror.get("upstream"):
        words.append(f"upstream {code(upstream)}")
    if authority := mirror.get("ca"):
        words.append(f"authority of the upstream: {_value(authority)}")
    if login := mirror.get("username"):
        words.append(f"login {code(login)}")
    if storage := mirror.get("storage"):
        words.append(f"data in {' '.join(map(code, storage.values()))}")
    allowed = mirror.get("allow") or []
    others = f" and {len(allowed) - _RANGES} more" if len(allowed) > _RANGES else ""
    words.append(f"allows {' '.join(map(code, allowed[:_RANGES]))}{others}" if allowed else OPEN)
    return ", ".join(words)


def _upstream_passwords(old: Mapping[str, Any], new: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Change]:
    for name in sorted(now.get("mirrors", {})):
        change = _secret_change(
            old, new, path("upstream_passwords", name), code(name), f"the upstream password of {code(name)}"
        )
        if change and change.before != ABSENT:
            yield replace(change, part="upstream password")


def _hosts(was: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Change]:
    def urls(settings: Mapping[str, Any]) -> dict[str, str]:
        registry = settings.get("registry", {})
        found = {f"registry.{key}": registry[key] for key in ("url", "anonymous_url") if key in registry}
        found |= {"mirror_url": settings["mirror_url"]} if "mirror_url" in settings else {}
        mirrors = settings.get("mirrors", {})
        return found | {path("mirrors", name, "url"): each["url"] for name, each in mirrors.items() if "url" in each}

    new_mirrors = now.get("mirrors", {}).keys() ^ was.get("mirrors", {}).keys()
    hidden = {path("mirrors", name, "url") for name in new_mirrors}
    earlier, later = urls(was), urls(now)
    for key in sorted((earlier.keys() | later.keys()) - hidden):
        if earlier.get(key) != later.get(key):
            before, after = _value(earlier.get(key)), _value(later.get(key))
            yield Change(code(key), before, after, f"{_verb(earlier.get(key), later.get(key))} {code(key)}")


def _certificates(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    earlier, later = old.get("certificates", {}), new.get("certificates", {})
    for name in sorted(earlier.keys() | later.keys()):
        key, certificate = path("certificates", name), f"the certificate {code(name)}"
        before, after = (f"ends {each[name][:10]}" if name in each else ABSENT for each in (earlier, later))
        if before != after or _secret_change(old, new, key, "", ""):
            verb = "adds" if before == ABSENT else "removes" if after == ABSENT else "renews"
            yield Change(f"certificate {code(name)}", before, after, f"{verb} {certificate}", noun="certificate")


def _settings(
    was: Mapping[str, Any], now: Mapping[str, Any], images_in_use: frozenset[str]
) -> Iterator[tuple[str, Change]]:
    """Compare all settings that no other section shows, and the images; each with the title of its section."""
    before, after = _plain(was), _plain(now)
    lists = {key for key, value in (*before.items(), *after.items()) if isinstance(value, list)}
    for key, old, new in _differences(before, after):
        match key:
            case ("images", image):
                if image in images_in_use:
                    yield "Images", Change(code(image), old, new, _image_phrase(code(image), new))
            # Each mirror shows the defaults that it has.
            case (
                ("registry", "users" | "url" | "anonymous_url" | "retention", *_)
                | ("mirror_url",)
                | ("mirror_defaults", *_)
            ):
                continue
            case ("mirrors", name, member, *_) if member != "storage" or not (
                name in was.get("mirrors", {}) and name in now.get("mirrors", {})
            ):
                continue
            case _:
                text = code(path(*key))
                yield "Settings", Change(text, old, new, _phrase(text, old, new, is_list=key in lists))


def _image_phrase(image: str, new: str) -> str:
    return f"changes the image of {image}{f' to {new}' if len(new) <= _PHRASE else ''}"


def _phrase(text: str, old: str, new: str, *, is_list: bool) -> str:
    if is_list:
        return f"adds {new} to {text}" if old == ABSENT else f"removes {old} from {text}"
    verb = "sets" if old == ABSENT else "removes" if new == ABSENT else "changes"
    detail = f" to {new}" if verb == "sets" else f" from {old} to {new}" if verb == "changes" else ""
    return f"{verb} {text}{detail if len(detail) <= _PHRASE else ''}"


def _other_secrets(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    for key in ("stack_secret", "acme_eab_mac_key"):
        if change := _secret_change(old, new, key, code(key), code(key)):
            yield change


def _secret_change(
    old: Mapping[str, Any], new: Mapping[str, Any], key: str, subject: str, object_: str
) -> Change | None:
    """Return the change of a secret by its fingerprints, which a new ``stack_secret`` changes all."""
    before, after = (each.get("fingerprints", {}) for each in (old, new))
    is_comparable = key == "stack_secret" or before.get("stack_secret") == after.get("stack_secret")
    if not before or before.get(key) == after.get(key) or (key in before and key in after and not is_comparable):
        return None
    words = ["set" if key in each else ABSENT for each in (before, after)]
    if words[0] == words[1]:
        words = ["set", "new value"]
    return Change(subject, words[0], words[1], f"changes {object_}")


def _differences(
    old: Mapping[tuple[str, ...], Any], new: Mapping[tuple[str, ...], Any]
) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """Yield each changed path with both values in words; of a list, each added or removed entry."""
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if before == after or any(
            each == {} and _has_member(other, key) for each, other in ((before, new), (after, old))
        ):
            continue
        if isinstance(before, list) or isinstance(after, list):
            gone = [entry for entry in before or [] if entry not in (after or [])]
            added = [entry for entry in after or [] if entry not in (before or [])]
            yield from ((key, code(entry), "removed") for entry in gone)
            yield from ((key, ABSENT, code(entry)) for entry in added)
        else:
            yield key, _value(before), _value(after)


def _has_member(settings: Mapping[tuple[str, ...], Any], key: tuple[str, ...]) -> bool:
    return any(other[: len(key)] == key for other in settings if other != key)


def _plain(settings: Mapping[str, Any]) -> dict[tuple[str, ...], Any]:
    """Return the members of nested objects by their path. An empty object is a member, such as ``internal: {}``."""
    found: dict[tuple[str, ...], Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            found |= {(key, *rest): inner for rest, inner in _plain(value).items()}
        else:
            found[(key,)] = value
    return found


def _value(value: object) -> str:
    match value:
        case None:
            return ABSENT
        case bool():
            return code(str(value).lower())
        case {}:
            return code("{}")
        case str() if len(lines := value.splitlines()) > 1:
            return f"{len(lines)} lines, SHA-256 {code(hashlib.sha256(value.encode()).hexdigest()[:16])}"
        case float() if value.is_integer():
            return code(int(value))
    return code(value, SENTENCE)  # two long names of images can differ only at their ends


def _verb(before: object, after: object) -> str:
    return "adds" if before is None else "removes" if after is None else "changes"
