"""The stack: load the settings, connect to the Docker host, declare all resources."""

import datetime

import pulumi
import pulumi_docker as docker
from pulumi import ResourceHook, ResourceHookArgs, ResourceHookBinding, ResourceHookOptions, ResourceOptions

from components._delivery import Image
from components._service import network, process_limit
from components.checks.docker_host import check_local_engine, check_same_engine
from components.checks.host_folder import host_folder
from components.checks.loopback import DANGER, loopback
from components.configuration.loading import notices
from components.configuration.naming import StackName, host_folders, mirror_alias
from components.configuration.passwords import fingerprint
from components.configuration.problems import ConfigError
from components.configuration.record import record
from components.configuration.settings import without_expired
from components.data_stores import DataStores, DataStoresArgs
from components.private_registry import PrivateRegistry, PrivateRegistryArgs
from components.pull_through_mirror import PullThroughMirror, PullThroughMirrorArgs
from components.render.proxy import LEARNS_WITHIN, snippets
from components.render.proxy_command import proxy_images
from components.render.registry import upstream_environment
from components.stack_configuration import load_stack
from components.tls_proxy import TlsProxy, TlsProxyArgs

try:
    now = datetime.datetime.now(datetime.UTC)
    configured, secrets = load_stack(now)
    for notice in notices(configured, secrets, now):
        pulumi.log.warn(notice)
    settings = without_expired(configured, now.date())
    names = StackName(prefix=settings.name_prefix, stack=pulumi.get_stack())
    check_local_engine(settings, names)
except ConfigError as error:
    raise pulumi.RunError(str(error)) from None


def refuse_another_engine(args: ResourceHookArgs) -> None:
    """Check the engine before the provider gets another address: the new address alone replaces no resource."""
    check_same_engine((args.old_inputs or {})["host"], (args.new_inputs or {})["host"], names)


same_engine = ResourceHook("same-engine", refuse_another_engine, ResourceHookOptions(on_dry_run=True))
host = docker.Provider(
    "docker-host",
    host=settings.docker_host,
    opts=ResourceOptions(hooks=ResourceHookBinding(before_update=[same_engine])),
)
on_host = ResourceOptions(provider=host)

images = {
    name: Image(name=image, pulled=docker.RemoteImage(f"{name}-image", name=image, keep_locally=True, opts=on_host))
    for name, image in {"registry": settings.images.registry, **proxy_images(settings)}.items()
}
data_folders = host_folders(settings)
address = settings.proxy.services_address
checks = [
    host_folder(
        key,
        folder,
        others=[other for other in data_folders.values() if other != folder],
        image=images["registry"],
        docker_host=settings.docker_host,
    )
    for key, folder in data_folders.items()
]
if address and DANGER not in settings.acknowledge:
    checks.append(loopback(settings))
# All other resources depend on the checks, so that `up` changes nothing if a folder is bad.
on_host = ResourceOptions(provider=host, depends_on=checks)
inside = ResourceOptions(providers=[host], depends_on=checks)
edge = network("edge", names, internal=False, opts=on_host)
if address:
    backend = network("loopback", names, internal=False, masquerade=False, opts=on_host)
else:
    backend = network("backend", names, internal=True, opts=on_host)

stores = DataStores("stores", DataStoresArgs(names=names, settings=settings, image=images["registry"]), inside)
registry = PrivateRegistry(
    "registry",
    PrivateRegistryArgs(
        names=names,
        settings=settings.registry,
        secrets=secrets,
        image=images["registry"],
        network=backend,
        address=address,
        proxy_learns_within=LEARNS_WITHIN[settings.proxy.server],
        docker_host=settings.docker_host,
        data=stores.mounts["registry"],
        owned=stores.owned,
    ),
    inside,
)
mirrors = {
    upstream: PullThroughMirror(
        mirror_alias(upstream),
        PullThroughMirrorArgs(
            names=names,
            upstream=upstream,
            settings=mirror,
            password=secrets.upstream_passwords.get(upstream),
            docker_host=settings.docker_host,
            image=images["registry"],
            network=edge,
            address=address,
            upstream_environment=upstream_environment(mirror, settings),
            data=stores.mounts[mirror_alias(upstream)],
            owned=stores.owned,
        ),
        inside,
    )
    for upstream, mirror in settings.mirrors.items()
}
services: dict[str, docker.Container] = {
    **registry.containers,
    **{mirror_alias(name): mirror.container for name, mirror in mirrors.items()},
}
if address:
    # Configuration for the operator's own proxy. A preview shows the changed lines.
    for server, text in snippets(settings).items():
        pulumi.export(f"{server}_snippet", text)
else:
    proxy = TlsProxy(
        "proxy",
        TlsProxyArgs(
            names=names,
            settings=settings,
            secrets=secrets,
            images=images,
            backend=backend,
            edge=edge,
            kept=stores.proxy,
            owned=stores.owned,
        ),
        inside,
    )
    services |= proxy.containers
    if proxy.ca_certificate is not None:
        pulumi.export("ca_certificate", proxy.ca_certificate)

process_limit(services.values(), docker_host=settings.docker_host)
pulumi.export("registry_url", str(settings.registry.url))
pulumi.export("mirror_urls", {name: str(mirror.url) for name, mirror in settings.mirrors.items() if mirror.url})
if settings.mirror_url:
    pulumi.export("mirror_url", str(settings.mirror_url))
# A preview shows this output line by line: added and removed users, changed roles and passwords.
pulumi.export(
    "users",
    {
        name: {"role": user.role, "fingerprint": fingerprint(name, secrets.passwords[name], secrets.stack_secret)}
        for name, user in sorted(settings.registry.users.items())
    },
)
if settings.registry.anonymous_url:
    pulumi.export("anonymous_url", str(settings.registry.anonymous_url))
pulumi.export("docker_host", settings.docker_host)
pulumi.export("configuration", record(configured, secrets))
pulumi.export("services", {role: container.name for role, container in services.items()})
