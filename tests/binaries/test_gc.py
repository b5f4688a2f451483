"""Garbage collection with the real distribution: what it frees, what it keeps, and what it refuses."""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from components.configuration.problems import Failure
from components.configuration.settings import MirrorSettings
from components.render.registry import DATA_DIRECTORY, cache_config
from components.render.registry_command import PAUSE, SERVE_CACHE, SERVE_WITH_PAUSES, WRITING, on_own_store
from operations.gc.collection import Limits, collect
from operations.gc.script import SCRIPT, STATUS_FILE
from operations.gc.status import REGISTRY, Status, now
from tests.harness.distribution import INDEX, MANIFEST, Registry
from tests.harness.processes import free_port, running, until

Binary = Callable[[str], str]
LIMITS = Limits(stalled=1, wait=120, pause=120)
CONFIG = """
version: 0.1
storage: {filesystem: {rootdirectory: %s}, delete: {enabled: true}}
http: {addr: "127.0.0.1:%d", draintimeout: 60s}
validation: {manifests: {indexes: {platforms: none}}}
"""


@dataclasses.dataclass(frozen=True)
class Served:
    """A registry process that pauses, as the start program of the stack runs it."""

    registry: Registry
    client: httpx.Client
    process: subprocess.Popen[bytes]

    @property
    def folder(self) -> Path:
        return self.registry.folder

    def status_of(self, name: str, reference: str) -> int:
        return self.client.get(f"/v2/{name}/manifests/{reference}").status_code


@pytest.fixture
def tools(binary: Binary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but what the registry's image has."""
    folder = tmp_path / "bin"
    folder.mkdir()
    subprocess.run([binary("busybox"), "--install", "-s", folder], check=True)
    for name in ("registry", "flock"):
        (folder / name).symlink_to(binary(name))
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")


@pytest.fixture
def served(tools: None, tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path, SERVE_WITH_PAUSES) as found:
        yield found


@contextlib.contextmanager
def serving(folder: Path, program: str, more: str = "") -> Iterator[Served]:
    """Run a registry process by the start program of the stack, with more configuration."""
    port, data = free_port(), folder / "data"
    data.mkdir(parents=True)
    (folder / "config.yml").write_text(CONFIG % (data, port) + more)
    words = on_own_store(program, str(folder / "config.yml"), "registry", writes=True)
    command = ["setsid", "sh", *(str(data) if word == DATA_DIRECTORY else word for word in words[1:])]
    with (
        running(command, port, folder / "log") as process,
        # A connection that is refused is tried again, as the proxies do while a process pauses.
        httpx.Client(
            base_url=f"http://127.0.0.1:{port}",
            headers={"Accept": f"{MANIFEST}, {INDEX}"},
            timeout=60,
            transport=httpx.HTTPTransport(retries=6),
        ) as client,
    ):
        try:
            yield Served(Registry(data, client), client, process)
        finally:
            process.terminate()
            process.wait(120)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # in a container, everything ends with the first process


def gc(
    folder: Path,
    limits: Limits = LIMITS,
    progress: Callable[[str], None] = lambda _: None,
    checked: str = "checked",
    check_writers: Callable[[], None] = lambda: None,
) -> Status:
    """Collect the garbage of a store."""
    status = Status(store=REGISTRY if checked else "docker.io", started=now())
    command = ["setsid", "sh", "-c", SCRIPT, str(folder), str(limits.stalled), checked]
    return collect(command, status, limits, progress, check_writers)


def left(folder: Path) -> dict[str, object]:
    """The status file."""
    found: dict[str, object] = json.loads((folder / STATUS_FILE).read_text())
    return found


def files(folder: Path) -> set[str]:
    """All files of a store, without what collections leave."""
    return {str(file.relative_to(folder)) for file in (folder / "docker").rglob("*") if file.is_file()}


def blobs(folder: Path) -> set[str]:
    return {name for name in files(folder) if name.endswith("/data")}


def can_be_pulled(served: Served, name: str, reference: str) -> bool:
    """Whether a client gets the image with all its blobs."""
    answer = served.client.get(f"/v2/{name}/manifests/{reference}")
    if answer.status_code != 200:
        return False
    manifest = answer.json()
    blobs = [manifest["config"], *manifest["layers"]]
    return all(served.client.get(f"/v2/{name}/blobs/{blob['digest']}").status_code == 200 for blob in blobs)


@contextlib.contextmanager
def flock(file: Path, *options: str) -> Iterator[None]:
    """Hold a lock."""
    command = ["flock", "--no-fork", *options, file, "sh", "-c", "echo locked && exec sleep 600"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"locked\n"
        try:
            yield
        finally:
            process.kill()


# --- What is freed ----------------------------------------------------------------------------------------------------


def test_blobs_without_a_manifest_are_freed_and_images_stay(served: Served) -> None:
    registry = served.registry
    kept = registry.image("app", "1", "a layer that stays")
    gone = registry.image("app", "2", "x" * 5000)
    (layer,) = json.loads(registry.data(gone["digest"]).read_bytes())["layers"]
    registry.delete("app", gone["digest"])

    status = gc(served.folder)

    assert status.result == "done"
    assert (status.freed_blobs, status.freed > 5000) == (2, True), (
        "the manifest and its layer: both images share a config"
    )
    assert status.blobs == 3
    assert not registry.data(layer["digest"]).exists()
    assert can_be_pulled(served, "app", kept["digest"])
    assert left(served.folder) == status.as_json()
    registry.image("app", "2", "x" * 5000)
    assert can_be_pulled(served, "app", "2"), "a push of what was deleted"


def test_untagged_images_stay(served: Served) -> None:
    first = served.registry.image("app", "latest", "first")["digest"]
    served.registry.image("app", "latest", "second")

    assert gc(served.folder).freed_blobs == 0
    assert can_be_pulled(served, "app", first), "production may run what the tag pointed to before"


def lossy(registry: Registry) -> None:
    """The same index in two repositories; the repository whose name sorts first lacks the image of the index."""
    for name in ("a/img", "b/img"):
        image = registry.image(name, "", "a layer")
        registry.manifest(name, "1", {"mediaType": INDEX, "manifests": [image]})
    registry.delete("a/img", image["digest"])


def test_the_case_that_loses_layers_with_delete_untagged_is_kept_whole(served: Served, tmp_path: Path) -> None:
    lossy(served.registry)
    copy = shutil.copytree(served.folder, tmp_path / "copy")
    (tmp_path / "copy.yml").write_text(CONFIG % (copy, 0))
    known = ["registry", "garbage-collect", "--delete-untagged", tmp_path / "copy.yml"]
    subprocess.run(known, check=True, capture_output=True)
    before = blobs(served.folder)
    assert len(before - blobs(copy)) == 2, "distribution has a fix: reconsider operations/gc"

    status = gc(served.folder)

    assert (status.result, status.missing) == ("done", ())
    assert blobs(served.folder) == before
    (child,) = served.client.get("/v2/b/img/manifests/1").json()["manifests"]
    assert can_be_pulled(served, "b/img", child["digest"])


# --- Stores at which distribution stops -------------------------------------------------------------------------------


def test_a_registry_without_a_push_has_nothing_to_do(served: Served) -> None:
    assert gc(served.folder).result == "done"
    assert left(served.folder)["freed"] == 0


def test_a_registry_with_only_an_unfinished_upload_has_nothing_to_do(served: Served) -> None:
    assert served.client.post("/v2/app/blobs/uploads/").status_code == 202

    assert gc(served.folder).result == "done"


def test_a_repository_without_layers_does_not_stop_the_collection(served: Served) -> None:
    served.registry.image("app", "1", "layer")
    gone = served.registry.image("app", "2", "gone")
    served.registry.delete("app", gone["digest"])
    served.registry.manifest("only/index", "1", {"mediaType": INDEX, "manifests": []})
    assert not (served.registry.repositories / "only/index/_layers").exists()

    assert gc(served.folder).freed_blobs == 2


def test_a_repository_that_gets_no_layers_while_the_command_works_does_not_stop_the_collection(
    served: Served, before_rehearsals: Callable[[str], None]
) -> None:
    served.registry.delete("app", served.registry.image("app", "1", "gone")["digest"])
    before_rehearsals(f"mkdir -p {served.registry.repositories / 'index/before-the-rehearsal/_manifests'}")

    def push(phase: str) -> None:
        if phase.startswith("collecting"):
            (served.registry.repositories / "index/before-the-pause/_manifests").mkdir(parents=True)

    assert gc(served.folder, progress=push).freed_blobs == 3


def test_a_manifest_that_cannot_be_read_ends_the_collection_at_once(served: Served) -> None:
    data = served.registry.data(served.registry.image("app", "1", "layer")["digest"])
    data.unlink()
    data.mkdir()  # not a file without rights, which tests that run as root could read

    with pytest.raises(Failure, match="ended early: cat: "):
        gc(served.folder)


def unknown(registry: Registry) -> str:
    """A manifest of a type that distribution refuses today; another version may have taken it. Its digest."""
    digest: str = registry.manifest("app", "odd", {"mediaType": INDEX, "manifests": []})["digest"]
    content = json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.example+json"})
    registry.data(digest).write_text(content)
    return digest


def test_a_manifest_of_an_unknown_type_is_named_and_nothing_is_deleted(served: Served) -> None:
    served.registry.delete("app", served.registry.image("app", "1", "gone")["digest"])
    digest = unknown(served.registry)
    before = files(served.folder)

    with pytest.raises(Failure, match=f"app@{digest}: unknown media type application/vnd.example") as refused:
        gc(served.folder)

    assert files(served.folder) == before
    assert left(served.folder)["result"] == "failed"
    assert "--request DELETE" in refused.value.fix
    served.registry.delete("app", digest)
    assert gc(served.folder).freed_blobs == 4, "the fix works"


def test_an_image_with_a_layer_that_has_a_digest_of_sha512_is_named_and_nothing_is_deleted(served: Served) -> None:
    served.registry.delete("app", served.registry.image("app", "1", "gone")["digest"])
    config = served.registry.blob("app", b"{}", "application/vnd.oci.image.config.v1+json")
    layer = f"sha512:{hashlib.sha512(b'layer').hexdigest()}"
    upload = served.client.post("/v2/app/blobs/uploads/").headers["Location"]
    assert served.client.put(f"{upload}&digest={layer}", content=b"layer").status_code == 201
    layers = [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer, "size": 5}]
    image = served.registry.manifest("app", "2", {"mediaType": MANIFEST, "config": config, "layers": layers})
    assert can_be_pulled(served, "app", "2")
    before = files(served.folder)

    with pytest.raises(Failure, match=f"app@{image['digest']}: needs {layer}, which distribution would delete"):
        gc(served.folder)

    assert files(served.folder) == before


@pytest.mark.parametrize("name", ["status", "status/app", "rehearsed", "contents"])
def test_a_repository_may_be_named_like_a_word_of_the_script(served: Served, name: str) -> None:
    said: list[str] = []
    served.registry.image(name, "1", "layer")
    served.registry.delete(name, served.registry.image(name, "2", "gone")["digest"])
    served.registry.image("zoo", "1", "layer")

    status = gc(served.folder, progress=said.append)

    assert (status.freed_blobs, sum(phase.startswith("collecting") for phase in said)) == (2, 1)


@pytest.mark.parametrize(
    ("written", "instead"),
    [
        (b"Cafe", b"Caf\xe9"),
        (b'"%s"' % MANIFEST.encode(), b"null"),
        (b"Cafe", b"\\ud83d"),
        (b'"layers"', b'"subject": {}, "layers"'),
    ],
    ids=["Latin-1", "null", "half an emoji", "subject"],
)
def test_an_image_of_a_careless_client_does_not_stop_the_collection(
    served: Served, written: bytes, instead: bytes
) -> None:
    config = served.registry.blob("app", b"{}", "application/vnd.oci.image.config.v1+json")
    served.registry.delete("app", served.registry.image("app", "1", "gone")["digest"])
    value = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [], "annotations": {"by": "Cafe"}}
    content = json.dumps(value).encode().replace(written, instead)
    answer = served.client.put("/v2/app/manifests/2", content=content, headers={"Content-Type": MANIFEST})
    assert answer.status_code == 201

    status = gc(served.folder)

    assert (status.freed_blobs, status.blobs, status.missing) == (3, 2, ())


@pytest.mark.parametrize("kind", ["_manifests/revisions", "_layers"])
def test_a_damaged_link_is_named_with_its_repository_and_nothing_is_deleted(served: Served, kind: str) -> None:
    served.registry.delete("app", served.registry.image("app", "1", "gone")["digest"])
    served.registry.image("team/other", "1", "layer")
    link = next((served.registry.repositories / "team/other" / kind).glob("*/*/link"))
    link.write_text("")
    before = files(served.folder)

    with pytest.raises(Failure, match=r"team/other: .*invalid") as refused:
        gc(served.folder)

    assert files(served.folder) == before
    repair = refused.value.fix.partition(": ")[2].replace("REPOSITORY", "team/other")
    subprocess.run(repair, shell=True, cwd=served.folder, check=True)
    assert not link.exists()
    served.registry.image("team/other", "1", "layer")
    gc(served.folder)
    assert can_be_pulled(served, "team/other", "1"), "the fix works"


#: Stands in for `registry`: the lines run before each rehearsal, after the survey.
BEFORE_REHEARSALS = """#!/bin/sh
if [ "$2" = --dry-run ]; then
%s
fi
exec %s "$@"
"""


@pytest.fixture
def before_rehearsals(binary: Binary, served: Served, tmp_path: Path) -> Callable[[str], None]:
    """Adds lines of shell that run before each rehearsal. The processes that serve are unchanged."""

    def added(lines: str) -> None:
        program = tmp_path / "bin/registry"
        program.unlink()
        program.write_text(BEFORE_REHEARSALS % (lines, binary("registry")))
        program.chmod(0o755)

    return added


def test_a_delete_between_the_survey_and_the_rehearsal_is_no_mistake_of_distribution(
    served: Served, before_rehearsals: Callable[[str], None]
) -> None:
    kept, gone = (served.registry.image("app", tag, tag)["digest"].removeprefix("sha256:") for tag in ("1", "2"))
    revisions = served.registry.repositories / "app/_manifests/revisions/sha256"
    before_rehearsals(f"rm -rf {revisions / gone}")

    assert gc(served.folder).freed_blobs == 2
    assert can_be_pulled(served, "app", f"sha256:{kept}")


def test_a_distribution_that_would_delete_what_an_image_needs_is_not_run(
    served: Served, before_rehearsals: Callable[[str], None]
) -> None:
    digest = served.registry.image("app", "1", "layer")["digest"]
    (layer,) = json.loads(served.registry.data(digest).read_bytes())["layers"]
    before_rehearsals(f"echo blob eligible for deletion: {layer['digest']}")
    before = files(served.folder)

    with pytest.raises(Failure, match=f"would delete what images need.*\n  app@{digest} needs {layer['digest']}"):
        gc(served.folder)

    assert files(served.folder) == before


def test_an_image_that_lacks_a_layer_is_reported_and_does_not_stop_the_collection(served: Served) -> None:
    digest = served.registry.image("app", "1", "layer")["digest"]
    (layer,) = json.loads(served.registry.data(digest).read_bytes())["layers"]
    served.registry.data(layer["digest"]).unlink()

    status = gc(served.folder)

    assert (status.result, status.missing) == ("done", (f"app@{digest} needs {layer['digest']}",))


def test_the_cache_of_a_mirror_is_collected_without_a_survey_of_its_manifests(served: Served) -> None:
    served.registry.image("library/alpine", "3", "layer")
    served.registry.delete("library/alpine", served.registry.image("library/alpine", "2", "gone")["digest"])

    status = gc(served.folder, checked="")

    assert (status.store, status.freed_blobs, status.blobs) == ("docker.io", 2, 3)


def test_a_damaged_cache_of_a_mirror_is_refused_with_a_fix_for_a_mirror(served: Served) -> None:
    digest = served.registry.image("library/alpine", "3", "layer")["digest"].removeprefix("sha256:")
    repository = served.registry.repositories / "library/alpine"
    (repository / "_manifests/revisions/sha256" / digest / "link").write_text("")

    with pytest.raises(Failure, match="library/alpine: ") as refused:
        gc(served.folder, checked="")

    assert "docker/registry/v2/repositories/REPOSITORY" in refused.value.fix
    shutil.rmtree(repository)
    assert gc(served.folder, checked="").freed_blobs == 3, "the fix works"


def test_a_mirror_fetches_again_what_a_collection_removed(served: Served, tmp_path: Path) -> None:
    digest = served.registry.image("library/alpine", "3", "layer")["digest"]
    proxy = f"proxy: {{remoteurl: '{served.client.base_url}'}}"
    with serving(tmp_path / "mirror", SERVE_WITH_PAUSES, proxy) as mirror:
        assert can_be_pulled(mirror, "library/alpine", "3")
        until(lambda: len(blobs(mirror.folder)) == 3)
        shutil.rmtree(mirror.registry.repositories / "library/alpine/_manifests")

        status = gc(mirror.folder, checked="")

        assert (status.freed_blobs, blobs(mirror.folder)) == (3, set())
        assert can_be_pulled(mirror, "library/alpine", digest)
        until(lambda: len(blobs(mirror.folder)) == 3)


# --- Pushes and other collections at the same time --------------------------------------------------------------------


def test_a_push_under_way_is_waited_for_and_named(served: Served) -> None:
    served.registry.image("app", "1", "layer")
    upload = served.client.post("/v2/app/blobs/uploads/").headers["Location"]
    served.client.patch(upload, content=b"a part")

    with pytest.raises(Failure, match="The last one: an upload to app"):
        gc(served.folder, Limits(stalled=300, wait=2, pause=120))
    served.client.delete(upload)
    layer = served.registry.blob("app", b"a layer without a manifest", "x")
    with pytest.raises(Failure, match=f"app has the layer {layer['digest']} without a manifest"):
        gc(served.folder, Limits(stalled=300, wait=2, pause=120))

    assert left(served.folder)["result"] == "failed"


def test_a_layer_from_a_time_when_the_clock_was_wrong_does_not_stop_the_collection(served: Served) -> None:
    served.registry.image("app", "1", "layer")
    layer = served.registry.blob("app", b"a layer without a manifest", "x")["digest"].removeprefix("sha256:")
    next_year = time.time() + 365 * 86400
    os.utime(served.registry.repositories / "app/_layers/sha256" / layer, (next_year, next_year))
    os.utime(served.registry.repositories / "app/_layers/sha256" / layer / "link", (next_year, next_year))

    assert gc(served.folder).freed_blobs == 1


def test_a_push_that_begins_before_writing_pauses_is_waited_for(served: Served) -> None:
    served.registry.image("app", "1", "layer")
    link = served.registry.repositories / "app/_layers/sha256" / ("0" * 64) / "link"
    seen: list[str] = []

    def push(phase: str) -> None:
        seen.append(phase.split(maxsplit=1)[0].strip(","))
        if seen == ["reading", "collecting"]:  # the process takes requests for another moment
            link.parent.mkdir()
            link.write_text(f"sha256:{'0' * 64}")
        if seen[-1] == "waiting":
            shutil.rmtree(link.parent)

    status = gc(served.folder, dataclasses.replace(LIMITS, stalled=300), push)

    assert seen == ["reading", "collecting", "waiting", "collecting"]
    assert status.result == "done"
    assert can_be_pulled(served, "app", "1")


def test_a_container_that_begins_to_write_while_the_collection_waits_stops_it(served: Served) -> None:
    served.registry.delete("app", served.registry.image("app", "1", "gone")["digest"])
    before, seen = files(served.folder), list[str]()

    def check() -> None:
        raise Failure("a backup writes to the store", "stop the backup")

    with pytest.raises(Failure, match="a backup writes"):
        gc(served.folder, dataclasses.replace(LIMITS, stalled=5), seen.append, check_writers=check)

    assert seen[-1].startswith("waiting for a push")
    assert blobs(served.folder) == {name for name in before if name.endswith("/data") and "/_uploads/" not in name}
    assert left(served.folder)["result"] == "failed"


def test_only_one_collection_of_a_store_runs_and_keeps_its_status(served: Served) -> None:
    served.registry.image("app", "1", "layer")
    (served.folder / STATUS_FILE).write_text('{"result": "running"}')

    with flock(served.folder / PAUSE, "-x"), pytest.raises(Failure, match="another garbage collection"):
        gc(served.folder)

    assert left(served.folder) == {"result": "running"}


def test_a_file_system_without_locks_is_named(served: Served, tmp_path: Path) -> None:
    served.registry.image("app", "1", "layer")
    program = tmp_path / "bin/flock"
    program.unlink()
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)

    with pytest.raises(Failure, match="the file system of the data has no locks"):
        gc(served.folder)

    assert left(served.folder)["result"] == "failed"


def test_a_process_that_looks_for_a_collection_is_not_taken_for_one(served: Served) -> None:
    served.registry.image("app", "1", "layer")

    looking = ["flock", "-s", served.folder / PAUSE, "sh", "-c", "echo locked; sleep 0.5"]
    with subprocess.Popen(looking, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"locked\n"
        assert gc(served.folder).result == "done"


def test_what_a_killed_collection_asked_for_does_not_stop_writing_when_the_next_collection_begins(
    served: Served,
) -> None:
    served.registry.blob("app", b"a layer without a manifest", "x")
    served.registry.image("app", "1", "layer")
    (served.folder / PAUSE).write_text("pause\n")

    def waiting(phase: str) -> None:
        if phase.startswith("waiting"):
            time.sleep(3)  # a process looks every two seconds
            raise Failure("writing goes on" if answers(served) else "writing stopped", "none")

    with pytest.raises(Failure, match="writing goes on"):
        gc(served.folder, dataclasses.replace(LIMITS, stalled=300), waiting)


def test_a_process_that_does_not_pause_stops_the_collection(served: Served) -> None:
    served.registry.delete("app", served.registry.image("app", "1", "gone")["digest"])
    before = files(served.folder)

    with flock(served.folder / WRITING, "-s"), pytest.raises(Failure):
        gc(served.folder, Limits(stalled=1, wait=5, pause=5))

    assert files(served.folder) == before
    served.registry.image("app", "2", "writing goes on")


def test_a_store_whose_processes_cannot_pause_is_refused(served: Served) -> None:
    served.registry.image("app", "1", "layer")
    (served.folder / WRITING).unlink()

    with pytest.raises(Failure, match="cannot pause"):
        gc(served.folder)


def test_a_collection_ends_with_its_input_and_writing_goes_on(served: Served) -> None:
    served.registry.image("app", "1", "layer")
    time.sleep(2)  # until the push no longer counts
    script = subprocess.Popen(
        ["setsid", "sh", "-c", SCRIPT, str(served.folder), "1", "checked"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert script.stdin
    assert script.stdout
    for line in script.stdout:
        if line.endswith(b"rehearsed\n"):  # after the last document, which has no newline
            script.stdin.write(b"go\n")
            script.stdin.flush()
        if line == b"paused\n":
            break
    else:
        pytest.fail("writing did not pause")
    script.stdin.close()  # as if the command was killed

    assert script.wait(60) != 0
    script.stdout.close()
    served.registry.image("app", "2", "another layer")
    assert gc(served.folder).result == "done"


def test_a_collection_that_dies_while_it_reads_says_so(served: Served) -> None:
    served.registry.image("app", "1", "layer")
    # As if the container was killed between two documents.
    script = SCRIPT.replace("tee -a", "head -n 1 | tee -a", 1).replace("rehearse\n    if", "kill -KILL -$$\n    if", 1)
    assert script.count("head -n 1 | tee") == script.count("kill -KILL -$$\n    if") == 1
    served.registry.image("app", "2", "another layer")
    command = ["setsid", "sh", "-c", script, str(served.folder), "1", "checked"]

    with pytest.raises(Failure, match="the collection ended early"):
        collect(command, Status(store=REGISTRY, started=now()), LIMITS)


# --- The pause of a process -------------------------------------------------------------------------------------------


def test_the_process_beside_a_mirror_serves_the_cache_during_a_collection_and_knows_what_is_gone(
    tools: None, tmp_path: Path
) -> None:
    port, data = free_port(), tmp_path / "data"
    text = cache_config("docker.io", MirrorSettings()).replace(DATA_DIRECTORY, str(data))
    (tmp_path / "cache.yml").write_text(re.sub(r"addr: :\d+", f"addr: 127.0.0.1:{port}", text))
    with serving(tmp_path, SERVE_CACHE + SERVE_WITH_PAUSES) as mirror:
        kept, gone = (mirror.registry.image("library/alpine", tag, tag * 1000) for tag in ("kept", "gone"))
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=mirror.client.headers, timeout=60) as client:
            cache = dataclasses.replace(mirror, client=client)
            until(lambda: answers(cache))
            assert all(can_be_pulled(cache, "library/alpine", tag) for tag in ("kept", "gone"))
            mirror.registry.delete("library/alpine", gone["digest"])
            (layer,) = json.loads(mirror.registry.data(gone["digest"]).read_bytes())["layers"]
            while_paused = []

            def phase(text: str) -> None:
                if text.startswith("collecting"):
                    until(lambda: not answers(mirror))
                    while_paused.append(can_be_pulled(cache, "library/alpine", "kept"))

            status = gc(mirror.folder, progress=phase, checked="")

            assert (status.freed_blobs, while_paused) == (2, [True])
            assert can_be_pulled(cache, "library/alpine", kept["digest"])
            assert client.get(f"/v2/library/alpine/blobs/{layer['digest']}").status_code == 404
            mirror.registry.image("library/alpine", "gone", "gone" * 1000)
            assert can_be_pulled(cache, "library/alpine", "gone")


def answers(served: Served) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(served.client.base_url.join("/v2/"), timeout=60).status_code == 200
    return False


def test_a_process_pauses_as_long_as_the_request_is_held(served: Served) -> None:
    request = served.folder / PAUSE

    with flock(request, "-x"):
        request.write_text("pause\n")
        until(lambda: not answers(served))
        with flock(served.folder / WRITING, "-x", "-n"):
            pass
        assert served.process.poll() is None
    until(lambda: answers(served))
    assert request.read_text() == "pause\n", "what a killed collection leaves does no harm"


def test_an_upload_is_finished_before_the_pause_begins(served: Served) -> None:
    upload = served.client.post("/v2/app/blobs/uploads/").headers["Location"]
    (data,) = (served.registry.repositories / "app/_uploads").glob("*/data")
    request, sent = served.folder / PAUSE, threading.Event()

    def slow() -> Iterator[bytes]:
        yield b"first "
        sent.wait(120)
        yield b"second"

    found: list[int] = []
    pushing = threading.Thread(target=lambda: found.append(served.client.patch(upload, content=slow()).status_code))
    with flock(request, "-x"):
        pushing.start()
        try:
            until(lambda: is_open(data))
            request.write_text("pause\n")
            until(lambda: not answers(served))
            free = subprocess.run(["flock", "-x", "-n", served.folder / WRITING, "true"], check=False)
            assert free.returncode == 1, "the upload still writes"
            request.write_text("")
            until(lambda: answers(served))
        finally:
            sent.set()
            pushing.join()

    assert found == [202]


def is_open(file: Path) -> bool:
    """Whether a process has a file open."""
    for descriptor in glob.iglob("/proc/[0-9]*/fd/*"):  # noqa: PTH207 - Path.glob fails when a process ends meanwhile
        with contextlib.suppress(OSError):  # it was closed meanwhile
            if Path(descriptor).readlink() == file:
                return True
    return False


@pytest.mark.parametrize("paused", [False, True])
def test_a_process_ends_at_sigterm(served: Served, paused: bool) -> None:
    request = served.folder / PAUSE
    with flock(request, "-x"):
        if paused:
            request.write_text("pause\n")
            until(lambda: not answers(served))
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(60) in (0, 143)


def test_a_process_that_fails_ends_with_its_status(tools: None, tmp_path: Path) -> None:
    words = on_own_store(SERVE_WITH_PAUSES, str(tmp_path / "absent.yml"), "registry", writes=True)
    command = ["sh", *(str(tmp_path) if word == DATA_DIRECTORY else word for word in words[1:])]

    done = subprocess.run(command, capture_output=True, check=False, timeout=60)

    assert done.returncode == 1
    assert b"absent.yml" in done.stderr
