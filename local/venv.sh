#!/bin/sh
# Create .venv from requirements-dev.lock. This is a shell script, because no Python package is installed yet.
set -eu

fail() {
	printf 'virtual environment failed\n  cause:  %s\n  fix:    %s\n' "$1" "$2" >&2
	exit 1
}

PYTHON=${PYTHON:-python3}

"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
	fail "$PYTHON is missing or older than 3.11" "install Python 3.11 or newer, or name another Python: make up PYTHON=/path/to/python3"

if ! "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null; then
	package="python3-venv"
	if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
		echo "virtual environment: $PYTHON has no venv module; installing $package" >&2
		{ apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes "$package"; } >&2
	else
		fail "$PYTHON has no venv module" "run as root: apt-get install $package"
	fi
fi

echo "virtual environment: installing the packages of requirements-dev.lock into .venv" >&2
"$PYTHON" -m venv --clear .venv || fail "$PYTHON -m venv failed with exit code $?" "read the error above"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements-dev.lock ||
	fail "pip could not install requirements-dev.lock" "read the error above; check pip's configuration (pip config list)"
touch .venv/installed
