"""One Python client of Kafka, driven by the suites: client.py LIBRARY COMMAND key=value...

Commands: produce (records on standard input, one a line, as written by `records.rs` in the harness; answers one line
"<partition> <offset>" a record, in order), consume (from offset 0 of every partition until `count` records have come),
member (joins group `group` and prints each record, its commits and its assignments until standard input closes).
The format of a record: "<partition> <offset> <timestamp> <key> <value> <name>:<value>;..." with hex for bytes, "-" for
null and "." for empty.
"""

import asyncio
import sys
import threading

DEADLINE_SECONDS = 120
# Larger than the largest record of the suites and its batch.
MESSAGE_BYTES = 12 * 1024 * 1024


def decode(field):
    if field == "-":
        return None
    return b"" if field == "." else bytes.fromhex(field)


def encode(value):
    if value is None:
        return "-"
    if isinstance(value, str):
        value = value.encode()
    return value.hex() if value else "."


def read_records():
    for line in sys.stdin:
        partition, _, timestamp, key, value, headers = line.rstrip("\n").split(" ")
        pairs = [] if headers == "." else [part.split(":") for part in headers.split(";")]
        yield (
            int(partition),
            int(timestamp),
            decode(key),
            decode(value),
            [(decode(name).decode(), decode(content)) for name, content in pairs],
        )


def emit(partition, offset, timestamp, key, value, headers):
    shown = ";".join(f"{encode(name)}:{encode(content)}" for name, content in headers or []) or "."
    sys.stdout.write(f"{partition} {offset} {timestamp} {encode(key)} {encode(value)} {shown}\n")


def say(line):
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def closed_input():
    """An event that is set when standard input closes: the order to stop."""
    event = threading.Event()

    def watch():
        sys.stdin.read()
        event.set()

    threading.Thread(target=watch, daemon=True).start()
    return event


class Confluent:
    def __init__(self, options):
        self.options = options

    def produce(self):
        from confluent_kafka import Producer

        o = self.options
        producer = Producer(
            {
                "bootstrap.servers": o["bootstrap"],
                "compression.type": o["codec"],
                "acks": o.get("acks", "all"),
                "enable.idempotence": o.get("idempotence", "false") == "true",
                "message.max.bytes": MESSAGE_BYTES,
                "linger.ms": 5,
            }
        )
        places = []

        def delivered(error, message, at):
            if error is not None:
                raise SystemExit(f"not delivered: {error}")
            places[at] = (message.partition(), message.offset())

        for at, (partition, timestamp, key, value, headers) in enumerate(read_records()):
            places.append(None)

            def on_delivery(error, message, at=at):
                delivered(error, message, at)

            while True:
                try:
                    producer.produce(
                        o["topic"], value, key, partition, on_delivery=on_delivery, timestamp=timestamp, headers=headers
                    )
                    break
                except BufferError:
                    producer.poll(1)
            producer.poll(0)
        left = producer.flush(DEADLINE_SECONDS)
        if left:
            raise SystemExit(f"{left} records not delivered within {DEADLINE_SECONDS} s")
        for partition, offset in places:
            say(f"{partition} {offset}")

    def consumer(self, group, reset):
        from confluent_kafka import Consumer

        return Consumer(
            {
                "bootstrap.servers": self.options["bootstrap"],
                "group.id": group,
                "auto.offset.reset": reset,
                "enable.auto.commit": False,
                "session.timeout.ms": 10000,
                "fetch.message.max.bytes": MESSAGE_BYTES,
                "check.crcs": True,
            }
        )

    def consume(self):
        from confluent_kafka import TopicPartition

        o = self.options
        consumer = self.consumer("unused", "error")
        count = int(o["count"])
        consumer.assign([TopicPartition(o["topic"], p, 0) for p in range(int(o["partitions"]))])
        while count:
            messages = consumer.consume(min(count, 1000), DEADLINE_SECONDS)
            if not messages:
                raise SystemExit(f"{count} records did not come within {DEADLINE_SECONDS} s")
            for m in messages:
                if m.error():
                    raise SystemExit(f"error while consuming: {m.error()}")
                emit(m.partition(), m.offset(), m.timestamp()[1], m.key(), m.value(), m.headers())
                count -= 1
        consumer.close()

    def member(self):
        o = self.options
        consumer = self.consumer(o["group"], "earliest")
        stop = closed_input()

        def assigned(_, partitions):
            say("assigned " + ",".join(str(p.partition) for p in sorted(partitions, key=lambda p: p.partition)))

        consumer.subscribe([o["topic"]], on_assign=assigned)
        while not stop.is_set():
            m = consumer.poll(0.1)
            if m is None:
                continue
            if m.error():
                say(f"error {m.error()}")
                continue
            emit(m.partition(), m.offset(), m.timestamp()[1], m.key(), m.value(), m.headers())
            consumer.commit(message=m, asynchronous=False)
            say(f"committed {m.partition()} {m.offset() + 1}")
        consumer.close()


class KafkaPython:
    def __init__(self, options):
        self.options = options

    def produce(self):
        from kafka import KafkaProducer

        o = self.options
        codec = None if o["codec"] == "none" else o["codec"]
        producer = KafkaProducer(
            bootstrap_servers=o["bootstrap"],
            compression_type=codec,
            acks="all",
            enable_idempotence=o.get("idempotence", "false") == "true",
            max_request_size=MESSAGE_BYTES,
            linger_ms=5,
        )
        futures = []
        for partition, timestamp, key, value, headers in read_records():
            futures.append(
                producer.send(
                    o["topic"], value=value, key=key, headers=headers, partition=partition, timestamp_ms=timestamp
                )
            )
        for future in futures:
            place = future.get(timeout=DEADLINE_SECONDS)
            say(f"{place.partition} {place.offset}")
        producer.close()

    def consume(self):
        from kafka import KafkaConsumer, TopicPartition

        o = self.options
        consumer = KafkaConsumer(
            bootstrap_servers=o["bootstrap"],
            enable_auto_commit=False,
            auto_offset_reset="none",
            consumer_timeout_ms=DEADLINE_SECONDS * 1000,
            max_partition_fetch_bytes=MESSAGE_BYTES,
            fetch_max_bytes=4 * MESSAGE_BYTES,
            check_crcs=True,
        )
        partitions = [TopicPartition(o["topic"], p) for p in range(int(o["partitions"]))]
        consumer.assign(partitions)
        for partition in partitions:
            consumer.seek(partition, 0)
        count = int(o["count"])
        for m in consumer:
            emit(m.partition, m.offset, m.timestamp, m.key, m.value, m.headers)
            count -= 1
            if count == 0:
                break
        if count:
            raise SystemExit(f"{count} records did not come within {DEADLINE_SECONDS} s")
        consumer.close()

    def member(self):
        from kafka import ConsumerRebalanceListener, KafkaConsumer, OffsetAndMetadata, TopicPartition

        o = self.options
        stop = closed_input()

        class Listener(ConsumerRebalanceListener):
            def on_partitions_revoked(self, revoked):
                pass

            def on_partitions_assigned(self, assigned):
                say("assigned " + ",".join(str(p) for p in sorted(a.partition for a in assigned)))

        consumer = KafkaConsumer(
            bootstrap_servers=o["bootstrap"],
            group_id=o["group"],
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            session_timeout_ms=10000,
            heartbeat_interval_ms=1000,
        )
        consumer.subscribe([o["topic"]], listener=Listener())
        while not stop.is_set():
            # Longer than a rebalance: when a poll of kafka-python 3.0 times out just as the answer to its SyncGroup arrives,
            # the client drops the assignment it was given, and sends no heartbeat any more.
            for place, messages in consumer.poll(timeout_ms=5000).items():
                for m in messages:
                    emit(m.partition, m.offset, m.timestamp, m.key, m.value, m.headers)
                after = messages[-1].offset + 1
                consumer.commit({TopicPartition(place.topic, place.partition): OffsetAndMetadata(after, "", -1)})
                say(f"committed {place.partition} {after}")
        consumer.close(autocommit=False)


class AioKafka:
    def __init__(self, options):
        self.options = options

    def produce(self):
        asyncio.run(self.produce_async())

    def consume(self):
        asyncio.run(self.consume_async())

    async def produce_async(self):
        from aiokafka import AIOKafkaProducer

        o = self.options
        producer = AIOKafkaProducer(
            bootstrap_servers=o["bootstrap"],
            compression_type=None if o["codec"] == "none" else o["codec"],
            acks="all",
            enable_idempotence=o.get("idempotence", "false") == "true",
            max_request_size=MESSAGE_BYTES,
        )
        await producer.start()
        try:
            futures = []
            for partition, timestamp, key, value, headers in read_records():
                futures.append(
                    await producer.send(
                        o["topic"], value, key, partition=partition, timestamp_ms=timestamp, headers=headers
                    )
                )
            for future in futures:
                place = await asyncio.wait_for(future, DEADLINE_SECONDS)
                say(f"{place.partition} {place.offset}")
        finally:
            await producer.stop()

    async def consume_async(self):
        from aiokafka import AIOKafkaConsumer, TopicPartition

        o = self.options
        consumer = AIOKafkaConsumer(
            bootstrap_servers=o["bootstrap"],
            enable_auto_commit=False,
            auto_offset_reset="none",
            max_partition_fetch_bytes=MESSAGE_BYTES,
            check_crcs=True,
        )
        await consumer.start()
        try:
            partitions = [TopicPartition(o["topic"], p) for p in range(int(o["partitions"]))]
            consumer.assign(partitions)
            for partition in partitions:
                consumer.seek(partition, 0)
            for _ in range(int(o["count"])):
                m = await asyncio.wait_for(consumer.getone(), DEADLINE_SECONDS)
                emit(m.partition, m.offset, m.timestamp, m.key, m.value, m.headers)
        finally:
            await consumer.stop()


if __name__ == "__main__":
    library = {"confluent-kafka": Confluent, "kafka-python": KafkaPython, "aiokafka": AioKafka}[sys.argv[1]]
    getattr(library(dict(pair.split("=", 1) for pair in sys.argv[3:])), sys.argv[2])()
    sys.stdout.flush()
