"""Ask an upstream whether a mirror can use it: the program that asks, and the meaning of what that program prints."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from components.configuration.naming import mirror_port
from components.configuration.problems import file_command, new_secret_command, path, redacted, set_command
from components.configuration.settings import MirrorSettings, upstream_url
from components.render.registry import CONFIG_FILE

#: Seconds that an upstream has for its answer.
ANSWERS_WITHIN = 10
#: Starts a process of the mirror's own program without a cache, asks it for an image that does not exist, and prints
#: what the process logs about the answer of the upstream. distribution logs the cause only for a pull by digest, and
#: logs after it has answered. $1 is the configuration, $2 the URL of the process, $3 the repository; the rest is the
#: environment. The upstream chooses words in the log, so only ASCII and the start of each line count.
#:
#: An upstream without tokens answers 401 if it refuses the login. An upstream with tokens may answer 401 because the
#: repository does not exist. So the script asks again without the login, which tells one upstream from the other. If
#: the process does not even look for a login then, the upstream offers none that distribution accepts.
_ASK = r"""
config=$1 url=$2 repository=$3
shift 3
ask() {
  env -i PATH="$PATH" "$@" registry serve "$config" > /dev/shm/log 2>&1 &
  for tenth in $(seq 50); do
    wget -q -Y off -O /dev/null "$url" && break
    kill -0 $! && sleep 0.1 || break
  done
  timeout %(within)s wget -q -Y off -O /dev/null "${url}v2/$repository/manifests/sha256:%(digest)s"
  for tenth in $(seq 10); do grep -q '"err.code"' /dev/shm/log && break; kill -0 $! && sleep 0.1 || break; done
  grep '%(looks)s' /dev/shm/log
  grep -m 9 '"err.code"' /dev/shm/log || if kill -0 $!; then echo silent; else tail -n 1 /dev/shm/log; fi
  kill -9 $!
} 2> /dev/null
part() { tr -cd '\12\40-\176' | cut -c -4000; }
said=$(ask "$@" | part)
echo "$said"
case $said in
  *'"err.code":"unauthorized"'*) ask "$@" REGISTRY_PROXY_EXEC_COMMAND=/bin/false | part ;;
esac
"""
#: A public repository of each registry that answers for an absent repository as if it refused the login.
_REPOSITORIES = {"https://ghcr.io": "actions/actions-runner"}
#: distribution's words if an upstream asks for a login and offers no tokens.
_WANTS_LOGIN = "no basic auth credentials"
#: distribution's words if it looks for a login and the helper of the second question has none.
_LOOKS_FOR_LOGIN = "failed to run command"
#: An error before the answer to the request itself: of the connection, or of the token service.
_BEFORE = re.compile(r'^Get "[^"]*": (.*)$', re.DOTALL)
#: The beginning of a line of distribution's log: it sorts the keys.
_PART = re.compile(r'\{"err\.code":"([^"]*)","err\.(?:detail|message)":"?(.*)')
#: What happened, by a part of Go's words. The first match counts.
_PHRASES = {
    "proxyconnect": "cannot be reached, because `http_proxy` fails",
    "certificate signed by unknown authority": "has a certificate of an unknown authority",
    "x509": "has a certificate that is not valid",
    "connection refused": "refuses the connection",
    "dial tcp: lookup": "cannot be reached, because its name is not found",
    "dial tcp": "cannot be reached",
    "toomanyrequests": "refuses further requests for now",
    "unexpected HTTP status": "answers with an error",
}
_LONGEST = 300


@dataclass(frozen=True, kw_only=True)
class Upstream:
    """The upstream ``name`` with the settings of its mirror, and the environment of the mirror's process."""

    name: str
    mirror: MirrorSettings
    environment: Sequence[str]

    @property
    def url(self) -> str:
        """API origin of the upstream."""
        return upstream_url(self.name, self.mirror)


@dataclass(frozen=True, kw_only=True)
class _Failure:
    """What happened, in words after the name of the upstream; the program's own words; a command that may help."""

    phrase: str
    cause: str = ""
    fix: str = ""


def question(upstream: Upstream) -> list[str]:
    """Return the program that asks, for a container with the files of the mirror and an empty folder for its data."""
    script = _ASK % {"within": ANSWERS_WITHIN, "digest": "0" * 64, "looks": _LOOKS_FOR_LOGIN}
    url = f"http://127.0.0.1:{mirror_port(upstream.name)}/"
    repository = _REPOSITORIES.get(upstream.url, "registry-stack/absent")
    words = [CONFIG_FILE, url, repository]
    return ["sh", "-c", script, "sh", *words, *upstream.environment]


def warning(upstream: Upstream, said: str) -> str | None:
    """Return what failed according to the output of the program, or None."""
    failure = _failure(upstream, said)
    if failure is None:
        return None
    cause = redacted("".join(filter(str.isprintable, failure.cause)))[:_LONGEST]
    text = f"mirror {upstream.name}: the upstream {upstream.url} {failure.phrase}{f' ({cause})' if cause else ''}."
    text += " Until this is fixed, the mirror serves cached images only."
    return f"{text} To fix it: {failure.fix}" if failure.fix else text


def _failure(upstream: Upstream, said: str) -> _Failure | None:
    late = _Failure(phrase=f"gives no answer within {ANSWERS_WITHIN} seconds")
    answers = [_entry(line) for line in said.splitlines() if '"err.code"' in line]
    if not answers:
        last = said.strip().rpartition("\n")[2]
        return late if last == "silent" else _Failure(phrase="could not be asked", cause=last)
    code, words = answers[0]
    if "context canceled" in words:
        return late
    before = _BEFORE.match(words)
    cause = before[1] if before else words
    # Without a login, a token service may refuse a repository that does not exist.
    is_refused = before is not None and cause.startswith(("unauthorized", "denied"))
    if failure := _login_failure(upstream, said, code, cause, is_refused=is_refused):
        return failure
    if is_refused or code in ("manifest unknown", "name unknown", "unauthorized", "denied"):
        return None
    phrase = next((phrase for part, phrase in _PHRASES.items() if part in f"{code}: {cause}"), None)
    fix = file_command(path("mirrors", upstream.name, "ca"), "root.pem") if "authority" in (phrase or "") else ""
    return _Failure(phrase=phrase or ("cannot be reached" if before else "answers unexpectedly"), cause=cause, fix=fix)


def _login_failure(upstream: Upstream, said: str, code: str, cause: str, *, is_refused: bool) -> _Failure | None:
    login, wants_login = upstream.mirror.username, _WANTS_LOGIN in said
    if login and (wants_login or is_refused):
        fix = new_secret_command("upstream_passwords", upstream.name)
        return _Failure(phrase=f"refuses the login {login}", cause=cause, fix=fix)
    if wants_login:
        fix = set_command(path("mirrors", upstream.name, "username"), "robot")
        return _Failure(phrase="asks for a login, and the mirror has none", fix=fix)
    if code == "unauthorized" and not is_refused and _LOOKS_FOR_LOGIN not in said:
        fix = f"curl -sI {upstream.url}/v2/ | grep -i realm; if that is another domain, set `upstream` to its registry"
        return _Failure(phrase="answers 401 and offers no login that a mirror can use", fix=fix)
    return None


def _entry(line: str) -> tuple[str, str]:
    """Return code and words of an error in distribution's log. The line may have lost its end."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        part = _PART.match(line)
        return (part[1], part[2].replace('\\"', '"')) if part else ("", line)
    detail = entry.get("err.detail")  # the upstream's own, in any form, or the text of an error of Go
    return str(entry.get("err.code")), detail if isinstance(detail, str) else str(entry.get("err.message"))
