#!/bin/sh
# Builds the plugin into a directory for plugin.path: build.sh OUTDIR
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
target=${CARGO_TARGET_DIR:-$here/target}
cargo build --quiet --release --locked --manifest-path "$here/Cargo.toml" --target-dir "$target"
cp "$target/release/strandline-iceberg" "$here/connector.json" "$1/"
