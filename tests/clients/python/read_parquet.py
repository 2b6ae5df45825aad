"""Prints every row of the Parquet files below a folder, one line of JSON each, ordered by partition and offset; read by pyarrow, and
counted by DuckDB."""

import glob
import json
import re
import sys

import duckdb
import pyarrow.parquet as parquet

directory = sys.argv[1]
rows = []
for path in glob.glob(directory + "/**/*.parquet", recursive=True):
    partition = int(re.search(r"partition=(\d+)", path).group(1))
    table = parquet.ParquetFile(path).read()
    for row in table.to_pylist():
        text = lambda value: value.decode() if isinstance(value, bytes) else value
        rows.append(
            {
                "partition": partition,
                "offset": row["offset"],
                "key": text(row["key"]),
                "value": text(row["value"]),
                "timestamp": int(row["timestamp"].timestamp() * 1000 + 0.5),
                "headers": [[header["key"], text(header["value"])] for header in row["headers"]],
            }
        )
counted = duckdb.connect().execute(f"select count(*), count(distinct filename) from read_parquet('{directory}/**/*.parquet', filename=true)").fetchone()
if counted[0] != len(rows):
    sys.exit(f"DuckDB counts {counted[0]} rows, pyarrow {len(rows)}")
rows.sort(key=lambda row: (row["partition"], row["offset"]))
for row in rows:
    print(json.dumps(row, separators=(",", ":")))
