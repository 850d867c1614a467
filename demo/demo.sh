#!/usr/bin/env bash
# "make demo": a private server with event_store, real exchange rates in it, and the life of an order.
# Sets up everything itself and leaves nothing behind (test/lib.sh). Every SQL statement shown is the
# one that is run.
set -euo pipefail
# shellcheck source=test/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../test/lib.sh"

demo=$ES_TOP/demo
rates=$ES_TOP/test/data/fx-rates.ndjson.gz
rates_count=237267

# ------------------------------------------------------------------ telling and showing

chapter=0
chapter() {
    chapter=$((chapter + 1))
    printf '\n%s%d. %s%s\n' "$ES_BOLD" "$chapter" "$1" "$ES_PLAIN"
}

# A paragraph on stdin.
say() { printf '\n%s\n' "$(cat)"; }

psql() { "$ES_BIN/psql" -X -q -v ON_ERROR_STOP=1 -P footer=off "$@"; }

# show_sql TEXT
show_sql() {
    printf '\n'
    printf '%s\n' "$1" | sed "s/^/    $ES_BLUE/; s/\$/$ES_PLAIN/"
    printf '\n'
}

# sql [EXPECTED]: shows the SQL on stdin, runs it, shows the answer, which must contain EXPECTED.
sql() {
    local text answer
    text=$(cat)
    show_sql "$text"
    answer=$(psql <<<"$text" 2>&1) || { echo "$answer" >>"$ES_LOG"; es_fail 'this statement should have worked'; }
    if [[ -n ${1:-} && $answer != *"$1"* ]]; then
        echo "$answer" >>"$ES_LOG"
        es_fail "the answer should have contained $1"
    fi
    if [[ -n $answer ]]; then
        printf '%s\n' "$answer" | sed 's/^/    /'
    fi
}

# sql_refused SQLSTATE: the SQL on stdin must fail with this code.
sql_refused() {
    local text answer
    text=$(cat)
    show_sql "$text"
    if answer=$(psql -v VERBOSITY=verbose <<<"$text" 2>&1) || [[ $answer != *"ERROR:  $1: "* ]]; then
        echo "$answer" >>"$ES_LOG"
        es_fail "this statement should have failed with $1"
    fi
    grep -v '^LOCATION:' <<<"$answer" | fold -s -w 88 | sed "s/^/    $ES_RED/; s/\$/$ES_PLAIN/"
}

# progress DONE OF TEXT: one line that is drawn again on a terminal; without one, a line now and then.
progress_shown=-10
progress() {
    local width=30 filled text
    filled=$(($1 * width / $2))
    text=$(printf '    [%-*s] %7d of %d %s' $width "$(printf '%*s' $filled '' | tr ' ' '#')" "$1" "$2" "$3")
    if [[ -t 1 ]]; then
        printf '\r%s' "$text"
        [[ $1 -lt $2 ]] || printf '\n'
    elif [[ $1 -ge $2 ]] || ((SECONDS - progress_shown >= 3)); then
        printf '%s\n' "$text"
        progress_shown=$SECONDS
    fi
}

# ------------------------------------------------------------------ set-up

es_begin 'make demo'
start=$SECONDS
printf '%sevent_store: an event store inside PostgreSQL%s\n\n' "$ES_BOLD" "$ES_PLAIN"
echo 'First a private server, in a temporary directory that is removed at the end.'
echo
# shellcheck disable=SC2119 # no arguments meant
es_need
es_build with_llvm=no
printf 'starting a server ... '
es_start_server "timezone = 'UTC'" "shared_preload_libraries = 'event_store'"
echo ok

chapter 'A store'
say <<'END'
The extension holds the code. The data (one schema, event_store) is made by a function, so
that dropping the extension never drops an event.
END
sql <<'END'
CREATE EXTENSION event_store;
SELECT es_create_store();
END

# ------------------------------------------------------------------ import

chapter 'Fifty years of exchange rates'
say <<END
The shop in this story prices in dollars, and its customers pay in their own money. So the
store first gets the Federal Reserve's daily exchange rates, 1971 to 2024: one stream for
each currency, one event for each change. It is an ordinary COPY; sed makes the columns.
END
show_sql "$(cat "$demo/import.sql")"
# The line's fields always stand in this order. COPY wants backslashes doubled.
gzip -dc "$rates" |
    sed -E 's/\\/\\\\/g; s/^\{"stream":"([^"]*)","type":"([^"]*)","occurred_at":"([^"]*)","data":(.*)\}$/\1\t\2\t\4\t\3/' \
        >"$ES_TMP/rates"
import_start=$SECONDS
psql -c "$(<"$demo/import.sql")" <"$ES_TMP/rates" >"$ES_TMP/import.out" 2>&1 &
import=$!
while kill -0 "$import" 2>/dev/null; do
    rows=$(psql -At -c 'SELECT tuples_processed FROM pg_stat_progress_copy' 2>/dev/null) || rows=
    [[ -z $rows || $rows -ge $rates_count ]] || progress "$rows" "$rates_count" events
    sleep 0.2
done
wait "$import" || { cat "$ES_TMP/import.out" >>"$ES_LOG"; es_fail 'the import failed'; }
progress "$rates_count" "$rates_count" "events, $((SECONDS - import_start)) s"
sql "$rates_count" <<'END'
SELECT count(*) AS streams, sum(version) AS events FROM event_store.streams;
END

# ------------------------------------------------------------------ an order

chapter 'An order'
say <<'END'
Thursday 23 June 2016, the evening of the Brexit referendum. Alice in London puts a desk and
a lamp for 740 dollars into her cart. Expected version 0 says: this stream must be new.
(occurred_at is when it happened; when it was recorded, the store writes down itself.)
END
sql <<'END'
SELECT * FROM es_append('order-1001', 0, 'CartFilled',
    '{"customer": "Alice", "currency": "GBP", "items": [
        {"sku": "desk", "usd": 592.00}, {"sku": "lamp", "usd": 148.00}]}',
    occurred_at => '2016-06-23 20:15+00');
END
say <<'END'
On Friday she orders and pays: two events in one call, both or none. Expected version 1
says: the cart that I have read is still all there is.
END
sql <<'END'
SELECT * FROM es_append('order-1001', 1, '[
    {"type": "OrderPlaced", "occurred_at": "2016-06-24 18:02+00",
     "data": {"items": [{"sku": "desk", "usd": 592.00}, {"sku": "lamp", "usd": 148.00}]}},
    {"type": "PaymentReceived", "occurred_at": "2016-06-24 18:04+00",
     "data": {"usd": 740.00, "method": "card", "country": "GB"}}]');
END

chapter 'Two people, one order: a version conflict'
say <<'END'
Two clerks have the order open, at the version that both have read:
END
sql 3 <<'END'
SELECT es_stream_version('order-1001');
END
say <<'END'
The first ships it.
END
sql <<'END'
SELECT version, position FROM es_append('order-1001', 3, 'OrderShipped',
    '{"parcel": "GB-1"}', occurred_at => '2016-06-27 09:30+00');
END
say <<'END'
The second tries to ship it again. Nobody waited for a lock, yet the second parcel is refused:
END
sql_refused YE001 <<'END'
SELECT version, position FROM es_append('order-1001', 3, 'OrderShipped',
    '{"parcel": "GB-2"}', occurred_at => '2016-06-27 09:31+00');
END
say <<'END'
An application reads what is new, decides again, and tries again or tells its user.
END

chapter 'A retry that does no harm'
say <<'END'
The lamp came broken; the shop refunds it. An idempotency key names the request.
END
sql <<'END'
SELECT * FROM es_append('order-1001', 4, 'Refunded', '{"sku": "lamp", "usd": 148.00}',
    occurred_at => '2016-07-06 18:40+00', idempotency_key => 'refund-lamp');
END
say <<'END'
The answer got lost on the way, so the client sends the same request again. It is answered as
the first one was, with replayed = t. Alice is paid once.
END
sql '| t' <<'END'
SELECT * FROM es_append('order-1001', 4, 'Refunded', '{"sku": "lamp", "usd": 148.00}',
    occurred_at => '2016-07-06 18:40+00', idempotency_key => 'refund-lamp');
END

chapter 'What happened to order 1001?'
sql Refunded <<'END'
SELECT version, event_type, to_char(occurred_at, 'YYYY-MM-DD HH24:MI') AS occurred_at,
       left(data::text, 40) AS data
FROM es_read('order-1001');
END

# ------------------------------------------------------------------ questions

chapter 'What was the rate when the customer put it in the cart?'
say <<'END'
Nobody thought of storing it with the order, and nobody had to: both histories are there. For
each event of the order, the last rate published before it:
END
sql 1.48 <"$demo/rate.sql"
say <<'END'
Overnight the pound fell by eight percent. The shop can show Alice the 500 pounds that she saw.
END

# ------------------------------------------------------------------ projections

# catch_up QUERY TEXT: draws the number that the query gives until it is all of the rates; no number: it is over.
catch_up() {
    local seen from=$SECONDS
    echo
    while seen=$(psql -At -c "$1") && [[ -n $seen && $seen -lt $rates_count ]]; do
        progress "$seen" "$rates_count" events
        sleep 0.1
    done
    progress "$rates_count" "$rates_count" "events, $((SECONDS - from)) s"
}

chapter 'Tables for reports: projections'
say <<'END'
Reports want tables. A projection is SQL that sees new events as rows of new_events and keeps
tables up to date; background workers run it, each event exactly once. Here are the lowest and
the highest rate of each month. It begins with the first event of the store:
END
sql <"$demo/rate_by_month.sql"
catch_up "SELECT events FROM event_store.projection_status WHERE name = 'rate_by_month'"
sql 1.3217 <<'END'
SELECT * FROM rate_by_month
WHERE currency = 'GBP' AND month BETWEEN '2016-05-01' AND '2016-07-01' ORDER BY month;
END
say <<'END'
And what was paid, by country:
END
sql <<'END'
CREATE TABLE sales (country text PRIMARY KEY, orders bigint NOT NULL, usd numeric NOT NULL);
SELECT es_create_projection('sales', tables => '{sales}', event_types => '{PaymentReceived}', handler => $$
    INSERT INTO sales AS s
    SELECT data->>'country', count(*), sum((data->>'usd')::numeric) FROM new_events GROUP BY 1
    ON CONFLICT (country) DO UPDATE SET orders = s.orders + EXCLUDED.orders, usd = s.usd + EXCLUDED.usd
$$);
END
say <<'END'
Bruno in Milan buys a lamp. A projection is some milliseconds behind; whoever wants to see what
he has just written waits for the position that es_append returned:
END
sql 'IT' <<'END'
SELECT position FROM es_append('order-1002', 0, '[
    {"type": "OrderPlaced", "data": {"items": [{"sku": "lamp", "usd": 148.00}]}},
    {"type": "PaymentReceived", "data": {"usd": 148.00, "method": "card", "country": "IT"}}]') \gset
SELECT es_wait_for_projection('sales', :position);
SELECT * FROM sales ORDER BY country;
END
sql running <<'END'
SELECT name, status, lag_events, events, quarantined_streams FROM event_store.projection_status;
END

chapter 'Another report: a rebuild'
say <<'END'
Now the report shall have the number of changes too. The tables are built anew beside the live
ones, from 1971 on, while readers go on with the old ones:
END
sql <<'END'
ALTER TABLE rate_by_month ADD COLUMN changes bigint;
SELECT es_rebuild_projection('rate_by_month', $$
    INSERT INTO rate_by_month AS r
    SELECT data->>'currency', date_trunc('month', occurred_at)::date,
           min((data->>'rate')::numeric), max((data->>'rate')::numeric), count(*)
    FROM new_events GROUP BY 1, 2
    ON CONFLICT (currency, month) DO UPDATE SET lowest = least(r.lowest, EXCLUDED.lowest),
        highest = greatest(r.highest, EXCLUDED.highest), changes = r.changes + EXCLUDED.changes
$$);
SELECT name, state, percent FROM event_store.rebuild_progress;
END
progress_shown=-10
catch_up "SELECT events FROM event_store.rebuild_progress WHERE name = 'rate_by_month'"
say <<'END'
One transaction has applied the differences. It is still the same table, with its views and
grants:
END
sql 22 <<'END'
SELECT * FROM rate_by_month
WHERE currency = 'GBP' AND month BETWEEN '2016-05-01' AND '2016-07-01' ORDER BY month;
END

chapter 'All events, in order'
say <<'END'
Whoever keeps other tables or systems up to date reads the log by position and remembers the
last position seen. Positions have gaps, but a reader never skips an event that was still
being written. Filters work inside the scan (this one passes by 237,267 rates):
END
sql CartFilled <<'END'
SELECT position, stream, version, event_type
FROM es_read_all(after_position => 0, max_count => 3, categories => ARRAY['order']);
END
say <<'END'
It need not ask all the time: the worker notifies whoever listens.
END
sql <<'END'
LISTEN event_store;
SELECT version, position FROM es_append('order-1002', 2, 'OrderShipped', '{"parcel": "IT-1"}');
SELECT pg_sleep(0.2);
END

chapter 'What is recorded stays'
sql_refused YE005 <<'END'
DELETE FROM event_store.log;    -- as superuser
END

chapter 'How it is stored'
say <<'END'
Events lie in partitions by position, made ahead of need; old ones can be archived.
END
sql <<'END'
SELECT name, from_position, to_position, pg_size_pretty(bytes) AS size
FROM event_store.partitions;
END

cat <<END

${ES_BOLD}That was event_store, in $((SECONDS - start)) seconds.${ES_PLAIN} The server is gone now, and nothing was installed into
your PostgreSQL. To do that: make && make install, then CREATE EXTENSION event_store (README.md).
END
