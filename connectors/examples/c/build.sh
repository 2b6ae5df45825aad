#!/bin/sh
# Builds the plugin into a directory for plugin.path: build.sh OUTDIR
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
cc -std=c11 -D_DEFAULT_SOURCE -O2 -Wall -Wextra -Werror -shared -fPIC -I "$here/../../include" -o "$1/libline_file.so" "$here/sink.c"
cp "$here/connector.json" "$1/"
