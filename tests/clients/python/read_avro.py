"""Prints every record of the Avro files below a folder, one line of JSON each, in the order of the files' names: {"file", "codec", "record"}."""

import glob
import json
import sys

import fastavro

for path in sorted(glob.glob(sys.argv[1] + "/**/*.avro", recursive=True)):
    with open(path, "rb") as file:
        reader = fastavro.reader(file)
        for record in reader:
            text = json.dumps({"file": path.rsplit("/", 1)[1], "codec": reader.codec, "record": record}, separators=(",", ":"), default=str)
            print(text)
