#!/bin/sh
# Builds the plugin into a directory for plugin.path: build.sh OUTDIR
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
rustc --edition 2024 --crate-type cdylib --crate-name line_file -O -D warnings --out-dir "$1" "$here/sink.rs"
cp "$here/connector.json" "$1/"
