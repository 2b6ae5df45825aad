#!/bin/sh
# Puts the plugin into a directory for plugin.path: build.sh OUTDIR
# It is run by $PYTHON, which needs pyarrow; by default the python3 of this shell.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
python=$("${PYTHON:-python3}" -c 'import sys; print(sys.executable)')
"$python" -c 'import pyarrow' || { echo "build.sh: $python has no pyarrow: $python -m pip install pyarrow, or set PYTHON" >&2; exit 1; }
mkdir -p "$1"
sed "1s|.*|#!$python|" "$here/sink.py" > "$1/sink.py"
chmod +x "$1/sink.py"
cp "$here/connector.json" "$1/"
