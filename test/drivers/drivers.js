// Calls the functions of event_store as applications do through two PostgreSQL drivers of Node, pg and
// postgres, and prints a line of TAP for each call: test/t/040_drivers.pl runs it, docs/append.md says what
// came of it. Needs the two packages (NODE_PATH) and a server (PGHOST, PGPORT, PGUSER, PGDATABASE).
'use strict';

const assert = require('node:assert');
const pg = require('pg');
const postgres = require('postgres');

let number = 0;
let failed = 0;

async function test(name, run) {
    number++;
    try {
        await run();
        console.log(`ok ${number} - ${name}`);
    } catch (error) {
        failed++;
        console.log(`not ok ${number} - ${name}`);
        console.log(String(error.stack).replace(/^/gm, '# '));
    }
}

// Runs what must fail and returns the error.
async function failure(promise) {
    try {
        await promise;
    } catch (error) {
        return error;
    }
    throw new Error('it did not fail');
}

const event = { n: 1, text: 'naïve ☃ \\ "quoted"', list: [1, { a: null }], half: 0.5 };
const events = [
    { type: 'Opened', data: { owner: 'Ada' } },
    { type: 'Deposited', data: { amount: 5 }, metadata: { correlation_id: 'c-1' } }
];
const twoAppends = (a, b) => [
    { stream: a, expected_version: 0, events: [{ type: 'Opened', data: { n: 1 } }] },
    { stream: b, expected_version: 0, events: { type: 'Opened' }, idempotency_key: null }
];

function checkWrongVersion(error, stream) {
    assert.strictEqual(error.code, 'YE001');
    assert.strictEqual(error.message, `wrong expected version of stream "${stream}"`);
    assert.match(error.detail, /is at version 1, expected version was 0 \(no stream\)\./);
    assert.match(error.hint, /Load the stream again/);
}

// ---------------------------------------------------------------- pg

async function testPg() {
    const client = new pg.Client();
    await client.connect();
    const one = async (sql, parameters) => (await client.query(sql, parameters)).rows[0];

    await test('pg: one event, untyped parameters, data as an object', async () => {
        const row = await one('SELECT * FROM es_append($1, $2, $3, $4)', ['pg-1', 0, 'Opened', event]);
        assert.strictEqual(row.version, '1');       // pg gives bigint as a string
        assert.match(row.position, /^\d+$/);
        assert.ok(row.recorded_at instanceof Date);
        assert.strictEqual(row.replayed, false);
        const back = await one('SELECT * FROM es_read($1)', ['pg-1']);
        assert.deepStrictEqual(back.data, event);
        assert.strictEqual(back.event_type, 'Opened');
        assert.strictEqual(back.metadata, null);
    });
    await test('pg: YE001 with detail and hint', async () => {
        checkWrongVersion(await failure(client.query('SELECT es_append($1, $2, $3, $4)', ['pg-1', 0, 'Opened', {}])), 'pg-1');
    });
    await test('pg: a mistyped field is undefined, and is refused', async () => {
        const loaded = { version: '1' };
        const error = await failure(client.query('SELECT es_append($1, $2, $3, $4)', ['pg-1', loaded.versoin, 'Changed', {}]));
        assert.strictEqual(error.code, '22004');
        assert.strictEqual(error.message, 'argument expected_version must not be NULL');
        assert.match(error.hint, /es_expect_any\(\)/);
        const appends = [{ stream: 'pg-1', expected_version: loaded.versoin, events: { type: 'Changed' } }];
        const other = await failure(client.query('SELECT es_append_multi($1)', [JSON.stringify(appends)]));
        assert.strictEqual(other.code, '22004');
        assert.match(other.hint, /"any"/);
        assert.strictEqual((await failure(client.query('SELECT es_append($1, $2, $3, $4)', ['pg-1', 1, 'Changed', undefined]))).code, '22004');
        assert.strictEqual((await one('SELECT es_stream_version($1) AS v', ['pg-1'])).v, '1');
    });
    await test('pg: data that is an array needs JSON.stringify', async () => {
        const error = await failure(client.query('SELECT es_append($1, $2, $3, $4)', ['pg-array', 0, 'Listed', [1, 'two']]));
        assert.strictEqual(error.code, '22P02');    // pg sends {"1","two"}, an SQL array
        await client.query('SELECT es_append($1, $2, $3, $4)', ['pg-array', 0, 'Listed', JSON.stringify([1, 'two'])]);
        assert.deepStrictEqual((await one('SELECT data FROM es_read($1)', ['pg-array'])).data, [1, 'two']);
    });
    await test('pg: all parameters of one event, by name', async () => {
        const id = '0190b2f0-0000-7000-8000-000000000001';
        const at = new Date('2024-02-29T12:00:00.000Z');
        const sql = 'SELECT * FROM es_append(stream => $1, expected_version => $2, event_type => $3, data => $4, metadata => $5, ' +
            'event_id => $6, occurred_at => $7, schema_version => $8, idempotency_key => $9)';
        const parameters = ['pg-2', -2, 'Opened', event, { user_id: 'ada' }, id, at, 3, 'key-1'];
        assert.strictEqual((await one(sql, parameters)).replayed, false);
        assert.strictEqual((await one(sql, parameters)).replayed, true);
        const back = await one('SELECT * FROM es_read($1)', ['pg-2']);
        assert.strictEqual(back.event_id, id);
        assert.deepStrictEqual(back.occurred_at, at);
        assert.strictEqual(back.schema_version, 3);
        assert.deepStrictEqual(back.metadata, { user_id: 'ada' });
    });
    await test('pg: several events, as JSON.stringify', async () => {
        const row = await one('SELECT * FROM es_append($1, $2, $3)', ['pg-3', 0, JSON.stringify(events)]);
        assert.strictEqual(row.version, '2');
    });
    await test('pg: several events, cast to jsonb', async () => {
        const row = await one('SELECT * FROM es_append($1, $2, $3::jsonb)', ['pg-3', 2, JSON.stringify(events)]);
        assert.strictEqual(row.version, '4');
    });
    await test('pg: several events in an envelope, an object', async () => {
        const envelope = { events, idempotency_key: 'pg-envelope' };
        assert.strictEqual((await one('SELECT * FROM es_append($1, $2, $3)', ['pg-3', 4, envelope])).version, '6');
        assert.strictEqual((await one('SELECT * FROM es_append($1, $2, $3)', ['pg-3', 4, envelope])).replayed, true);
    });
    await test('pg: a forgotten argument is answered with a hint', async () => {
        const error = await failure(client.query('SELECT es_append($1, $2, $3)', ['pg-3', 0, 'Opened']));
        assert.strictEqual(error.code, '22P02');
        assert.match(error.hint, /es_append\(stream, expected_version, event_type, data\)/);
    });
    await test('pg: es_append_multi', async () => {
        const { rows } = await client.query('SELECT * FROM es_append_multi($1)', [JSON.stringify(twoAppends('pg-4', 'pg-5'))]);
        assert.deepStrictEqual(rows.map((r) => [r.stream, r.version]), [['pg-4', '1'], ['pg-5', '1']]);
        checkWrongVersion(await failure(client.query('SELECT * FROM es_append_multi($1)', [JSON.stringify(twoAppends('pg-4', 'pg-6'))])), 'pg-4');
    });
    await test('pg: es_append_batch with arrays; JSON elements are objects', async () => {
        const row = await one('SELECT * FROM es_append_batch($1, $2, $3)', [['pg-7', 'pg-8', 'pg-7'], ['A', 'B', 'C'], [event, {}, { n: 3 }]]);
        assert.strictEqual(row.events, '3');
        const { rows } = await client.query('SELECT event_type, data FROM es_read($1)', ['pg-7']);
        assert.deepStrictEqual(rows, [{ event_type: 'A', data: event }, { event_type: 'C', data: { n: 3 } }]);
    });
    await test('pg: es_append_batch with named and NULL arrays', async () => {
        const row = await one('SELECT * FROM es_append_batch($1, $2, $3, $4, expected_versions => $5, idempotency_key => $6)',
            [['pg-9', 'pg-9'], ['A', 'B'], [{}, {}], null, [0, 0], 'pg-batch']);
        assert.strictEqual(row.events, '2');
    });
    await test('pg: es_read with untyped parameters', async () => {
        const { rows } = await client.query('SELECT version FROM es_read($1, $2, $3, $4)', ['pg-3', 5, 2, true]);
        assert.deepStrictEqual(rows.map((r) => r.version), ['5', '4']);
    });
    await test('pg: a subscription', async () => {
        await client.query('SELECT es_create_subscription($1, $2)', ['pg-sub', ['subscribed']]);
        await client.query('SELECT es_append_batch($1, $2, $3)',
            [['subscribed-1', 'subscribed-2', 'subscribed-3', 'subscribed-2'], ['A', 'B', 'C', 'D'], [{}, {}, {}, {}]]);
        const fetch = async (wait) => (await client.query('SELECT * FROM es_fetch($1, $2, 100, $3, $4)', ['pg-sub', 'node', '1 minute', wait])).rows;
        const rows = await fetch('20 s');
        assert.deepStrictEqual(rows.map((r) => r.event_type), ['A', 'B', 'C', 'D']);
        await client.query('SELECT es_ack($1, $2, $3)', ['pg-sub', rows[0].position, 'node']);
        await client.query('SELECT es_nack($1, $2, $3, $4)', ['pg-sub', rows[1].position, String(new Error('no')), 'node']);
        assert.deepStrictEqual((await fetch('0')).map((r) => r.event_type), ['C']);
        const error = await failure(client.query('SELECT es_ack($1, $2, $3)', ['pg-sub', rows[0].position, 'stranger']));
        assert.strictEqual(error.code, 'YE010');
    });
    await test('pg: es_read_category and es_read_all, a cursor and filters', async () => {
        const { rows } = await client.query('SELECT position, stream FROM es_read_category($1, $2, $3, $4)', ['pg', '0', 2, ['Opened']]);
        assert.strictEqual(rows.length, 2);
        const more = await client.query('SELECT stream FROM es_read_all($1, $2, categories => $3)', [rows[1].position, null, ['pg']]);
        assert.ok(more.rows.length > 5);
    });
    await test('pg: named prepared statements', async () => {
        for (let n = 10; n < 17; n++) {     // from the sixth on the server uses a generic plan
            const query = { name: 'append', text: 'SELECT * FROM es_append($1, $2, $3, $4)', values: [`pg-${n}`, 0, 'Opened', { n }] };
            assert.strictEqual((await client.query(query)).rows[0].version, '1');
        }
    });
    await client.end();
}

// ---------------------------------------------------------------- postgres

async function testPostgres() {
    const sql = postgres({ host: process.env.PGHOST, port: process.env.PGPORT, max: 1 });

    await test('postgres: one event, data as an object', async () => {
        const [row] = await sql`SELECT * FROM es_append(${'js-1'}, ${0}, ${'Opened'}, ${event})`;
        assert.strictEqual(row.version, '1');
        assert.ok(row.recorded_at instanceof Date);
        const [back] = await sql`SELECT * FROM es_read(${'js-1'})`;
        assert.deepStrictEqual(back.data, event);
    });
    await test('postgres: YE001 with detail and hint', async () => {
        checkWrongVersion(await failure(sql`SELECT es_append(${'js-1'}, ${0}, ${'Opened'}, ${{}})`), 'js-1');
    });
    await test('postgres: data that is an array', async () => {
        await sql`SELECT es_append(${'js-array'}, ${0}, ${'Listed'}, ${sql.json([1, 'two'])})`;
        const [back] = await sql`SELECT data FROM es_read(${'js-array'})`;
        assert.deepStrictEqual(back.data, [1, 'two']);
    });
    await test('postgres: all parameters of one event, by name', async () => {
        const id = '0190b2f0-0000-7000-8000-000000000002';
        const at = new Date('2024-02-29T12:00:00.000Z');
        const append = () => sql`SELECT * FROM es_append(stream => ${'js-2'}, expected_version => ${-2}, event_type => ${'Opened'}, data => ${event},
            metadata => ${{ user_id: 'ada' }}, event_id => ${id}, occurred_at => ${at}, schema_version => ${3}, idempotency_key => ${'key-1'})`;
        assert.strictEqual((await append())[0].replayed, false);
        assert.strictEqual((await append())[0].replayed, true);
        const [back] = await sql`SELECT * FROM es_read(${'js-2'})`;
        assert.strictEqual(back.event_id, id);
        assert.deepStrictEqual(back.occurred_at, at);
        assert.deepStrictEqual(back.metadata, { user_id: 'ada' });
    });
    await test('postgres: several events, as JSON.stringify', async () => {
        const [row] = await sql`SELECT * FROM es_append(${'js-3'}, ${0}, ${JSON.stringify(events)})`;
        assert.strictEqual(row.version, '2');
    });
    await test('postgres: several events, as sql.json', async () => {
        const [row] = await sql`SELECT * FROM es_append(${'js-3'}, ${2}, ${sql.json(events)})`;
        assert.strictEqual(row.version, '4');
    });
    await test('postgres: a string cast to jsonb is one JSON string', async () => {
        // The server says that the parameter is jsonb, so the driver stringifies the string again.
        const error = await failure(sql`SELECT es_append(${'js-3'}, ${4}, ${JSON.stringify(events)}::jsonb)`);
        assert.strictEqual(error.code, '22023');
        assert.strictEqual(error.message, 'events must be an object or an array of objects');
        const [row] = await sql`SELECT * FROM es_append(${'js-3'}, ${4}, ${events}::jsonb)`;
        assert.strictEqual(row.version, '6');
    });
    await test('postgres: a forgotten argument is answered with a hint', async () => {
        const error = await failure(sql`SELECT es_append(${'js-3'}, ${0}, ${'Opened'})`);
        assert.strictEqual(error.code, '22P02');
        assert.match(error.hint, /es_append\(stream, expected_version, event_type, data\)/);
    });
    await test('postgres: es_append_multi', async () => {
        const rows = await sql`SELECT * FROM es_append_multi(${twoAppends('js-4', 'js-5')})`;
        assert.deepStrictEqual(rows.map((r) => [r.stream, r.version]), [['js-4', '1'], ['js-5', '1']]);
        checkWrongVersion(await failure(sql`SELECT * FROM es_append_multi(${sql.json(twoAppends('js-4', 'js-6'))})`), 'js-4');
    });
    await test('postgres: es_append_batch with arrays; JSON elements are objects', async () => {
        const [row] = await sql`SELECT * FROM es_append_batch(${['js-7', 'js-8', 'js-7']}, ${['A', 'B', 'C']}, ${[event, {}, { n: 3 }]})`;
        assert.strictEqual(row.events, '3');
        const rows = await sql`SELECT event_type, data FROM es_read(${'js-7'})`;
        assert.deepStrictEqual([...rows], [{ event_type: 'A', data: event }, { event_type: 'C', data: { n: 3 } }]);
    });
    await test('postgres: es_read, es_read_category and es_read_all', async () => {
        const rows = await sql`SELECT version FROM es_read(${'js-3'}, ${5}, ${2}, ${true})`;
        assert.deepStrictEqual(rows.map((r) => r.version), ['5', '4']);
        const category = await sql`SELECT position FROM es_read_category(${'js'}, ${'0'}, ${2}, ${['Opened']})`;
        assert.strictEqual(category.length, 2);
        const all = await sql`SELECT stream FROM es_read_all(${category[1].position}, ${null}, categories => ${['js']})`;
        assert.ok(all.length > 5);
    });
    await test('postgres: a transaction', async () => {
        const error = await failure(sql.begin(async (tx) => {
            await tx`SELECT es_append(${'js-9'}, ${0}, ${'Opened'}, ${{}})`;
            await tx`SELECT es_append(${'js-1'}, ${0}, ${'Opened'}, ${{}})`;
        }));
        checkWrongVersion(error, 'js-1');
        const [row] = await sql`SELECT es_stream_version(${'js-9'}) AS version`;
        assert.strictEqual(row.version, '0');
    });
    await sql.end();

    // Behind a pooler without prepared statements.
    const simple = postgres({ host: process.env.PGHOST, port: process.env.PGPORT, max: 1, prepare: false });
    await test('postgres: without prepared statements', async () => {
        const [row] = await simple`SELECT * FROM es_append(${'js-10'}, ${0}, ${'Opened'}, ${event})`;
        assert.strictEqual(row.version, '1');
    });
    await simple.end();
}

testPg().then(testPostgres).then(() => {
    console.log(`1..${number}`);
    process.exitCode = failed ? 1 : 0;
}).catch((error) => {
    console.log(`Bail out! ${error.stack}`);
    process.exitCode = 1;
});
