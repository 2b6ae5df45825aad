/*
 * A sink for Strandline's connectors, as a shared library.
 *
 * The library exports the functions at the end of this file. It is loaded into a process of its own, one for each task: a crash, a
 * leak or an endless loop ends that task and nothing else. Functions are called one after another, from one thread. A worker with
 * plugin.isolation=in-process loads it once for all of its tasks, each with a thread of its own: then a crash is the worker's, and what is
 * static is shared, so keep state in what `start` returns.
 *
 *   start -> open -> write, write, ... flush, write, ... flush -> close -> (open ... close) -> stop
 *
 * MEMORY. Whatever a function is given belongs to the caller and is valid until the function returns: copy what is to be kept. Arrow
 * arrays may be taken over as the Arrow C Data Interface says (copy the struct, set its `release` to NULL); what is not taken over is
 * released by the caller. Texts are UTF-8 and end with a zero byte. What is handed to `reply` is copied.
 *
 * DELIVERY. An offset is committed only after `flush` has named it. What is not named comes again after a crash: at least once. After
 * `close`, rows that were not named may be forgotten. Rows of a partition come in the order of their offsets.
 */
#ifndef STRANDLINE_SINK_H
#define STRANDLINE_SINK_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The version of this file. A library of another version is refused when it is loaded. */
#define STRANDLINE_SINK_ABI 1

/* What a function returns. With everything but OK and ALL, say why by `reply->message`. */
enum {
    STRANDLINE_OK = 0,
    STRANDLINE_RETRIABLE = 1, /* nothing was done; the same call comes again after a pause */
    STRANDLINE_REOPEN = 2,    /* the sink is not where the caller believes it is: open the partitions again */
    STRANDLINE_REJECTED = 3,  /* of `write`: the rows named by `reply->reject` can never be delivered; all others were taken */
    STRANDLINE_FATAL = 4,     /* the task ends, with the message as its reason */
    STRANDLINE_ALL = 5        /* of `flush`: everything that was written is durable */
};

/* The Arrow C Data Interface, as its specification has it. */
#ifndef ARROW_C_DATA_INTERFACE
#define ARROW_C_DATA_INTERFACE
struct ArrowSchema {
    const char *format;
    const char *name;
    const char *metadata;
    int64_t flags;
    int64_t n_children;
    struct ArrowSchema **children;
    struct ArrowSchema *dictionary;
    void (*release)(struct ArrowSchema *);
    void *private_data;
};
struct ArrowArray {
    int64_t length;
    int64_t null_count;
    int64_t offset;
    int64_t n_buffers;
    int64_t n_children;
    const void **buffers;
    struct ArrowArray **children;
    struct ArrowArray *dictionary;
    void (*release)(struct ArrowArray *);
    void *private_data;
};
#endif

/* One of the settings that connector.json defines, defaults filled in. Those that are not set are not there. */
struct strandline_setting {
    const char *name;
    const char *value;
};

struct strandline_task {
    const char *connector; /* the connector's name */
    uint32_t task;         /* the task's number, from 0 */
    const char *spool;     /* a directory for files of this task, emptied before it starts */
    const struct strandline_setting *settings;
    size_t settings_count;
};

struct strandline_position {
    const char *topic;
    int32_t partition;
    int64_t offset; /* in `open`: the next offset to be read, as it was committed, or -1; in `close`: -1 */
};

/* Columns of every array, in this order; key and value have the types that the converters give them (binary without any):
 * topic "u", partition "i", offset "l", timestamp "tsm:UTC", timestamp_type "c" (0 = create time, 1 = log append time),
 * headers "+l" of a struct of key "u" and value "z", key, value. */
enum {
    STRANDLINE_TOPIC,
    STRANDLINE_PARTITION,
    STRANDLINE_OFFSET,
    STRANDLINE_TIMESTAMP,
    STRANDLINE_TIMESTAMP_TYPE,
    STRANDLINE_HEADERS,
    STRANDLINE_KEY,
    STRANDLINE_VALUE
};

/* The next rows of one partition: of offsets from `first_offset` (inclusive) to `next_offset` (exclusive). */
struct strandline_rows {
    const char *topic;
    int32_t partition;
    int64_t first_offset;
    int64_t next_offset;
    size_t count; /* of arrays: one for each schema, none if these offsets have no rows */
    struct ArrowSchema *schemas;
    struct ArrowArray *arrays; /* structs ("+s") of the columns above */
};

/* How a function answers beside its return code. */
struct strandline_reply {
    void *host;
    /* of `open`: where reading of a partition begins, if the sink knows better; of `flush`: the end (exclusive) of what is durable */
    void (*offset)(struct strandline_reply *reply, const char *topic, int32_t partition, int64_t offset);
    /* of `write`: this row can never be delivered */
    void (*reject)(struct strandline_reply *reply, int64_t offset);
    /* why, in a sentence that says what to do */
    void (*message)(struct strandline_reply *reply, const char *text);
};

/* ---- What the library exports. ---- */

/* Returns STRANDLINE_SINK_ABI. */
uint32_t strandline_sink_abi(void);

/* Once, first. What is stored in *sink is handed to every other function. */
int strandline_sink_start(const struct strandline_task *task, void **sink, struct strandline_reply *reply);

/* Takes partitions. */
int strandline_sink_open(void *sink, const struct strandline_position *partitions, size_t count, struct strandline_reply *reply);

/* Takes rows of one partition; they may stay in memory. */
int strandline_sink_write(void *sink, struct strandline_rows *rows, struct strandline_reply *reply);

/* Makes durable what is due (all of it if `force` is not 0), and names all that is durable: STRANDLINE_ALL, or by `reply->offset`.
 * `now_ms` is the time of day, milliseconds since 1970 UTC. */
int strandline_sink_flush(void *sink, int64_t now_ms, int force, struct strandline_reply *reply);

/* Gives partitions back, after a last flush; what is not durable is forgotten. */
int strandline_sink_close(void *sink, const struct strandline_position *partitions, size_t count, struct strandline_reply *reply);

/* Once, last; not after a crash. */
void strandline_sink_stop(void *sink);

#ifdef __cplusplus
}
#endif
#endif
