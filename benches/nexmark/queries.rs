//! The queries as published, in our spelling of windows, and what Flink does of them. Windows are sent when they close, as Flink
//! sends them.

pub struct Query {
    pub name: &'static str,
    pub asks_for: &'static str,
    pub sql: &'static str,
    /// What has to be there before.
    pub needs: &'static str,
    pub flink: Option<Flink>,
}

/// Flink 2.3 with its state on the heap, on a machine like the one of docs/benchmarks.md.
#[derive(Clone, Copy)]
pub struct Flink {
    pub events_per_cpu_second: f64,
    /// How many times as many we are meant to do, at least.
    pub asked: f64,
}

const fn flink(thousands_per_cpu_second: f64, asked: f64) -> Option<Flink> {
    Some(Flink { events_per_cpu_second: thousands_per_cpu_second * 1e3, asked })
}

const fn query(name: &'static str, asks_for: &'static str, flink: Option<Flink>, sql: &'static str) -> Query {
    Query { name, asks_for, sql, needs: "", flink }
}

pub const QUERIES: [Query; 25] = [
    query("q0", "pass through", flink(321.0, 3.0), "SELECT auction, bidder, price, date_time, extra FROM bid"),
    query(
        "q1",
        "currency conversion",
        None,
        "SELECT auction, bidder, 0.908::double precision * price AS price, date_time, extra FROM bid",
    ),
    query("q2", "selection", None, "SELECT auction, price FROM bid WHERE auction % 123 = 0"),
    query(
        "q3",
        "local item suggestion",
        flink(167.0, 3.0),
        "SELECT p.name, p.city, p.state, a.id FROM auction AS a JOIN person AS p ON a.seller = p.id
         WHERE a.category = 10 AND (p.state = 'or' OR p.state = 'id' OR p.state = 'ca')",
    ),
    query(
        "q4",
        "average price of a category",
        flink(94.0, 3.0),
        "SELECT category, avg(final) AS average FROM (
             SELECT max(b.price) AS final, a.category FROM auction AS a JOIN bid AS b ON a.id = b.auction
             WHERE b.date_time BETWEEN a.date_time AND a.expires GROUP BY a.id, a.category) AS q
         GROUP BY category",
    ),
    query(
        "q5",
        "hot items",
        flink(202.0, 5.0),
        "WITH counts AS (
             SELECT window_start, window_end, auction, count(*) AS num
             FROM HOP(bid, date_time, INTERVAL '2 seconds', INTERVAL '10 seconds')
             GROUP BY window_start, window_end, auction),
         maxima AS (
             SELECT window_start, window_end, max(num) AS maxn FROM counts GROUP BY window_start, window_end)
         SELECT c.window_start, c.auction, c.num FROM counts AS c
         JOIN maxima AS m ON c.window_start = m.window_start AND c.window_end = m.window_end AND c.num >= m.maxn
         EMIT ON WINDOW CLOSE",
    ),
    query(
        "q6",
        "average price of a seller's last 10",
        None,
        "SELECT seller, avg(final) OVER (PARTITION BY seller ORDER BY date_time ROWS BETWEEN 10 PRECEDING AND CURRENT ROW) AS average
         FROM (SELECT seller, final, date_time FROM (
             SELECT a.id, a.seller, b.price AS final, b.date_time,
                    row_number() OVER (PARTITION BY a.id ORDER BY b.price DESC, b.date_time) AS n
             FROM auction AS a JOIN bid AS b ON a.id = b.auction WHERE b.date_time BETWEEN a.date_time AND a.expires) AS bids
             WHERE n <= 1) AS won",
    ),
    query(
        "q7",
        "highest bid",
        flink(68.0, 8.0),
        "SELECT b.auction, b.price, b.bidder, b.date_time, b.extra FROM bid AS b
         JOIN (SELECT max(price) AS maxprice, window_start, window_end
               FROM TUMBLE(bid, date_time, INTERVAL '10 seconds') GROUP BY window_start, window_end) AS m
           ON b.price = m.maxprice AND b.date_time >= m.window_start AND b.date_time < m.window_end",
    ),
    query(
        "q8",
        "new users who sell",
        flink(135.0, 5.0),
        "SELECT p.id, p.name, p.window_start FROM (
             SELECT id, name, window_start, window_end FROM TUMBLE(person, date_time, INTERVAL '10 seconds')
             GROUP BY id, name, window_start, window_end) AS p
         JOIN (SELECT seller, window_start, window_end FROM TUMBLE(auction, date_time, INTERVAL '10 seconds')
               GROUP BY seller, window_start, window_end) AS a
           ON p.id = a.seller AND p.window_start = a.window_start AND p.window_end = a.window_end
         EMIT ON WINDOW CLOSE",
    ),
    query(
        "q9",
        "winning bids",
        None,
        "SELECT id, item_name, description, initial_bid, reserve, date_time, expires, seller, category, extra, auction, bidder, price,
                bid_date_time, bid_extra
         FROM (SELECT a.id, a.item_name, a.description, a.initial_bid, a.reserve, a.date_time, a.expires, a.seller, a.category, a.extra,
                      b.auction, b.bidder, b.price, b.date_time AS bid_date_time, b.extra AS bid_extra,
                      row_number() OVER (PARTITION BY a.id ORDER BY b.price DESC, b.date_time) AS n
               FROM auction AS a JOIN bid AS b ON a.id = b.auction
               WHERE b.date_time BETWEEN a.date_time AND a.expires) AS bids
         WHERE n <= 1",
    ),
    query(
        "q10",
        "by day and minute",
        None,
        "SELECT auction, bidder, price, date_time, extra, to_char(date_time, 'YYYY-MM-DD') AS day, to_char(date_time, 'HH24:MI') AS minute
         FROM bid",
    ),
    query(
        "q11",
        "sessions of a bidder",
        None,
        "SELECT bidder, count(*) AS bids, window_start, window_end
         FROM SESSION(bid PARTITION BY bidder, date_time, INTERVAL '10 seconds')
         GROUP BY bidder, window_start, window_end EMIT ON WINDOW CLOSE",
    ),
    query(
        "q12",
        "windows of processing time",
        None,
        "SELECT bidder, count(*) AS bids, window_start, window_end
         FROM TUMBLE(bid, proctime(), INTERVAL '10 seconds')
         GROUP BY bidder, window_start, window_end EMIT ON WINDOW CLOSE",
    ),
    Query {
        name: "q13",
        asks_for: "join with a table beside",
        flink: None,
        needs: "CREATE TABLE side_input (key BIGINT PRIMARY KEY, value TEXT);
                INSERT INTO side_input SELECT n, 'value ' || n FROM generate_series(0, 9999) AS t(n);",
        sql: "SELECT b.auction, b.bidder, b.price, b.date_time, s.value
              FROM (SELECT *, auction % 10000 AS side FROM bid) AS b
              JOIN side_input FOR SYSTEM_TIME AS OF proctime() AS s ON b.side = s.key",
    },
    query(
        "q14",
        "calculation",
        None,
        "SELECT auction, bidder, 0.908::double precision * price AS price,
                CASE WHEN extract(hour FROM date_time) BETWEEN 8 AND 18 THEN 'dayTime'
                     WHEN extract(hour FROM date_time) <= 6 OR extract(hour FROM date_time) >= 20 THEN 'nightTime'
                     ELSE 'otherTime' END AS bid_time_type,
                date_time, extra, length(extra) - length(replace(extra, 'c', '')) AS c_counts
         FROM bid WHERE 0.908::double precision * price > 1000000 AND 0.908::double precision * price < 50000000",
    ),
    query(
        "q15",
        "bidding statistics",
        None,
        "SELECT to_char(date_time, 'YYYY-MM-DD') AS day, count(*) AS total_bids,
                count(*) FILTER (WHERE price < 10000) AS rank1_bids,
                count(*) FILTER (WHERE price >= 10000 AND price < 1000000) AS rank2_bids,
                count(*) FILTER (WHERE price >= 1000000) AS rank3_bids,
                count(DISTINCT bidder) AS total_bidders,
                count(DISTINCT bidder) FILTER (WHERE price < 10000) AS rank1_bidders,
                count(DISTINCT bidder) FILTER (WHERE price >= 10000 AND price < 1000000) AS rank2_bidders,
                count(DISTINCT bidder) FILTER (WHERE price >= 1000000) AS rank3_bidders,
                count(DISTINCT auction) AS total_auctions,
                count(DISTINCT auction) FILTER (WHERE price < 10000) AS rank1_auctions,
                count(DISTINCT auction) FILTER (WHERE price >= 10000 AND price < 1000000) AS rank2_auctions,
                count(DISTINCT auction) FILTER (WHERE price >= 1000000) AS rank3_auctions
         FROM bid GROUP BY to_char(date_time, 'YYYY-MM-DD')",
    ),
    query(
        "q16",
        "channel statistics",
        None,
        "SELECT channel, to_char(date_time, 'YYYY-MM-DD') AS day, max(to_char(date_time, 'HH24:MI')) AS minute, count(*) AS total_bids,
                count(*) FILTER (WHERE price < 10000) AS rank1_bids,
                count(*) FILTER (WHERE price >= 10000 AND price < 1000000) AS rank2_bids,
                count(*) FILTER (WHERE price >= 1000000) AS rank3_bids,
                count(DISTINCT bidder) AS total_bidders,
                count(DISTINCT bidder) FILTER (WHERE price < 10000) AS rank1_bidders,
                count(DISTINCT bidder) FILTER (WHERE price >= 10000 AND price < 1000000) AS rank2_bidders,
                count(DISTINCT bidder) FILTER (WHERE price >= 1000000) AS rank3_bidders,
                count(DISTINCT auction) AS total_auctions,
                count(DISTINCT auction) FILTER (WHERE price < 10000) AS rank1_auctions,
                count(DISTINCT auction) FILTER (WHERE price >= 10000 AND price < 1000000) AS rank2_auctions,
                count(DISTINCT auction) FILTER (WHERE price >= 1000000) AS rank3_auctions
         FROM bid GROUP BY channel, to_char(date_time, 'YYYY-MM-DD')",
    ),
    query(
        "q17",
        "auction statistics",
        flink(121.0, 3.0),
        "SELECT auction, to_char(date_time, 'YYYY-MM-DD') AS day, count(*) AS total_bids,
                count(*) FILTER (WHERE price < 10000) AS rank1_bids,
                count(*) FILTER (WHERE price >= 10000 AND price < 1000000) AS rank2_bids,
                count(*) FILTER (WHERE price >= 1000000) AS rank3_bids,
                min(price) AS min_price, max(price) AS max_price, avg(price) AS avg_price, sum(price) AS sum_price
         FROM bid GROUP BY auction, to_char(date_time, 'YYYY-MM-DD')",
    ),
    query(
        "q18",
        "last bid of a bidder",
        flink(97.0, 3.0),
        "SELECT auction, bidder, price, channel, url, date_time, extra FROM (
             SELECT *, row_number() OVER (PARTITION BY bidder, auction ORDER BY date_time DESC) AS n FROM bid) AS bids
         WHERE n <= 1",
    ),
    query(
        "q19",
        "ten highest bids",
        None,
        "SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY auction ORDER BY price DESC) AS n FROM bid) AS bids WHERE n <= 10",
    ),
    query(
        "q20",
        "bids with their auctions",
        None,
        "SELECT b.auction, b.bidder, b.price, b.channel, b.url, b.date_time, b.extra, a.item_name, a.description, a.initial_bid, a.reserve,
                a.date_time AS auction_date_time, a.expires, a.seller, a.category, a.extra AS auction_extra
         FROM bid AS b JOIN auction AS a ON b.auction = a.id WHERE a.category = 10",
    ),
    query(
        "q21",
        "channel numbers",
        None,
        "SELECT auction, bidder, price, channel,
                CASE WHEN lower(channel) = 'apple' THEN '0' WHEN lower(channel) = 'google' THEN '1'
                     WHEN lower(channel) = 'facebook' THEN '2' WHEN lower(channel) = 'baidu' THEN '3'
                     ELSE (regexp_match(url, '(&|^)channel_id=([^&]*)'))[2] END AS channel_id
         FROM bid
         WHERE (regexp_match(url, '(&|^)channel_id=([^&]*)'))[2] IS NOT NULL
            OR lower(channel) IN ('apple', 'google', 'facebook', 'baidu')",
    ),
    query(
        "q22",
        "directories of a URL",
        None,
        "SELECT auction, bidder, price, channel, split_part(url, '/', 4) AS dir1, split_part(url, '/', 5) AS dir2,
                split_part(url, '/', 6) AS dir3 FROM bid",
    ),
    query(
        "tumble",
        "10 s, count by auction",
        flink(268.0, 5.0),
        "SELECT window_start, window_end, auction, count(*) AS num FROM TUMBLE(bid, date_time, INTERVAL '10 seconds')
         GROUP BY window_start, window_end, auction EMIT ON WINDOW CLOSE",
    ),
    query(
        "hop",
        "60 s by 1 s, count by auction",
        flink(49.0, 10.0),
        "SELECT window_start, window_end, auction, count(*) AS num
         FROM HOP(bid, date_time, INTERVAL '1 second', INTERVAL '60 seconds')
         GROUP BY window_start, window_end, auction EMIT ON WINDOW CLOSE",
    ),
];
