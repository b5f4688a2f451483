#!/bin/sh
# The official image's manners: a configuration file is served, a registry command is run, anything else is executed.
set -e

case "$1" in
*.yaml | *.yml) set -- registry serve "$@" ;;
serve | garbage-collect | help | -*) set -- registry "$@" ;;
esac

exec "$@"
