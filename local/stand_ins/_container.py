"""Create, read, update and delete containers as the official plugin does."""

from __future__ import annotations

import io
import re
import tarfile
import time
from typing import Any

from docker.errors import APIError, NotFound

from local.stand_ins._engine import attempt, explanation, find_image
from local.stand_ins._plugin import Input, StandInError, State, differs

MEBIBYTE = 1024 * 1024
UPLOAD_MODE = "0644"
NANOSECONDS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
HEALTH_TIMES = {
    "interval": "Interval",
    "startInterval": "StartInterval",
    "startPeriod": "StartPeriod",
    "timeout": "Timeout",
}

INPUTS = {
    "capabilities": Input(fields={"adds": None, "drops": None}),
    "command": Input(kept=True),
    "containerReadRefreshTimeoutMilliseconds": Input(replaces=False, default=15000),
    "destroyGraceSeconds": Input(replaces=False),
    "entrypoints": Input(kept=True),
    "envs": Input(kept=True),
    "healthcheck": Input(
        replaces=False, kept=True, fields={"tests": None, "retries": None, **dict.fromkeys(HEALTH_TIMES, "0s")}
    ),
    "image": Input(required=True),
    "init": Input(replaces=False, kept=True),
    "labels": Input(kept=True, fields={"label": None, "value": None}),
    "logDriver": Input(kept=True),
    "logOpts": Input(),
    "memory": Input(replaces=False),
    "memorySwap": Input(replaces=False),
    "mounts": Input(fields=dict.fromkeys(("target", "type", "source", "readOnly"))),
    "mustRun": Input(replaces=False, default=True),
    "name": Input(),
    "networkMode": Input(default="bridge"),
    "networksAdvanced": Input(fields={"name": None, "aliases": None}),
    "ports": Input(fields={"internal": None, "external": None, "ip": "0.0.0.0", "protocol": "tcp"}),  # noqa: S104
    "readOnly": Input(),
    "removeVolumes": Input(replaces=False, default=True),
    "restart": Input(replaces=False, default="no", pattern="^(no|on-failure|always|unless-stopped)$"),
    "securityOpts": Input(kept=True),
    "start": Input(replaces=False, default=True),
    "stopSignal": Input(kept=True),
    "stopTimeout": Input(kept=True),
    "tmpfs": Input(replaces=False),
    "uploads": Input(fields={"file": None, "content": None, "permissions": None}),
    "user": Input(kept=True),
    "volumes": Input(fields={"containerPath": None, "volumeName": None, "hostPath": None, "readOnly": None}),
    "wait": Input(replaces=False),
    "waitTimeout": Input(replaces=False, default=60),
}

# Create


def create(api: Any, inputs: State) -> str:
    attempt(f"Unable to create container with image {inputs['image']}", find_image, api, inputs["image"])
    made = attempt("Unable to create container", api.create_container_from_config, _config(inputs), inputs["name"])
    return str(made["Id"])


def _config(inputs: State) -> State:
    """The body of the engine's create request."""
    config = {
        "Image": inputs["image"],
        "Cmd": inputs.get("command"),
        "Entrypoint": inputs.get("entrypoints"),
        "Env": inputs.get("envs"),
        "Labels": {pair["label"]: pair["value"] for pair in inputs.get("labels") or ()},
        "User": inputs.get("user", ""),
        "StopSignal": inputs.get("stopSignal"),
        "StopTimeout": _whole(inputs.get("stopTimeout")),
        "ExposedPorts": {_port(each): {} for each in inputs.get("ports") or ()},
        "Volumes": {each["containerPath"]: {} for each in inputs.get("volumes") or ()},
        "HostConfig": _host_config(inputs),
    }
    if health := inputs.get("healthcheck"):
        times = {theirs: _nanoseconds(health[ours]) for ours, theirs in HEALTH_TIMES.items()}
        given = {name: time_ for name, time_ in times.items() if time_}  # engines before API 1.44 refuse StartInterval
        config["Healthcheck"] = {"Test": health["tests"], "Retries": _whole(health.get("retries", 0)), **given}
    return config


def _host_config(inputs: State) -> State:
    capabilities = inputs.get("capabilities") or {}
    bindings: dict[str, list[State]] = {}
    for each in inputs.get("ports") or ():
        binding = {"HostIp": each["ip"], "HostPort": str(_whole(each.get("external", "")))}
        bindings.setdefault(_port(each), []).append(binding)
    return {
        "Binds": [
            _bind(each) for each in inputs.get("volumes") or () if each.get("volumeName") or each.get("hostPath")
        ],
        "CapAdd": capabilities.get("adds"),
        "CapDrop": capabilities.get("drops"),
        "Init": inputs.get("init", False),
        "LogConfig": {"Type": inputs.get("logDriver", ""), "Config": inputs.get("logOpts") or {}},
        "Memory": _bytes(inputs.get("memory")),
        "MemorySwap": _bytes(inputs.get("memorySwap")),
        "Mounts": [
            {"Target": each["target"], "Type": each["type"], "Source": each["source"], "ReadOnly": each["readOnly"]}
            for each in inputs.get("mounts") or ()
        ],
        "NetworkMode": inputs["networkMode"],
        "PortBindings": bindings,
        "ReadonlyRootfs": inputs.get("readOnly", False),
        "RestartPolicy": {"Name": inputs["restart"]},
        "SecurityOpt": inputs.get("securityOpts"),
        "Tmpfs": inputs.get("tmpfs"),
    }


def initialize(api: Any, container: str, inputs: State) -> None:
    """Connect, fill and start a created container, in the order of the official plugin. Wait if the inputs say so."""
    if inputs.get("networksAdvanced"):
        _join_networks(api, container, inputs["networksAdvanced"])
    for upload in inputs.get("uploads") or ():
        attempt("Unable to upload volume content", api.put_archive, container, "/", _archive(upload))
    if inputs["start"]:
        attempt("Unable to start container", api.start, container)
        if inputs.get("wait"):
            _wait_until_healthy(api, container, seconds=inputs["waitTimeout"])


def _join_networks(api: Any, container: str, networks: list[State]) -> None:
    try:
        api.disconnect_container_from_network(container, "bridge")
    except APIError as error:
        if "is not connected to" not in explanation(error):
            raise StandInError(f"Unable to disconnect the default network: {explanation(error)}") from error
    for each in networks:
        failed = f"Unable to connect to network '{each['name']}'"
        attempt(failed, api.connect_container_to_network, container, each["name"], aliases=each.get("aliases") or [])


def _archive(upload: State) -> bytes:
    """A tar archive of one file, owned by root. The engine creates the folders of its path."""
    if not upload.get("content"):
        raise StandInError("error with upload content: one of 'content', 'content_base64', or 'source' must be set")
    content = upload["content"].encode()
    entry = tarfile.TarInfo(upload["file"])
    entry.size, entry.mtime = len(content), int(time.time())
    entry.mode = int(upload.get("permissions") or UPLOAD_MODE, 8)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _wait_until_healthy(api: Any, container: str, *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        health = api.inspect_container(container)["State"].get("Health")
        if health is None:
            raise StandInError(
                "you have supplied a 'wait' argument, but the container does not have a healthcheck defined. "
                "Please remove the 'wait' argument or add a 'healthcheck' attribute"
            )
        if health["Status"] == "healthy":
            return
        if time.monotonic() > deadline:
            raise StandInError("container failed to be in healthy state")
        time.sleep(1)


# Read


def read(api: Any, container: str, state: State) -> State | None:
    """Read the container with its mounts. Labels, environment, uploads, volumes and networks are not read."""
    try:
        found = api.inspect_container(container)
    except NotFound:
        return None
    config, host, network = found["Config"], found["HostConfig"], found["NetworkSettings"]
    running = found["State"]["Running"]
    outputs = {
        **state,
        "bridge": network.get("Bridge", ""),
        "command": config["Cmd"] or [],
        "cpuSet": host["CpusetCpus"],
        "cpuShares": host["CpuShares"],
        "domainname": config["Domainname"],
        "entrypoints": config["Entrypoint"] or [],
        "envs": state.get("envs") or [],  # not read back; empty if the program sets none
        "hostname": config["Hostname"],
        "id": found["Id"],
        "image": found["Image"] if str(state.get("image")).startswith("sha256:") else config["Image"],
        "init": bool(host.get("Init")),
        "ipcMode": host["IpcMode"],
        "labels": state.get("labels") or [],  # the same
        "logDriver": host["LogConfig"]["Type"],
        "logOpts": host["LogConfig"]["Config"] if state.get("logOpts") else None,
        "maxRetryCount": host["RestartPolicy"]["MaximumRetryCount"],
        "memory": _mebibytes(host["Memory"]),
        "memoryReservation": _mebibytes(host["MemoryReservation"]),
        "memorySwap": _mebibytes(host["MemorySwap"]),
        "mounts": [_mount(each) for each in host.get("Mounts") or ()],
        "name": found["Name"].lstrip("/"),
        "networkDatas": [_network_data(name, each) for name, each in sorted(network["Networks"].items())],
        "networkMode": host["NetworkMode"],
        "platform": found["Platform"],
        "privileged": host["Privileged"],
        "publishAllPorts": host["PublishAllPorts"],
        "readOnly": host["ReadonlyRootfs"],
        "restart": host["RestartPolicy"]["Name"],
        "runtime": host["Runtime"],
        "securityOpts": host["SecurityOpt"] or [],
        "shmSize": _mebibytes(host["ShmSize"]),
        "stopSignal": config.get("StopSignal") or "",
        "stopTimeout": config.get("StopTimeout"),
        "tmpfs": host.get("Tmpfs"),
        "user": config["User"],
        "usernsMode": host["UsernsMode"],
        "workingDir": config["WorkingDir"],
    }
    if host["CapAdd"] or host["CapDrop"]:
        outputs["capabilities"] = {"adds": host["CapAdd"] or [], "drops": host["CapDrop"] or []}
    if health := config.get("Healthcheck"):
        times = {ours: _go_duration(health.get(theirs, 0)) for ours, theirs in HEALTH_TIMES.items()}
        outputs["healthcheck"] = {"tests": health.get("Test") or [], "retries": health.get("Retries", 0), **times}
    if state.get("ports") and (running or state.get("mustRun")):
        outputs["ports"] = _published_ports(network["Ports"] or {})
    if not running:
        outputs |= {"exitCode": found["State"]["ExitCode"], "mustRun": False}
    return outputs


def _mount(mount: State) -> State:
    options = mount.get("BindOptions")
    return {
        "bindOptions": {"propagation": options.get("Propagation", "")} if options else None,
        "readOnly": mount.get("ReadOnly", False),
        "source": mount.get("Source", ""),
        "target": mount["Target"],
        "tmpfsOptions": None,
        "type": mount["Type"],
        "volumeOptions": None,
    }


def _network_data(name: str, network: State) -> State:
    return {
        "gateway": network["Gateway"],
        "globalIpv6Address": network["GlobalIPv6Address"],
        "globalIpv6PrefixLength": network["GlobalIPv6PrefixLen"],
        "ipAddress": network["IPAddress"],
        "ipPrefixLength": network["IPPrefixLen"],
        "ipv6Gateway": network["IPv6Gateway"],
        "macAddress": network["MacAddress"],
        "networkName": name,
    }


def _published_ports(ports: State) -> list[State]:
    found = [
        {"external": int(each["HostPort"]), "internal": int(number), "ip": each["HostIp"], "protocol": protocol}
        for (number, protocol), bindings in ((port.split("/"), bindings) for port, bindings in ports.items())
        for each in bindings or ()
    ]
    return sorted(found, key=lambda each: (each["internal"], each["protocol"]))


# Update and delete


def update(api: Any, container: str, olds: State, news: State) -> None:
    """Change only the restart policy and memory on the engine. Start a stopped container that must run."""
    if not olds.get("mustRun") and news["mustRun"] and news["start"]:
        attempt("Unable to start container", api.start, container)
    if any(differs(key, olds.get(key), news.get(key)) for key in ("restart", "memory", "memorySwap")):
        attempt(
            "Unable to update a container",
            api.update_container,
            container,
            mem_limit=_bytes(news.get("memory")),
            memswap_limit=_bytes(news.get("memorySwap")),
            restart_policy={"Name": news["restart"]},
        )


def delete(api: Any, container: str, state: State) -> None:
    """Stop the container within the grace period, then remove it. Without a setting, there is no grace period."""
    try:
        api.stop(container, timeout=_whole(state.get("destroyGraceSeconds") or 0))
        api.remove_container(container, v=bool(state.get("removeVolumes")), force=True)
    except NotFound:
        return
    except APIError as error:
        if "is already in progress" not in explanation(error):
            raise StandInError(f"Error deleting container {container}: {explanation(error)}") from error


# Units


def _whole(number: Any) -> Any:
    """Convert a float of Pulumi to the integer that the engine requires."""
    return int(number) if isinstance(number, float) else number


def _bytes(mebibytes: float | None) -> int:
    """Convert mebibytes to bytes. -1 (unlimited swap) stays -1."""
    whole = int(mebibytes or 0)
    return whole * MEBIBYTE if whole > 0 else whole


def _mebibytes(count: int) -> int:
    return count // MEBIBYTE if count > 0 else count


def _port(binding: State) -> str:
    return f"{_whole(binding['internal'])}/{binding['protocol']}"


def _bind(volume: State) -> str:
    source = volume.get("hostPath") or volume["volumeName"]
    return f"{source}:{volume['containerPath']}:{'ro' if volume.get('readOnly') else 'rw'}"


def _nanoseconds(duration: str) -> int:
    """A Go duration such as `1m30s` in nanoseconds."""
    if not re.fullmatch(r"0|(\d+(\.\d+)?(ns|us|µs|ms|s|m|h))+", duration):
        raise StandInError(f"{duration!r} is not a duration; use a duration like 30s or 1m30s")
    return round(sum(float(n) * NANOSECONDS[unit] for n, unit in re.findall(r"([\d.]+)(ns|us|µs|ms|s|m|h)", duration)))


def _go_duration(nanoseconds: int) -> str:
    """Nanoseconds as Go prints them, for example `1m30s`, `1.5s`, `0s`."""
    for unit in ("ns", "µs", "ms"):
        if 0 < nanoseconds < 1000 * NANOSECONDS[unit]:
            return f"{nanoseconds / NANOSECONDS[unit]:.12g}{unit}"
    minutes, rest = divmod(nanoseconds, NANOSECONDS["m"])
    hours, minutes = divmod(minutes, 60)
    seconds = f"{rest / NANOSECONDS['s']:.12g}s"
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + seconds
