/* bad.py as a shared library: misbehaves in the way of `mode` from the offset `at` on, until `<file>.fixed` is there. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "strandline_sink.h"

struct bad {
    char path[4096], mode[64];
    long at;
    int broken;
    FILE *file;
};

uint32_t strandline_sink_abi(void) { return STRANDLINE_SINK_ABI; }

int strandline_sink_start(const struct strandline_task *task, void **sink, struct strandline_reply *reply) {
    (void)reply;
    struct bad *bad = *sink = calloc(1, sizeof *bad);
    for (size_t i = 0; i < task->settings_count; i++) {
        const char *name = task->settings[i].name, *value = task->settings[i].value;
        if (strcmp(name, "file") == 0) snprintf(bad->path, sizeof bad->path - 8, "%s", value);
        if (strcmp(name, "mode") == 0) snprintf(bad->mode, sizeof bad->mode, "%s", value);
        if (strcmp(name, "at") == 0) bad->at = atol(value);
    }
    bad->file = fopen(bad->path, "a");
    bad->broken = access(strcat(bad->path, ".fixed"), F_OK) != 0;
    printf("what a library prints does not disturb its answers\n");
    return STRANDLINE_OK;
}

int strandline_sink_open(void *sink, const struct strandline_position *partitions, size_t count, struct strandline_reply *reply) {
    (void)sink, (void)partitions, (void)count, (void)reply;
    return STRANDLINE_OK;
}

static int misbehave(const char *mode) {
    if (strcmp(mode, "abort") == 0) abort();
    if (strcmp(mode, "exit") == 0) exit(3);
    if (strcmp(mode, "segfault") == 0) *(volatile int *)8 = 1;
    while (strcmp(mode, "hang") == 0) sleep(1);
    if (strcmp(mode, "leak") == 0)
        for (int i = 0; i < 64; i++) memset(malloc(64 << 20), 'x', 64 << 20);
    return 99;
}

int strandline_sink_write(void *sink, struct strandline_rows *rows, struct strandline_reply *reply) {
    struct bad *bad = sink;
    (void)reply;
    if (bad->broken && rows->next_offset > bad->at) return misbehave(bad->mode);
    for (int64_t offset = rows->first_offset; offset < rows->next_offset; offset++)
        fprintf(bad->file, "%d %lld\n", rows->partition, (long long)offset);
    return STRANDLINE_OK;
}

int strandline_sink_flush(void *sink, int64_t now_ms, int force, struct strandline_reply *reply) {
    struct bad *bad = sink;
    (void)now_ms, (void)force, (void)reply;
    return fflush(bad->file) == 0 ? STRANDLINE_ALL : STRANDLINE_FATAL;
}

int strandline_sink_close(void *sink, const struct strandline_position *partitions, size_t count, struct strandline_reply *reply) {
    (void)sink, (void)partitions, (void)count, (void)reply;
    return STRANDLINE_OK;
}

void strandline_sink_stop(void *sink) { fclose(((struct bad *)sink)->file), free(sink); }
