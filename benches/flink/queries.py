"""The queries of benches/nexmark/queries.rs in Flink's SQL, with the same meaning.

    the source's columns ──▶ views person, auction, bid ──▶ what a query needs before ──▶ the query
"""

from dataclasses import dataclass

# Flink's JSON reads times as text only. Milliseconds since 1970 are numbers to it, and times by a computed column.
SOURCE = """CREATE TEMPORARY TABLE nexmark (
    event_type INT, id BIGINT, name STRING, email_address STRING, credit_card STRING, city STRING, state STRING,
    item_name STRING, description STRING, initial_bid BIGINT, reserve BIGINT, expires BIGINT, seller BIGINT, category BIGINT,
    auction BIGINT, bidder BIGINT, price BIGINT, channel STRING, url STRING, date_time BIGINT, extra STRING,
    happened AS CAST(TO_TIMESTAMP_LTZ(date_time, 3) AS TIMESTAMP(3)),
    ends AS CAST(TO_TIMESTAMP_LTZ(expires, 3) AS TIMESTAMP(3)),
    WATERMARK FOR happened AS happened - INTERVAL '4' SECOND
) WITH ('connector' = 'filesystem', 'path' = '{path}', 'format' = 'json')"""

VIEWS = [
    "CREATE TEMPORARY VIEW person AS SELECT id, name, email_address, credit_card, city, state, happened AS date_time, extra"
    " FROM nexmark WHERE event_type = 0",
    "CREATE TEMPORARY VIEW auction AS SELECT id, item_name, description, initial_bid, reserve, happened AS date_time,"
    " ends AS expires, seller, category, extra FROM nexmark WHERE event_type = 1",
    "CREATE TEMPORARY VIEW bid AS SELECT auction, bidder, price, channel, url, happened AS date_time, extra"
    " FROM nexmark WHERE event_type = 2",
]


@dataclass(frozen=True)
class Query:
    sql: str
    # What has to be there before.
    needs: str = ""
    # Why Flink does not run it.
    not_run: str = ""


def statistics(keys: str) -> str:
    """Of q15 and q16: bids, bidders and auctions, all and by three ranks of price."""
    ranks = ["price < 10000", "price >= 10000 AND price < 1000000", "price >= 1000000"]
    calls = [("count(*)", "bids"), ("count(DISTINCT bidder)", "bidders"), ("count(DISTINCT auction)", "auctions")]
    columns = [keys]
    for call, what in calls:
        columns.append(f"{call} AS total_{what}")
        columns += [f"{call} FILTER (WHERE {rank}) AS rank{n}_{what}" for n, rank in enumerate(ranks, 1)]
    return ", ".join(columns)


# A bid within the life of its auction, the best one of each first.
BIDS_BY_RANK = """SELECT a.id, a.item_name, a.description, a.initial_bid, a.reserve, a.date_time, a.expires, a.seller, a.category, a.extra,
        b.auction, b.bidder, b.price, b.date_time AS bid_date_time, b.extra AS bid_extra,
        row_number() OVER (PARTITION BY a.id ORDER BY b.price DESC, b.date_time) AS n
    FROM auction AS a JOIN bid AS b ON a.id = b.auction WHERE b.date_time BETWEEN a.date_time AND a.expires"""

QUERIES = {
    "q0": Query("SELECT auction, bidder, price, date_time, extra FROM bid"),
    "q1": Query("SELECT auction, bidder, 0.908E0 * price AS price, date_time, extra FROM bid"),
    "q2": Query("SELECT auction, price FROM bid WHERE MOD(auction, 123) = 0"),
    "q3": Query(
        """SELECT p.name, p.city, p.state, a.id FROM auction AS a JOIN person AS p ON a.seller = p.id
           WHERE a.category = 10 AND (p.state = 'or' OR p.state = 'id' OR p.state = 'ca')"""
    ),
    "q4": Query(
        """SELECT category, avg(final) AS average FROM (
               SELECT max(b.price) AS final, a.category FROM auction AS a JOIN bid AS b ON a.id = b.auction
               WHERE b.date_time BETWEEN a.date_time AND a.expires GROUP BY a.id, a.category) AS q
           GROUP BY category"""
    ),
    "q5": Query(
        """SELECT c.window_start, c.auction, c.num FROM counts AS c
           JOIN (SELECT window_start, window_end, max(num) AS maxn FROM counts GROUP BY window_start, window_end) AS m
             ON c.window_start = m.window_start AND c.window_end = m.window_end AND c.num >= m.maxn""",
        needs="""CREATE TEMPORARY VIEW counts AS SELECT window_start, window_end, auction, count(*) AS num
            FROM TABLE(HOP(TABLE bid, DESCRIPTOR(date_time), INTERVAL '2' SECOND, INTERVAL '10' SECOND))
            GROUP BY window_start, window_end, auction""",
    ),
    "q6": Query(
        f"""SELECT seller, avg(price) OVER (PARTITION BY seller ORDER BY bid_date_time ROWS BETWEEN 10 PRECEDING AND CURRENT ROW) AS average
            FROM ({BIDS_BY_RANK}) AS won WHERE n <= 1""",
        not_run="bounded OVER windows of Flink take only rows that never change, by time",
    ),
    "q7": Query(
        """SELECT b.auction, b.price, b.bidder, b.date_time, b.extra FROM bid AS b
           JOIN (SELECT max(price) AS maxprice, window_start, window_end
                 FROM TABLE(TUMBLE(TABLE bid, DESCRIPTOR(date_time), INTERVAL '10' SECOND)) GROUP BY window_start, window_end) AS m
             ON b.price = m.maxprice AND b.date_time >= m.window_start AND b.date_time < m.window_end"""
    ),
    "q8": Query(
        """SELECT p.id, p.name, p.window_start FROM (
               SELECT id, name, window_start, window_end FROM TABLE(TUMBLE(TABLE person, DESCRIPTOR(date_time), INTERVAL '10' SECOND))
               GROUP BY id, name, window_start, window_end) AS p
           JOIN (SELECT seller, window_start, window_end FROM TABLE(TUMBLE(TABLE auction, DESCRIPTOR(date_time), INTERVAL '10' SECOND))
                 GROUP BY seller, window_start, window_end) AS a
             ON p.id = a.seller AND p.window_start = a.window_start AND p.window_end = a.window_end"""
    ),
    "q9": Query(
        f"""SELECT id, item_name, description, initial_bid, reserve, date_time, expires, seller, category, extra, auction, bidder, price,
                bid_date_time, bid_extra FROM ({BIDS_BY_RANK}) AS bids WHERE n <= 1"""
    ),
    "q10": Query(
        """SELECT auction, bidder, price, date_time, extra, DATE_FORMAT(date_time, 'yyyy-MM-dd') AS `day`,
                DATE_FORMAT(date_time, 'HH:mm') AS `minute` FROM bid"""
    ),
    "q11": Query(
        """SELECT bidder, count(*) AS bids, window_start, window_end
           FROM TABLE(SESSION(TABLE bid PARTITION BY bidder, DESCRIPTOR(date_time), INTERVAL '10' SECOND))
           GROUP BY bidder, window_start, window_end"""
    ),
    "q12": Query(
        """SELECT bidder, count(*) AS bids, window_start, window_end
           FROM TABLE(TUMBLE(TABLE bid_now, DESCRIPTOR(now_time), INTERVAL '10' SECOND)) GROUP BY bidder, window_start, window_end""",
        needs="CREATE TEMPORARY VIEW bid_now AS SELECT *, PROCTIME() AS now_time FROM bid",
    ),
    "q13": Query(
        """SELECT b.auction, b.bidder, b.price, b.date_time, s.`value`
           FROM (SELECT *, MOD(auction, 10000) AS side, PROCTIME() AS now_time FROM bid) AS b
           JOIN side_input FOR SYSTEM_TIME AS OF b.now_time AS s ON b.side = s.key""",
        not_run="no connector in Flink's package can be looked up, and it joins a table as of now in no other way",
    ),
    "q14": Query(
        """SELECT auction, bidder, 0.908E0 * price AS price,
                CASE WHEN EXTRACT(HOUR FROM date_time) BETWEEN 8 AND 18 THEN 'dayTime'
                     WHEN EXTRACT(HOUR FROM date_time) <= 6 OR EXTRACT(HOUR FROM date_time) >= 20 THEN 'nightTime'
                     ELSE 'otherTime' END AS bid_time_type,
                date_time, extra, CHAR_LENGTH(extra) - CHAR_LENGTH(REPLACE(extra, 'c', '')) AS c_counts
           FROM bid WHERE 0.908E0 * price > 1000000 AND 0.908E0 * price < 50000000"""
    ),
    "q15": Query(
        f"SELECT {statistics('`day`')} FROM (SELECT *, DATE_FORMAT(date_time, 'yyyy-MM-dd') AS `day` FROM bid) AS b GROUP BY `day`"
    ),
    "q16": Query(
        f"""SELECT {statistics("channel, `day`, max(DATE_FORMAT(date_time, 'HH:mm')) AS `minute`")}
            FROM (SELECT *, DATE_FORMAT(date_time, 'yyyy-MM-dd') AS `day` FROM bid) AS b GROUP BY channel, `day`"""
    ),
    "q17": Query(
        """SELECT auction, `day`, count(*) AS total_bids, count(*) FILTER (WHERE price < 10000) AS rank1_bids,
                count(*) FILTER (WHERE price >= 10000 AND price < 1000000) AS rank2_bids,
                count(*) FILTER (WHERE price >= 1000000) AS rank3_bids,
                min(price) AS min_price, max(price) AS max_price, avg(price) AS avg_price, sum(price) AS sum_price
           FROM (SELECT *, DATE_FORMAT(date_time, 'yyyy-MM-dd') AS `day` FROM bid) AS b GROUP BY auction, `day`"""
    ),
    "q18": Query(
        """SELECT auction, bidder, price, channel, url, date_time, extra FROM (
               SELECT *, row_number() OVER (PARTITION BY bidder, auction ORDER BY date_time DESC) AS n FROM bid) AS bids
           WHERE n <= 1"""
    ),
    "q19": Query(
        "SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY auction ORDER BY price DESC) AS n FROM bid) AS bids WHERE n <= 10"
    ),
    "q20": Query(
        """SELECT b.auction, b.bidder, b.price, b.channel, b.url, b.date_time, b.extra, a.item_name, a.description, a.initial_bid, a.reserve,
                a.date_time AS auction_date_time, a.expires, a.seller, a.category, a.extra AS auction_extra
           FROM bid AS b JOIN auction AS a ON b.auction = a.id WHERE a.category = 10"""
    ),
    "q21": Query(
        r"""SELECT auction, bidder, price, channel,
                CASE WHEN lower(channel) = 'apple' THEN '0' WHEN lower(channel) = 'google' THEN '1'
                     WHEN lower(channel) = 'facebook' THEN '2' WHEN lower(channel) = 'baidu' THEN '3'
                     ELSE REGEXP_EXTRACT(url, '(&|^)channel_id=([^&]*)', 2) END AS channel_id
           FROM bid
           WHERE REGEXP_EXTRACT(url, '(&|^)channel_id=([^&]*)', 2) IS NOT NULL
              OR lower(channel) IN ('apple', 'google', 'facebook', 'baidu')"""
    ),
    "q22": Query(
        """SELECT auction, bidder, price, channel, SPLIT_INDEX(url, '/', 3) AS dir1, SPLIT_INDEX(url, '/', 4) AS dir2,
                SPLIT_INDEX(url, '/', 5) AS dir3 FROM bid"""
    ),
    "tumble": Query(
        """SELECT window_start, window_end, auction, count(*) AS num
           FROM TABLE(TUMBLE(TABLE bid, DESCRIPTOR(date_time), INTERVAL '10' SECOND)) GROUP BY window_start, window_end, auction"""
    ),
    "hop": Query(
        """SELECT window_start, window_end, auction, count(*) AS num
           FROM TABLE(HOP(TABLE bid, DESCRIPTOR(date_time), INTERVAL '1' SECOND, INTERVAL '60' SECOND))
           GROUP BY window_start, window_end, auction"""
    ),
}
