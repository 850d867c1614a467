# Real data: 541,909 invoice lines, 22,190 orders and 237,267 exchange rates go in through COPY and INSERT
# and come out equal, and the store answers what was computed from the raw sources: by reading and by folding.
#
# The exchange rates are in test/data. The retail files may not be shipped: they are used where the
# directory ../shared/data is beside the checkout (or where ES_SHARED says).
use strict;
use warnings;

use Cwd;
use File::Basename;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $source = dirname(Cwd::abs_path(__FILE__)) . '/..';
my $shared = $ENV{ES_SHARED} // ($ENV{ES_TOP} // "$source/..") . '/../shared';
my $fx_file = "$source/data/fx-rates.ndjson.gz";

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf',
	"autovacuum = off\nmax_wal_size = 4GB\nshared_buffers = 256MB\nwork_mem = 64MB\njit = off");
$node->start;
my $db = 'postgres';
$node->safe_psql($db, q[
	CREATE EXTENSION event_store;
	SELECT es_create_store();
	CREATE UNLOGGED TABLE raw (n bigserial, stream text, type text, occurred_at timestamptz, data jsonb, part text)]);

# A line of the files, {"stream":"...","type":"...","occurred_at":"...","data":{...}}, turned into a row of
# COPY's text format.
my $row = q[gzip -dc '%s' | LC_ALL=C sed -e 's/\\\\/\\\\\\\\/g' -e 's/^{"stream":"//' -e 's/","type":"/\t/' ]
	. q[-e 's/","occurred_at":"/\t/' -e 's/","data":/\t/' -e 's/}$//'];

# load(PART, FILE): the raw lines, in order, for comparison.
sub load
{
	my ($part, $file) = @_;
	my $program = sprintf($row, $file) =~ s/'/''/gr;
	return "ALTER TABLE raw ALTER part SET DEFAULT '$part'; COPY raw (stream, type, occurred_at, data) FROM PROGRAM '$program'; ANALYZE raw";
}

sub timed
{
	my ($sql) = @_;
	my $start = time;
	my $out = $node->safe_psql($db, $sql);
	return ($out, time - $start);
}

# Compares the events after a position with a part of the raw lines: every column that the file has, in
# order; data as text, so that 1.0 is not 1. The answer is the number of differences and of events.
sub differences
{
	my ($part, $after) = @_;
	return $node->safe_psql($db, qq[
		SELECT count(*) FILTER (WHERE (e.stream, e.event_type, e.occurred_at, e.data::text)
				IS DISTINCT FROM (r.stream, r.type, r.occurred_at, r.data::text)), count(e.position)
		FROM (SELECT row_number() OVER () AS i, x.* FROM es_read_all($after, NULL) x) e
		FULL JOIN (SELECT row_number() OVER (ORDER BY n) AS i, * FROM raw WHERE part = '$part') r USING (i)]);
}

# Compares every stream of a part, read one by one, with the raw lines. The answer is the number of
# differences, of events, of streams, and of streams whose version is not their number of lines.
sub stream_differences
{
	my ($part) = @_;
	return $node->safe_psql($db, qq[
		WITH s AS MATERIALIZED (SELECT stream, count(*) AS lines FROM raw WHERE part = '$part' GROUP BY stream),
		r AS MATERIALIZED (SELECT stream, row_number() OVER (PARTITION BY stream ORDER BY n) AS version, type, data FROM raw WHERE part = '$part'),
		e AS MATERIALIZED (SELECT e.* FROM s, LATERAL es_read(s.stream) e)
		SELECT count(*) FILTER (WHERE (e.event_type, e.data::text) IS DISTINCT FROM (r.type, r.data::text)), count(e.version),
			(SELECT count(*) FROM s), (SELECT count(*) FROM s WHERE es_stream_version(stream) <> lines)
		FROM e FULL JOIN r USING (stream, version)]);
}

sub highest { return $node->safe_psql($db, 'SELECT es_high_water_mark()') }

# ---- exchange rates, through COPY

my ($out, $seconds) = timed("SET client_min_messages = error; COPY event_store.import (stream, event_type, occurred_at, data) FROM PROGRAM '"
		. (sprintf($row, $fx_file) =~ s/'/''/gr) . "'");
note(sprintf 'COPY of 237,267 exchange rates: %.1f s', $seconds);
$node->safe_psql($db, load('fx', $fx_file));
is($node->safe_psql($db, 'SELECT count(*), count(DISTINCT stream) FROM raw'), '237267|23', 'the file is what its description says');
is(differences('fx', 0), '0|237267', 'exchange rates: read back equal');
is(stream_differences('fx'), '0|237267|23|0', 'exchange rates: equal stream by stream');
is($node->safe_psql($db, q[SELECT event_type, count(*), min(schema_version), count(metadata), count(DISTINCT event_id) = count(*) FROM event_store.events GROUP BY 1 ORDER BY 1]),
	"RateChanged|237244|1|0|t\nRateListed|23|1|0|t", 'exchange rates: types, and what the file does not have');

# What was the rate at the time? (From published rates, not from these events.)
my (%as_of, $time);
while (my $line = <DATA>)
{
	if ($line =~ /^(\S+)/) { $time = $1; next }
	$as_of{$time}{"fx-$1"} = $2 while $line =~ /(\w+)=(\S+)/g;
}
is(scalar(keys %as_of), 7, 'there are answers for seven days');
for my $at (sort keys %as_of)
{
	my $want = join "\n", map { "$_|$as_of{$at}{$_}" } sort keys %{ $as_of{$at} };
	is($node->safe_psql($db, qq[
			SELECT DISTINCT ON (stream COLLATE "C") stream, data->'rate' FROM es_read_category('fx', 0, NULL)
			WHERE occurred_at <= '$at' ORDER BY stream COLLATE "C", version DESC]),
		$want, "the rates of $at, by category");
	is($node->safe_psql($db, qq[
			SELECT s.stream, e.data->'rate' FROM event_store.streams s, LATERAL
				(SELECT data FROM es_read(s.stream, backward => true) WHERE occurred_at <= '$at' LIMIT 1) e
			WHERE s.category = 'fx' ORDER BY s.stream COLLATE "C"]),
		$want, "the rates of $at, by stream");
}

# ---- folds: the same answers as states, by SQL and by rules

# both(CATEGORY, SQL, RULES, TEST...): registers the one, then the other; runs the tests with each; the states of all
# streams must be equal, to the last digit.
sub both
{
	my ($category, $sql, $rules, $tests) = @_;
	my %states;
	for my $way ([ 'SQL', "fold => \$f\$$sql\$f\$" ], [ 'rules', "rules => \$r\$$rules\$r\$" ])
	{
		$node->safe_psql($db, "SELECT es_register_aggregate('$category', $way->[1])");
		my ($states, $seconds) = timed("SELECT count(*), sum(version), md5(string_agg(stream || state, ',' ORDER BY stream)) FROM es_load_category('$category')");
		my ($streams, $events) = split /\|/, $states;
		note(sprintf 'fold of %s by %s: %d events of %d streams in %.2f s, %d a second', $category, $way->[0], $events, $streams, $seconds, $events / $seconds);
		$states{ $way->[0] } = $states;
		$tests->("by $way->[0]");
	}
	is($states{rules}, $states{SQL}, "folds of $category: equal states");
	return;
}

both('fx', q[jsonb_build_object('rate', data->'rate', 'unit', data->'unit', 'as_of', occurred_at,
		'changes', coalesce((state->>'changes')::int, 0) + (event_type = 'RateChanged')::int,
		'high', CASE WHEN (data->'rate')::numeric <= (state->'high')::numeric THEN state->'high' ELSE data->'rate' END,
		'low', CASE WHEN (data->'rate')::numeric >= (state->'low')::numeric THEN state->'low' ELSE data->'rate' END)],
	q[{"RateListed": {"set": {"rate": "rate", "unit": "unit", "as_of": "$event.occurred_at"}, "max": {"high": "rate"}, "min": {"low": "rate"}, "count": {"changes": 0}},
		"RateChanged": {"set": {"rate": "rate", "unit": "unit", "as_of": "$event.occurred_at"}, "max": {"high": "rate"}, "min": {"low": "rate"}, "count": "changes"}}],
	sub {
		my ($way) = @_;
		for my $at (sort keys %as_of)
		{
			is($node->safe_psql($db, qq[
					SELECT s.stream, l.state->'rate' FROM event_store.streams s, LATERAL es_load_valid_at(s.stream, '$at') l
					WHERE s.category = 'fx' AND l.version > 0 ORDER BY s.stream COLLATE "C"]),
				join("\n", map { "$_|$as_of{$at}{$_}" } sort keys %{ $as_of{$at} }), "folds of fx $way: the rates of $at");
		}
		is($node->safe_psql($db, q[
				SELECT count(*), bool_and((l.state->>'changes')::int = l.version - 1 AND l.state->'rate' = e.data->'rate'
					AND (l.state->>'high')::numeric = e.high AND (l.state->>'low')::numeric = e.low)
				FROM es_load_category('fx') l JOIN (
					SELECT stream, max((data->>'rate')::numeric) AS high, min((data->>'rate')::numeric) AS low,
						(array_agg(data ORDER BY version DESC))[1] AS data FROM event_store.events WHERE category = 'fx' GROUP BY 1) e USING (stream)]),
			'23|t', "folds of fx $way: rates, highs and lows of now");
	});

# ---- retail

SKIP:
{
	my $data = "$shared/data";
	my $why = -d $data ? 'not readable' : 'not there';
	if (!-r "$data/retail-products.ndjson.gz" || !-r "$data/checks.json")
	{
		note("the retail files are $why: $data");
		skip "the retail data, which may not be shipped, is $why", 1;
	}
	$node->safe_psql($db, qq[CREATE TABLE checks AS SELECT pg_read_file('$data/checks.json')::jsonb AS c]);
	# check(NAME, QUERY): a query in which c is the answers; every row says t.
	my $check = sub {
		my ($name, $query) = @_;
		my $answer = $node->safe_psql($db, $query);
		my @rows = split /\n/, $answer;
		ok(@rows > 0 && !grep({ !/\|t$/ } @rows), $name) or diag($answer);
		return;
	};
	my $fx = join ',', map { my $at = $_; qq["$at": {] . join(',', map { qq["$_": $as_of{$at}{$_}] } keys %{ $as_of{$at} }) . '}' } keys %as_of;
	is($node->safe_psql($db, "SELECT c->'fx'->'as_of' = '{$fx}'::jsonb FROM checks"), 't', 'the answers about exchange rates are those of checks.json');

	my $after = highest();
	($out, $seconds) = timed("COPY event_store.import (stream, event_type, occurred_at, data) FROM PROGRAM '"
			. (sprintf($row, "$data/retail-products.ndjson.gz") =~ s/'/''/gr) . "'");
	note(sprintf 'COPY of 541,909 invoice lines: %.1f s, %d a second', $seconds, 541909 / $seconds);
	$node->safe_psql($db, load('products', "$data/retail-products.ndjson.gz"));
	is(differences('products', $after), '0|541909', 'products: 541,909 events read back equal');
	is(stream_differences('products'), '0|541909|4070|0', 'products: equal stream by stream');
	is($node->safe_psql($db, q[SELECT string_agg(event_type || ' ' || n, ', ' ORDER BY n DESC)
			FROM (SELECT event_type, count(*) AS n FROM event_store.events WHERE category IN ('product', 'charge') GROUP BY 1) t]),
		'ItemSold 527792, ItemReturned 8704, StockAdjusted 2467, ChargeBilled 2325, ChargeReversed 584, ItemGivenAway 34, BadDebtAdjusted 3',
		'products: the types');
	is($node->safe_psql($db, "SELECT count(*), min(event_type), max(event_type) FROM es_read_all($after, NULL, '{ItemReturned,NoSuchType}', '{product}')"),
		'8704|ItemReturned|ItemReturned', 'products: filtered by type and category');
	cmp_ok($node->safe_psql($db, q[SELECT es_stream_version('product-85123a')]), '>', 0, 'products: 85123a is not 85123A');

	# INSERT as well as COPY, the two together.
	$node->safe_psql($db, load('customers', "$data/retail-customers.ndjson.gz"));
	$node->safe_psql($db, load('orders', "$data/retail-export-orders.ndjson.gz"));
	$after = highest();
	$node->safe_psql($db, q[INSERT INTO event_store.import (stream, event_type, occurred_at, data)
		SELECT stream, type, occurred_at, data FROM raw WHERE part = 'customers' ORDER BY n]);
	is(differences('customers', $after), '0|22190', 'customers: read back equal');
	is(stream_differences('customers'), '0|22190|4372|0', 'customers: equal stream by stream');
	# The export orders are of the same customers: into streams of another category.
	$after = highest();
	$node->safe_psql($db, q[UPDATE raw SET stream = replace(stream, 'customer-', 'export-') WHERE part = 'orders';
		INSERT INTO event_store.import (stream, event_type, occurred_at, data)
		SELECT stream, type, occurred_at, data FROM raw WHERE part = 'orders' ORDER BY n]);
	is(differences('orders', $after), '0|2333', 'export orders: read back equal');
	is(stream_differences('orders'), '0|2333|422|0', 'export orders: equal stream by stream');

	# Answers.
	my $amount = q[sum((data->>'qty')::numeric * (data->>'unit_price')::numeric)];
	$check->('all lines and amounts', qq[
		SELECT n, amount, with_customer, n = (c->'retail'->>'lines')::bigint AND amount = (c->'retail'->>'amount_all')::numeric
			AND with_customer = (c->'retail'->>'amount_with_customer')::numeric
		FROM checks, (SELECT count(*) AS n, $amount AS amount, $amount FILTER (WHERE data ? 'customer') AS with_customer
			FROM es_read_all(0, NULL, NULL, '{product,charge}')) e]);
	$check->('the amount of the orders is that of the lines with a customer', q[
		SELECT amount, amount = (c->'retail'->>'amount_with_customer')::numeric
		FROM checks, (SELECT sum((data->>'amount')::numeric) AS amount FROM es_read_category('customer', 0, NULL)) e]);
	$check->('five customers, now and as of a day', q[
		SELECT k.key, e.*, e.orders = (k.value->>'orders')::int AND e.cancellations = (k.value->>'cancellations')::int
			AND e.net = (k.value->>'net_amount')::numeric
			AND e.net_before = (k.value->>'net_amount_before_2011-06-01T00:00:00Z')::numeric
			AND e.events_before = (k.value->>'events_before_2011-06-01T00:00:00Z')::int
		FROM checks, jsonb_each(c->'retail'->'customers') k, LATERAL (
			SELECT count(*) FILTER (WHERE event_type = 'OrderPlaced') AS orders, count(*) FILTER (WHERE event_type = 'OrderCancelled') AS cancellations,
				sum((data->>'amount')::numeric) AS net,
				coalesce(sum((data->>'amount')::numeric) FILTER (WHERE occurred_at < '2011-06-01T00:00:00Z'), 0) AS net_before,
				count(*) FILTER (WHERE occurred_at < '2011-06-01T00:00:00Z') AS events_before
			FROM es_read(k.key)) e]);
	$check->('five products, now and as of a day', qq[
		SELECT k.key, e.*, p.price, e.n = (k.value->>'events')::int AND e.units = (k.value->>'net_units')::int
			AND e.amount = (k.value->>'net_amount')::numeric
			AND e.units_before = (k.value->>'net_units_before_2011-06-01T00:00:00Z')::int
			AND p.price IS NOT DISTINCT FROM (k.value->>'last_price_above_zero_before_2011-06-01T00:00:00Z')::numeric
		FROM checks, jsonb_each(c->'retail'->'products') k, LATERAL (
			SELECT count(*) AS n, sum((data->>'qty')::int) AS units, $amount AS amount,
				coalesce(sum((data->>'qty')::int) FILTER (WHERE occurred_at < '2011-06-01T00:00:00Z'), 0) AS units_before
			FROM es_read(k.key)) e
			LEFT JOIN LATERAL (SELECT (data->>'unit_price')::numeric AS price FROM es_read(k.key, backward => true)
				WHERE occurred_at < '2011-06-01T00:00:00Z' AND (data->>'unit_price')::numeric > 0 LIMIT 1) p ON true]);
	$check->('sales by month', q[
		SELECT month, amount, amount = (c->'retail'->'amount_by_month_with_customer'->>month)::numeric
			AND (SELECT count(*) FROM jsonb_object_keys(c->'retail'->'amount_by_month_with_customer')) = count(*) OVER ()
		FROM checks, (SELECT to_char(occurred_at AT TIME ZONE 'UTC', 'YYYY-MM') AS month, sum((data->>'amount')::numeric) AS amount
			FROM event_store.events WHERE category = 'customer' GROUP BY 1) e]);
	$check->('exports by country', q[
		SELECT country, amount, amount = (c->'retail'->'amount_by_country_export'->>country)::numeric
			AND (SELECT count(*) FROM jsonb_object_keys(c->'retail'->'amount_by_country_export')) = count(*) OVER ()
		FROM checks, (SELECT data->>'country' AS country, sum((data->>'amount')::numeric) AS amount
			FROM es_read_category('export', 0, NULL) GROUP BY 1) e]);
	$check->('the lines of every export order add up', q[
		SELECT count(*), bool_and((data->>'amount')::numeric =
			(SELECT sum((l->>'qty')::numeric * (l->>'unit_price')::numeric) FROM jsonb_array_elements(data->'lines') l))
		FROM es_read_category('export', 0, NULL)]);
	$check->('customers seen before a day', q[
		SELECT n, n = (c->'retail'->>'customers_seen_before_2011-06-01T00:00:00Z')::int
		FROM checks, (SELECT count(DISTINCT stream) AS n FROM event_store.events
			WHERE category = 'customer' AND occurred_at < '2011-06-01T00:00:00Z') e]);

	# A reader in pages of 10,000 sees what one read shows.
	$check->('reading in pages', q[
		WITH RECURSIVE page(after, n, h) AS (
			SELECT 0::bigint, 0::bigint, 0::numeric
			UNION ALL
			SELECT r.last, r.n, page.h + r.h FROM page, LATERAL (
				SELECT max(position) AS last, count(*) AS n, sum(hashtext(stream || version)) AS h FROM es_read_all(page.after, 10000)) r
			WHERE r.n > 0)
		SELECT sum(n), max(after), sum(n) = (SELECT count(*) FROM event_store.log)
			AND (SELECT h FROM page ORDER BY after DESC LIMIT 1) = (SELECT sum(hashtext(stream || version)) FROM event_store.events)
		FROM page]);

	# Folds. A line's amount is made by an upcaster: rules do not multiply.
	my $day = '2011-06-01T00:00:00Z';
	my $before = "'$day'::timestamptz - interval '1 us'";
	$node->safe_psql($db, join ';', map { qq[SELECT es_register_upcaster('$_', 1, 'data || jsonb_build_object(''amount'', (data->''qty'')::numeric * (data->''unit_price'')::numeric)')] }
		qw(ItemSold ItemReturned StockAdjusted ItemGivenAway ChargeBilled ChargeReversed BadDebtAdjusted));
	my $line_sql = q[state || jsonb_build_object('events', coalesce((state->>'events')::int, 0) + 1, 'units', coalesce((state->>'units')::numeric, 0) + (data->'qty')::numeric,
			'amount', coalesce((state->>'amount')::numeric, 0) + (data->'amount')::numeric)
		|| CASE WHEN (data->'unit_price')::numeric > 0 THEN jsonb_build_object('price', data->'unit_price') ELSE '{}' END];
	my $line_rules = q[{"*": [{"count": "events", "add": {"units": "qty", "amount": "amount"}}, {"when": {"field": "unit_price", "above": 0}, "set": {"price": "unit_price"}}]}];
	both('product', $line_sql, $line_rules, sub {
		my ($way) = @_;
		$check->("folds $way: five products, now and as of a day", qq[
			SELECT k.key, l.state, b.state, (l.state->>'events')::int = (k.value->>'events')::int AND l.version = (k.value->>'events')::int
				AND (l.state->>'units')::numeric = (k.value->>'net_units')::numeric AND (l.state->>'amount')::numeric = (k.value->>'net_amount')::numeric
				AND coalesce((b.state->>'units')::numeric, 0) = (k.value->>'net_units_before_$day')::numeric
				AND (b.state->>'price')::numeric IS NOT DISTINCT FROM (k.value->>'last_price_above_zero_before_$day')::numeric
			FROM checks, jsonb_each(c->'retail'->'products') k, LATERAL es_load(k.key) l, LATERAL es_load_valid_at(k.key, $before) b]);
	});
	both('charge', $line_sql, $line_rules, sub {
		my ($way) = @_;
		$check->("folds $way: all lines and amounts", q[
			SELECT sum((state->>'events')::int), sum((state->>'events')::int) = max(c->'retail'->>'lines')::int AND sum((state->>'amount')::numeric) = max(c->'retail'->>'amount_all')::numeric
			FROM checks, (SELECT * FROM es_load_category('product') UNION ALL SELECT * FROM es_load_category('charge')) l]);
	});
	both('customer', q[state || jsonb_build_object('net', coalesce((state->>'net')::numeric, 0) + (data->'amount')::numeric)
			|| CASE event_type WHEN 'OrderPlaced' THEN jsonb_build_object('orders', coalesce((state->>'orders')::int, 0) + 1, 'last_order', occurred_at)
				ELSE jsonb_build_object('cancellations', coalesce((state->>'cancellations')::int, 0) + 1) END],
		q[{"OrderPlaced": {"add": {"net": "amount"}, "count": "orders", "set": {"last_order": "$event.occurred_at"}},
			"OrderCancelled": {"add": {"net": "amount"}, "count": "cancellations"}}],
		sub {
			my ($way) = @_;
			$check->("folds $way: five customers, now and as of a day", qq[
				SELECT k.key, l.state, b.state, coalesce((l.state->>'orders')::int, 0) = (k.value->>'orders')::int
					AND coalesce((l.state->>'cancellations')::int, 0) = (k.value->>'cancellations')::int AND (l.state->>'net')::numeric = (k.value->>'net_amount')::numeric
					AND coalesce((b.state->>'net')::numeric, 0) = (k.value->>'net_amount_before_$day')::numeric
					AND coalesce((b.state->>'orders')::int, 0) + coalesce((b.state->>'cancellations')::int, 0) = (k.value->>'events_before_$day')::int
				FROM checks, jsonb_each(c->'retail'->'customers') k, LATERAL es_load(k.key) l, LATERAL es_load_valid_at(k.key, $before) b]);
			$check->("folds $way: customers seen before a day", qq[
				SELECT count(*), count(*) = max(c->'retail'->>'customers_seen_before_$day')::int
				FROM checks, event_store.streams s, LATERAL es_load_valid_at(s.stream, $before) l WHERE s.category = 'customer' AND l.version > 0]);
			$check->("folds $way: the amount of all customers", q[
				SELECT sum((state->>'net')::numeric), sum((state->>'net')::numeric) = max(c->'retail'->>'amount_with_customer')::numeric FROM checks, es_load_category('customer')]);
		});
	both('export', q[state || jsonb_build_object('lines', coalesce((state->>'lines')::int, 0) + (data->>'line_count')::int,
			'countries', coalesce(state->'countries', '{}') || jsonb_build_object(data->>'country', coalesce((state->'countries'->>(data->>'country'))::numeric, 0) + (data->'amount')::numeric))],
		q[{"*": {"add": {"countries.{country}": "amount", "lines": "line_count"}}}],
		sub {
			my ($way) = @_;
			$check->("folds $way: exports by country", q[
				SELECT country, amount, amount = (c->'retail'->'amount_by_country_export'->>country)::numeric
					AND (SELECT count(*) FROM jsonb_object_keys(c->'retail'->'amount_by_country_export')) = count(*) OVER ()
				FROM checks, (SELECT e.key AS country, sum(e.value::numeric) AS amount FROM es_load_category('export') l, jsonb_each_text(l.state->'countries') e GROUP BY 1) e]);
		});
	$node->safe_psql($db, q[SELECT es_register_aggregate('customer', $$jsonb_set(state, ARRAY[left(to_jsonb(occurred_at)->>0, 7)],
		to_jsonb(coalesce((state->>left(to_jsonb(occurred_at)->>0, 7))::numeric, 0) + (data->'amount')::numeric))$$)]);
	$check->('folds: sales by month', q[
		SELECT month, amount, amount = (c->'retail'->'amount_by_month_with_customer'->>month)::numeric
			AND (SELECT count(*) FROM jsonb_object_keys(c->'retail'->'amount_by_month_with_customer')) = count(*) OVER ()
		FROM checks, (SELECT e.key AS month, sum(e.value::numeric) AS amount FROM es_load_category('customer') l, jsonb_each_text(l.state) e GROUP BY 1) e]);
}

$node->stop;
done_testing();

__DATA__
1971-08-16T23:59:59Z
  CAD=1.0098 DKK=7.4906 JPY=357.35 MYR=3.0531 NOK=7.0937 SEK=5.1593 CHF=4.0633 AUD=1.1246 NZD=1.1257
  GBP=2.4195
1985-09-20T23:59:59Z
  CAD=1.3759 CNY=2.9905 DKK=10.312 HKD=7.8145 INR=12.22 JPY=240.1 KRW=894.5 MYR=2.49 NOK=8.321
  SEK=8.378 ZAR=2.7778 SGD=2.2015 LKR=27.4725 CHF=2.342 TWD=40.52 THB=27.28 AUD=0.6985 NZD=0.533
  GBP=1.367
1992-09-17T23:59:59Z
  CAD=1.2176 CNY=5.5391 DKK=5.793 HKD=7.7305 INR=28.48 JPY=124.43 KRW=787.6 MYR=2.512 NOK=5.995
  SEK=5.459 ZAR=2.845 SGD=1.6005 LKR=44.05 CHF=1.295 TWD=25.294 THB=25.35 AUD=0.7317 NZD=0.5465
  GBP=1.7815
1999-01-04T23:59:59Z
  BRL=1.2074 CAD=1.5268 CNY=8.2793 DKK=6.307 HKD=7.7465 INR=42.6 JPY=112.15 KRW=1187.5 MYR=3.8
  MXN=9.831 NOK=7.496 SEK=8.02 ZAR=5.8675 SGD=1.6583 LKR=68.43 CHF=1.3666 TWD=32.13 THB=36.2
  AUD=0.6182 EUR=1.1812 NZD=0.534 GBP=1.6581 VES=0.5655
2008-07-22T23:59:59Z
  BRL=1.5841 CAD=1.0083 CNY=6.8248 DKK=4.7186 HKD=7.7959 INR=42.65 JPY=107.11 KRW=1014 MYR=3.235
  MXN=10.1259 NOK=5.096 SEK=5.9905 ZAR=7.492 SGD=1.3578 LKR=107.6 CHF=1.0283 TWD=30.34 THB=33.35
  AUD=0.9715 EUR=1.5811 NZD=0.7605 GBP=1.9941 VES=2.1446
2015-01-15T23:59:59Z
  BRL=2.6324 CAD=1.1932 CNY=6.187 DKK=6.41 HKD=7.7534 INR=62.06 JPY=116.95 KRW=1077.94 MYR=3.562
  MXN=14.592 NOK=7.6475 SEK=8.1431 ZAR=11.51 SGD=1.3291 LKR=131.4 CHF=0.893 TWD=31.65 THB=32.75
  AUD=0.8212 EUR=1.1598 NZD=0.7791 GBP=1.5161 VES=6.2842
2022-09-28T23:59:59Z
  BRL=5.3636 CAD=1.3648 CNY=7.199 DKK=7.682 HKD=7.8497 INR=81.61 JPY=144.15 KRW=1440.5 MYR=4.628
  MXN=20.305 NOK=10.7339 SEK=11.2409 ZAR=17.8625 SGD=1.4369 LKR=360.09 CHF=0.9756 TWD=31.75
  THB=37.96 AUD=0.6512 EUR=0.9681 NZD=0.5703 GBP=1.0832 VES=8.1215
