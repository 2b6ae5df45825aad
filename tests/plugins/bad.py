#!/usr/bin/env python3
"""A plugin that misbehaves in the way of its setting `mode` as soon as it is given the offset `at`, until a file `<file>.fixed` is there.

It appends "partition offset" for each offset of a write to `file`; what it is given tells the offsets, so that it needs no Arrow.
"""
import json
import os
import struct
import subprocess
import sys
import time

HEAD = struct.Struct("<4sII")


def send(text, magic=b"SLP1", claimed=None):
    length = len(text) if claimed is None else claimed
    sys.stdout.buffer.write(HEAD.pack(magic, length, 0) + text)
    sys.stdout.buffer.flush()


def misbehave(mode, number):
    if mode == "abort":
        print("an invariant of the plugin is broken", file=sys.stderr, flush=True)
        os.abort()
    if mode == "once":
        open(settings["file"] + ".fixed", "w").close()
        os.abort()
    if mode == "exit":
        sys.exit(3)
    if mode == "orphan":
        with open(settings["file"] + ".orphan", "w") as orphan:
            orphan.write(str(subprocess.Popen(["sleep", "3600"]).pid))
        sys.exit(3)
    if mode == "flood":
        while True:
            sys.stderr.buffer.write(b"all work and no play\n" * 1000)
    if mode == "raise":
        raise RuntimeError("a mistake in the plugin")
    if mode == "hang":
        time.sleep(3600)
    if mode == "leak":
        kept = []
        while len(kept) < 64:
            kept.append(b"x" * (64 << 20))
        sys.exit(9)
    if mode == "close":
        os.close(1)
        os.close(0)
        time.sleep(3600)
    if mode == "garbage":
        print("written 10 rows, all is well", flush=True)
    if mode == "half":
        sys.stdout.buffer.write(b"SLP1\x10\x00\x00\x00\x00\x00\x00\x00{\"id\":")
        sys.stdout.buffer.flush()
        sys.exit(0)
    if mode == "lie-length":
        send(b"{}", claimed=0x7FFFFFFF)
    if mode == "no-json":
        send(b"{'id': 1}")
    if mode == "number":
        send(json.dumps({"id": number - 1}).encode())
    if mode == "tell":
        print("the token is", settings["token"], file=sys.stderr, flush=True)
        send(json.dumps({"id": number, "error": "fatal", "message": "refused: " + settings["token"]}).encode())
    time.sleep(3600)


def moody(call):
    """What a plugin may say without having broken: try again, open again, not this row."""
    global moods
    moods += 1
    words = {"message": "mood %d" % moods}
    if moods <= 2:
        return {"error": "retriable", **words}
    if moods == 3:
        return {"error": "reopen", **words}
    return {"error": "rejected", "rejected": [call["first_offset"]], **words} if call["first_offset"] == 100 else {}


moods = 0
ends = {}
while head := sys.stdin.buffer.read(HEAD.size):
    _, json_length, rows_length = HEAD.unpack(head)
    call = json.loads(sys.stdin.buffer.read(json_length))
    sys.stdin.buffer.read(rows_length)
    answer = {"id": call["id"]}
    if call["call"] == "start":
        settings = call["settings"]
        file = open(settings["file"], "a")
        broken = not os.path.exists(settings["file"] + ".fixed")
    elif call["call"] == "write":
        offsets = range(call["first_offset"], call["next_offset"])
        if settings["mode"] == "moody" and offsets.stop > int(settings["at"]):
            answer.update(moody(call))
            if "error" in answer:
                if answer["error"] != "rejected":
                    send(json.dumps(answer).encode())
                    continue
                offsets = range(offsets.start + 1, offsets.stop)
        if broken and offsets.stop > int(settings["at"]) and settings["mode"] not in ("lie-offset", "moody"):
            misbehave(settings["mode"], call["id"])
        for offset in offsets:
            file.write(f"{call['partition']} {offset}\n")
        ends[(call["topic"], call["partition"])] = offsets.stop
    elif call["call"] == "flush":
        file.flush()
        beyond = 1000 if broken and settings["mode"] == "lie-offset" and max(ends.values(), default=0) > int(settings["at"]) else 0
        answer["offsets"] = [{"topic": t, "partition": p, "offset": end + beyond} for (t, p), end in ends.items()]
    send(json.dumps(answer).encode())
