import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.ByteBuffer;
import java.util.Arrays;
import java.util.HexFormat;
import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.record.TimestampType;
import org.apache.kafka.common.record.internal.EndTransactionMarker;
import org.apache.kafka.common.record.internal.ControlRecordType;
import org.apache.kafka.common.record.internal.MemoryRecords;
import org.apache.kafka.common.record.internal.MemoryRecordsBuilder;
import org.apache.kafka.common.record.internal.MutableRecordBatch;
import org.apache.kafka.common.record.internal.Record;

/** "write": prints batches as "name hex". "read": reads hex lines, describes each batch. */
public class Batches {
    static final HexFormat HEX = HexFormat.of();

    public static void main(String[] args) throws Exception {
        if (args[0].equals("write")) {
            for (String codec : new String[] {"none", "gzip", "snappy", "lz4", "zstd"}) {
                System.out.println(codec + " " + write(Compression.of(codec).build(), TimestampType.CREATE_TIME, false));
            }
            System.out.println("transactional " + write(Compression.NONE, TimestampType.CREATE_TIME, true));
            System.out.println("log-append-time " + write(Compression.NONE, TimestampType.LOG_APPEND_TIME, false));
            MemoryRecords commit = MemoryRecords.withEndTransactionMarker(
                200, 5000, 3, 7, (short) 1, new EndTransactionMarker(ControlRecordType.COMMIT, 9));
            System.out.println("commit " + HEX.formatHex(bytes(commit)));
        } else {
            BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
            for (String line = in.readLine(); line != null; line = in.readLine()) {
                try {
                    System.out.println(describe(MemoryRecords.readableRecords(ByteBuffer.wrap(HEX.parseHex(line)))));
                } catch (RuntimeException e) {
                    System.out.println("error " + e);
                }
            }
        }
    }

    static String write(Compression compression, TimestampType type, boolean transactional) {
        MemoryRecordsBuilder builder = MemoryRecords.builder(ByteBuffer.allocate(10000), (byte) 2, compression, type,
            100L, type == TimestampType.LOG_APPEND_TIME ? 7777L : -1L, 7L, (short) 1, Integer.MAX_VALUE - 1,
            transactional, 3);
        byte[] large = new byte[3000];
        Arrays.fill(large, (byte) 5);
        builder.append(1000L, "k".getBytes(), "v".getBytes(), new Header[] {
            new RecordHeader("h", (byte[]) null), new RecordHeader("h", new byte[] {1, 2})});
        builder.append(900L, (byte[]) null, large);
        builder.append(2000L, new byte[0], (byte[]) null);
        return HEX.formatHex(bytes(builder.build()));
    }

    static byte[] bytes(MemoryRecords records) {
        byte[] bytes = new byte[records.sizeInBytes()];
        records.buffer().duplicate().get(bytes);
        return bytes;
    }

    static String describe(MemoryRecords records) {
        StringBuilder out = new StringBuilder();
        for (MutableRecordBatch batch : records.batches()) {
            batch.ensureValid();
            out.append(batch.baseOffset() + " " + batch.lastOffset() + " " + batch.partitionLeaderEpoch() + " "
                + batch.producerId() + " " + batch.producerEpoch() + " " + batch.baseSequence() + " "
                + batch.lastSequence() + " " + batch.isTransactional() + " " + batch.isControlBatch() + " "
                + (batch.timestampType() == TimestampType.LOG_APPEND_TIME) + " " + batch.maxTimestamp() + " "
                + batch.compressionType().name + " " + batch.sizeInBytes());
            for (Record record : batch) {
                out.append(" | " + record.offset() + " " + record.timestamp() + " " + hex(record.key()) + " "
                    + hex(record.value()));
                for (Header header : record.headers()) {
                    ByteBuffer value = header.value() == null ? null : ByteBuffer.wrap(header.value());
                    out.append(" " + hex(ByteBuffer.wrap(header.key().getBytes())) + "=" + hex(value));
                }
            }
        }
        return out.toString();
    }

    static String hex(ByteBuffer buffer) {
        if (buffer == null) {
            return "-";
        }
        byte[] bytes = new byte[buffer.remaining()];
        buffer.duplicate().get(bytes);
        return "x" + HEX.formatHex(bytes);
    }
}
