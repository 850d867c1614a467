// An account of N events, loaded from Node: by es_load, by Emmett's client, and by pages of Message DB folded here.
// Prints "name ms" for each load; every round runs all, in a new order. All must compute the same state.
//
//     node load.mjs HOST EVENTS ROUNDS        run where the packages are installed
import pg from 'pg';
import { getPostgreSQLEventStore } from '@event-driven-io/emmett-postgresql';

const [host, events, rounds] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])];
const database = (name) => `postgresql://postgres@localhost/${name}?host=${encodeURIComponent(host)}`;

const event = (i) => ({
    type: i === 0 ? 'Opened' : i % 3 === 0 ? 'Withdrawn' : 'Deposited',
    data: i === 0 ? { owner: 'alice' } : { amount: i % 1000, currency: 'EUR', reference: `transfer-${i}`, note: 'standing order' },
});
const initial = () => ({ balance: 0, deposits: 0, withdrawals: 0 });
const evolve = (state, { type, data }) => {
    switch (type) {
        case 'Opened': return { ...state, owner: data.owner };
        case 'Deposited': return { ...state, balance: state.balance + data.amount, deposits: state.deposits + 1 };
        case 'Withdrawn': return { ...state, balance: state.balance - data.amount, withdrawals: state.withdrawals + 1 };
        default: return state;
    }
};

const ours = new pg.Client({ connectionString: database('event_store') });
const messages = new pg.Client({ connectionString: database('message_store') });
await ours.connect();
await messages.connect();
await messages.query('SET search_path = message_store, public');
const emmett = getPostgreSQLEventStore(database('emmett'));

const all = Array.from({ length: events }, (_, i) => event(i));
for (let i = 0; i < events; i += 1000) {
    const part = all.slice(i, i + 1000);
    await ours.query('SELECT es_append($1, $2, $3::jsonb)', ['account-1', i, JSON.stringify(part)]);
    await emmett.appendToStream('account-1', part);
    await messages.query(
        `SELECT count(write_message(gen_random_uuid()::text, 'account-1', e->>'type', e->'data') ORDER BY n)
         FROM jsonb_array_elements($1::jsonb) WITH ORDINALITY AS x (e, n)`, [JSON.stringify(part)]);
}
for (const [client, tables] of [[ours, 'event_store.log'], [messages, 'message_store.messages']])
    await client.query(`VACUUM ANALYZE ${tables}`);

const ways = {
    'es_load, rules': async () => (await ours.query({ name: 'load', text: 'SELECT state FROM es_load($1)', values: ['account-1'] })).rows[0].state,
    'Emmett, aggregateStream': async () => (await emmett.aggregateStream('account-1', { evolve, initialState: initial })).state,
    'Message DB, pages of 1,000 folded': async () => {
        let state = initial();
        for (let position = 0; ;) {
            const { rows } = await messages.query({ name: 'page', text: 'SELECT position, type, data FROM get_stream_messages($1, $2, $3)',
                values: ['account-1', position, 1000] });
            for (const row of rows) {
                state = evolve(state, { type: row.type, data: JSON.parse(row.data) });
                position = Number(row.position) + 1;
            }
            if (rows.length < 1000) return state;
        }
    },
};

const expected = all.reduce(evolve, initial());
for (const [name, load] of Object.entries(ways))
    for (let i = 0; i < 3; i++) {    // also warms it up
        const state = await load();
        for (const key of Object.keys(expected))
            if (state[key] !== expected[key]) throw new Error(`${name}: ${key} is ${state[key]}, not ${expected[key]}`);
    }

for (let round = 0; round < rounds; round++)
    for (const [name, load] of Object.entries(ways).map((w) => [Math.random(), w]).sort((a, b) => a[0] - b[0]).map((w) => w[1])) {
        const start = process.hrtime.bigint();
        await load();
        console.log(`${round}\t${name}\t${Number(process.hrtime.bigint() - start) / 1e6}`);
    }

await ours.end();
await messages.end();
await emmett.close();
