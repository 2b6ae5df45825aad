#!/usr/bin/env python3
"""Appends "partition offset length" for each record to the file of the setting `file`. A null value has the length -1."""
import json
import os
import struct
import sys

import pyarrow
import pyarrow.compute
import pyarrow.ipc

HEAD = struct.Struct("<4sII")  # magic, length of the JSON, length of the rows


def calls():
    while head := sys.stdin.buffer.read(HEAD.size):
        magic, json_length, rows_length = HEAD.unpack(head)
        assert magic == b"SLP1", "a worker of another version"
        yield json.loads(sys.stdin.buffer.read(json_length)), sys.stdin.buffer.read(rows_length)


def answer(**fields):
    text = json.dumps(fields).encode()
    sys.stdout.buffer.write(HEAD.pack(b"SLP1", len(text), 0) + text)
    sys.stdout.buffer.flush()


def write(file, call, rows):
    source = pyarrow.BufferReader(rows)
    for _ in range(call["streams"]):
        for batch in pyarrow.ipc.open_stream(source):
            values = batch.column("value")
            if "crash" in values.to_pylist() or b"crash" in values.to_pylist():
                os.abort()
            lengths = pyarrow.compute.binary_length(values).fill_null(-1).to_pylist()
            for offset, length in zip(batch.column("offset").to_pylist(), lengths):
                file.write(f"{call['partition']} {offset} {length}\n")


file = None
for call, rows in calls():
    try:
        if call["call"] == "start":
            file = open(call["settings"]["file"], "a")
        elif call["call"] == "write":
            write(file, call, rows)
        elif call["call"] == "flush":
            file.flush()
            os.fdatasync(file.fileno())
        answer(id=call["id"], all=call["call"] == "flush")
    except Exception as error:
        answer(id=call["id"], error="fatal", message=f"{type(error).__name__}: {error}")
