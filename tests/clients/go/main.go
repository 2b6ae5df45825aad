// One Go client of Kafka (franz-go), driven by the suites: franz COMMAND key=value...
//
// Commands and the format of a record are those of clients/python/client.py.
package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	deadline = 120 * time.Second
	// Larger than the largest record of the suites and its batch.
	messageBytes = 12 << 20
)

func fail(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	os.Exit(1)
}

func decode(field string) []byte {
	switch field {
	case "-":
		return nil
	case ".":
		return []byte{}
	}
	b, err := hex.DecodeString(field)
	if err != nil {
		fail("not hex: %v", err)
	}
	return b
}

func encode(b []byte) string {
	if b == nil {
		return "-"
	}
	if len(b) == 0 {
		return "."
	}
	return hex.EncodeToString(b)
}

func parse(line, topic string) *kgo.Record {
	f := strings.Split(line, " ")
	if len(f) != 6 {
		fail("a record has six fields, not %d", len(f))
	}
	partition, err := strconv.Atoi(f[0])
	if err != nil {
		fail("partition: %v", err)
	}
	timestamp, err := strconv.ParseInt(f[2], 10, 64)
	if err != nil {
		fail("timestamp: %v", err)
	}
	r := &kgo.Record{
		Topic: topic, Partition: int32(partition), Key: decode(f[3]), Value: decode(f[4]),
		Timestamp: time.UnixMilli(timestamp),
	}
	if f[5] != "." {
		for _, header := range strings.Split(f[5], ";") {
			name, value, _ := strings.Cut(header, ":")
			r.Headers = append(r.Headers, kgo.RecordHeader{Key: string(decode(name)), Value: decode(value)})
		}
	}
	return r
}

func emit(w io.Writer, r *kgo.Record) {
	headers := make([]string, 0, len(r.Headers))
	for _, h := range r.Headers {
		headers = append(headers, encode([]byte(h.Key))+":"+encode(h.Value))
	}
	shown := strings.Join(headers, ";")
	if shown == "" {
		shown = "."
	}
	fmt.Fprintf(w, "%d %d %d %s %s %s\n", r.Partition, r.Offset, r.Timestamp.UnixMilli(), encode(r.Key), encode(r.Value), shown)
}

func newClient(o map[string]string, more ...kgo.Opt) *kgo.Client {
	client, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(o["bootstrap"]), kgo.FetchMaxPartitionBytes(messageBytes), kgo.FetchMaxBytes(4 * messageBytes),
		kgo.BrokerMaxReadBytes(8 * messageBytes),
	}, more...)...)
	if err != nil {
		fail("client: %v", err)
	}
	return client
}

var codecs = map[string]kgo.CompressionCodec{
	"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
	"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
}

func produce(o map[string]string, out io.Writer) {
	batchBytes := int32(1_000_000)
	if o["large"] == "true" {
		batchBytes = messageBytes
	}
	opts := []kgo.Opt{
		kgo.ProducerBatchCompression(codecs[o["codec"]]), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchMaxBytes(batchBytes), kgo.ProducerLinger(5 * time.Millisecond),
		kgo.RequiredAcks(kgo.AllISRAcks()),
	}
	if o["idempotence"] != "true" {
		opts = append(opts, kgo.DisableIdempotentWrite())
	}
	client := newClient(o, opts...)
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	in := bufio.NewReaderSize(os.Stdin, 1<<20)
	var sent []*kgo.Record
	for {
		line, err := in.ReadString('\n')
		if line != "" {
			r := parse(strings.TrimSuffix(line, "\n"), o["topic"])
			sent = append(sent, r)
			client.Produce(ctx, r, func(_ *kgo.Record, err error) {
				if err != nil {
					fail("not delivered: %v", err)
				}
			})
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			fail("standard input: %v", err)
		}
	}
	if err := client.Flush(ctx); err != nil {
		fail("flush: %v", err)
	}
	for _, r := range sent {
		fmt.Fprintf(out, "%d %d\n", r.Partition, r.Offset)
	}
}

func consume(o map[string]string, out io.Writer) {
	partitions, _ := strconv.Atoi(o["partitions"])
	count, _ := strconv.Atoi(o["count"])
	start := map[int32]kgo.Offset{}
	for p := 0; p < partitions; p++ {
		start[int32(p)] = kgo.NewOffset().At(0)
	}
	client := newClient(o,
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{o["topic"]: start}),
		// A reset would hide a lost record: it is an error here.
		kgo.ConsumeResetOffset(kgo.NoResetOffset()))
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	for count > 0 {
		fetches := client.PollRecords(ctx, count)
		for _, e := range fetches.Errors() {
			fail("error while consuming, %d records missing: %v", count, e.Err)
		}
		fetches.EachRecord(func(r *kgo.Record) { emit(out, r); count-- })
	}
}

func member(o map[string]string, out *bufio.Writer) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	say := func(format string, args ...any) {
		fmt.Fprintf(out, format+"\n", args...)
		out.Flush()
	}
	client := newClient(o,
		kgo.ConsumerGroup(o["group"]), kgo.ConsumeTopics(o["topic"]), kgo.DisableAutoCommit(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.SessionTimeout(10*time.Second),
		kgo.Balancers(kgo.RangeBalancer()), kgo.BlockRebalanceOnPoll(),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, assigned map[string][]int32) {
			shown := []string{}
			for p := int32(0); p < 64; p++ {
				for _, a := range assigned[o["topic"]] {
					if a == p {
						shown = append(shown, strconv.Itoa(int(p)))
					}
				}
			}
			say("assigned %s", strings.Join(shown, ","))
		}))
	defer client.Close()
	for ctx.Err() == nil {
		fetches := client.PollRecords(ctx, 100)
		fetches.EachRecord(func(r *kgo.Record) {
			emit(out, r)
			if err := client.CommitRecords(context.Background(), r); err != nil {
				say("error %v", err)
			} else {
				say("committed %d %d", r.Partition, r.Offset+1)
			}
		})
		client.AllowRebalance()
	}
}

func main() {
	o := map[string]string{}
	for _, pair := range os.Args[2:] {
		key, value, _ := strings.Cut(pair, "=")
		o[key] = value
	}
	out := bufio.NewWriterSize(os.Stdout, 1<<20)
	defer out.Flush()
	switch os.Args[1] {
	case "produce":
		produce(o, out)
	case "consume":
		consume(o, out)
	case "member":
		member(o, out)
	default:
		fail("no command is named %s", os.Args[1])
	}
}
