/* Appends "partition offset length" for each record to the file of the setting `file`. A null value has the length -1. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "strandline_sink.h"

uint32_t strandline_sink_abi(void) { return STRANDLINE_SINK_ABI; }

int strandline_sink_start(const struct strandline_task *task, void **sink, struct strandline_reply *reply) {
    for (size_t i = 0; i < task->settings_count; i++)
        if (strcmp(task->settings[i].name, "file") == 0) *sink = fopen(task->settings[i].value, "a");
    if (*sink) return STRANDLINE_OK;
    reply->message(reply, "the file cannot be opened: set `file` to a path that may be written");
    return STRANDLINE_FATAL;
}

int strandline_sink_open(void *sink, const struct strandline_position *partitions, size_t count, struct strandline_reply *reply) {
    (void)sink, (void)partitions, (void)count, (void)reply;
    return STRANDLINE_OK; /* reading begins where the group says */
}

int strandline_sink_write(void *sink, struct strandline_rows *rows, struct strandline_reply *reply) {
    for (size_t i = 0; i < rows->count; i++) {
        struct ArrowArray *offsets = rows->arrays[i].children[STRANDLINE_OFFSET], *values = rows->arrays[i].children[STRANDLINE_VALUE];
        if (!strchr("zu", rows->schemas[i].children[STRANDLINE_VALUE]->format[0])) {
            reply->message(reply, "values have to be bytes or text: set value.converter to ByteArrayConverter");
            return STRANDLINE_FATAL;
        }
        const int64_t *offset = (const int64_t *)offsets->buffers[1] + offsets->offset;
        const uint8_t *valid = values->buffers[0]; /* one bit each; NULL = all are there */
        const int32_t *ends = (const int32_t *)values->buffers[1] + values->offset;
        const char *bytes = values->buffers[2];
        for (int64_t row = 0; row < rows->arrays[i].length; row++) {
            int64_t bit = row + values->offset;
            int length = valid && !(valid[bit / 8] >> bit % 8 & 1) ? -1 : ends[row + 1] - ends[row];
            if (length == 5 && memcmp(bytes + ends[row], "crash", 5) == 0) abort();
            fprintf(sink, "%d %lld %d\n", rows->partition, (long long)offset[row], length);
        }
    }
    return STRANDLINE_OK;
}

int strandline_sink_flush(void *sink, int64_t now_ms, int force, struct strandline_reply *reply) {
    (void)now_ms, (void)force;
    if (fflush(sink) == 0 && fdatasync(fileno(sink)) == 0) return STRANDLINE_ALL;
    reply->message(reply, "the file cannot be written: see that there is room, then restart the task");
    return STRANDLINE_FATAL;
}

int strandline_sink_close(void *sink, const struct strandline_position *partitions, size_t count, struct strandline_reply *reply) {
    (void)sink, (void)partitions, (void)count, (void)reply;
    return STRANDLINE_OK;
}

void strandline_sink_stop(void *sink) { fclose(sink); }
