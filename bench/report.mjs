// Turns the slices of a run into Markdown: node report.mjs facts.tsv slices.jsonl
//
// A ratio is taken inside a round, where ours and theirs ran seconds apart, and the median of the rounds is shown with
// the least and the greatest beside it. Medians of absolute figures follow; they belong to the machine and the hour.
import { readFileSync } from 'node:fs';

const [factsFile, slicesFile] = process.argv.slice(2);
const lines = (file) => readFileSync(file, 'utf8').trimEnd().split('\n');
const facts = Object.fromEntries(lines(factsFile).map((line) => line.split('\t')));
const slices = lines(slicesFile).map((line) => JSON.parse(line));

// ---- numbers

const median = (values) => {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
};
const whole = (x) => Math.round(x).toLocaleString('en-US');
const digits = (x) => (x >= 100 ? whole(x) : x.toFixed(x >= 10 ? 1 : 2));

// ---- cells: all rounds of one variant on one disk at one number of clients and one batch size

const pages = { read: 'all', 'read-type': 'one type of five', 'read-rare': 'a category with 1 %' };
const groups = new Map();
for (const s of slices) {
  const key = `${s.disk} ${s.variant} ${s.clients} ${s.batch}`;
  groups.set(key, [...(groups.get(key) ?? []), s]);
}
const cells = [...groups.values()].map((rounds) => ({
  ...rounds[0],
  rounds: new Map(rounds.map((s) => [s.round, s])),
  median: (field) => median(rounds.map((s) => s[field])),
  kind: pages[rounds[0].work],
}));
const rank = { limit: 0, ours: 1, theirs: 2 };
cells.sort((a, b) => a.batch - b.batch || a.clients - b.clients || a.scattered - b.scattered
  || rank[a.side] - rank[b.side] || a.label.localeCompare(b.label));

// Calls of several events are compared only with calls that spread them over streams in the same way, and pipelined
// ones only with each other. What the machine allows stands beside single events. One hot stream is also compared with
// our own appends to many.
const isArray = (c) => ['es-batch', 'es-events', 'es-import'].includes(c.variant);
const isSingle = (c) => c.work === 'append' && c.batch === 1 && !isArray(c);
const comparable = (ours, c) => ours.disk === c.disk && ours.clients === c.clients && ours.batch === c.batch && (
  (ours.work === 'hot' && c.variant === 'es-append')
  || (ours.work === c.work
    && (c.side === 'theirs' || (c.side === 'limit' && isSingle(ours)))
    && (ours.batch === 1 || ours.scattered === c.scattered)
    && (!ours.pipeline || c.pipeline)));

const ratios = (a, b, field) =>
  [...a.rounds.keys()].filter((r) => b.rounds.has(r)).map((r) => a.rounds.get(r)[field] / b.rounds.get(r)[field]);

// ---- Markdown

// The first columns are text, the others are numbers.
const table = (head, rows) => {
  if (rows.length === 0) return 'Not measured in this run.';
  const widths = head.map((h, i) => Math.max(3, h.length, ...rows.map((r) => r[i].length)));
  const line = (row) => `| ${row.map((c, i) => (isText(head[i]) ? c.padEnd(widths[i]) : c.padStart(widths[i]))).join(' | ')} |`;
  const rule = `|${widths.map((w, i) => (isText(head[i]) ? `${'-'.repeat(w + 2)}` : `${'-'.repeat(w + 1)}:`)).join('|')}|`;
  return [line(head), rule, ...rows.map(line)].join('\n');
};
const isText = (heading) => ['', 'ours', 'theirs', 'target', 'disk', 'work', 'met', 'kind'].includes(heading);

const ratioRow = (ours, theirs, lead) => {
  const rate = ratios(ours, theirs, 'rate');
  return [...lead, `**${digits(median(rate))}**`, `${digits(Math.min(...rate))} to ${digits(Math.max(...rate))}`,
    digits(median(ratios(ours, theirs, 'cpu_us'))), digits(median(ratios(ours, theirs, 'wal_bytes')))];
};
const RATIOS = ['events/s', 'of the rounds', 'CPU', 'WAL'];

const manyStreams = (ours, c) => (ours.work === 'hot' && c.side === 'ours' ? `${c.label}, many streams` : c.label);
const ratioTable = (filter, key) => table([key, 'ours', 'theirs', ...RATIOS],
  cells.filter((c) => c.side === 'ours' && !c.late && filter(c)).flatMap((ours) =>
    cells.filter((c) => comparable(ours, c))
      .map((theirs) => ratioRow(ours, theirs, [String(ours[key]), ours.label, manyStreams(ours, theirs)]))));

const figureTable = (filter, key, lost = false) => table(
  [key, '', 'events/s', 'p50 ms', 'p95 ms', 'p99 ms', 'CPU us', 'client CPU us', 'WAL bytes', ...(lost ? ['lost'] : [])],
  cells.filter(filter).map((c) => [String(c[key]), c.label, whole(c.median('rate')),
    ...['p50_us', 'p95_us', 'p99_us'].map((f) => digits(c.median(f) / 1000)),
    digits(c.median('cpu_us')), digits(c.median('client_cpu_us')), whole(c.median('wal_bytes')),
    ...(lost ? [digits(c.median('lost'))] : [])]));

// Reading writes no WAL.
const readRatios = table(['kind', 'ours', 'theirs', 'events/s', 'of the rounds', 'CPU'],
  cells.filter((c) => c.side === 'ours' && c.work.startsWith('read')).flatMap((ours) =>
    cells.filter((c) => comparable(ours, c)).map((theirs) =>
      ratioRow(ours, theirs, [pages[ours.work], ours.label, theirs.label]).slice(0, -1))));

const works = { append: 'many streams', hot: 'one stream', exact: 'one stream, exact versions' };
const lateTable = table(['disk', 'work', 'clients', ...RATIOS],
  cells.filter((c) => c.late).sort((a, b) => a.disk.localeCompare(b.disk)).flatMap((late) =>
    cells.filter((c) => `${c.variant}-late` === late.variant && ['disk', 'clients', 'batch'].every((f) => c[f] === late[f]))
      .map((early) => ratioRow(early, late, [early.disk === 'slow' ? '1 ms slower' : 'as it is', works[early.work], String(early.clients)]))));

// ---- the goals that the project has set itself

const find = (disk, variant, clients, batch = 1) =>
  cells.find((c) => c.disk === disk && c.variant === variant && c.clients === clients && c.batch === batch);
const goals = [
  ['single event, 16 clients: 4 times Message DB', 4, 'es-append', 'mdb-write', 16],
  ['the same, 1 ms slower disk: 8 times', 8, 'es-append', 'mdb-write', 16, 1, 'slow'],
  ['single event, 8 clients: 0.85 of the hand-written INSERT', 0.85, 'es-append', 'classic', 8],
  ['single event, 8 clients: 0.50 of an empty durable commit', 0.5, 'es-append', 'commit-only', 8],
  ['one stream, 16 clients: 2.5 times a bare UPDATE', 2.5, 'es-hot', 'update', 16],
  ['one stream, 16 clients, 1 ms slower disk: 0.9 of many streams', 0.9, 'es-hot', 'es-append', 16, 1, 'slow'],
  ['one stream, exact versions: 6 times Message DB', 6, 'es-exact', 'mdb-exact', 16],
  ['100 events a call: 1.0 of COPY', 1, 'es-events', 'copy', 1, 100],
  ['100 events a call: 10 times Message DB, calls in a transaction', 10, 'es-events', 'mdb-txn', 1, 100],
  ['1,000 events a call: 0.9 of COPY', 0.9, 'es-events', 'copy', 1, 1000],
  ['pages of 1,000: 1.4 times Message DB', 1.4, 'es-read-all', 'mdb-read', 1, 1000],
  ['pages of 1,000 of one type: 5 times Message DB', 5, 'es-read-type', 'mdb-read-type', 1, 1000],
  ['pages of 1,000 of a category with 1 %: 5 times Message DB', 5, 'es-read-rare', 'mdb-read-rare', 1, 1000],
  ['WAL, single event: at most 0.78 of Message DB', -0.78, 'es-append', 'mdb-write', 1],
  ['WAL, 100 events a call: at most 0.78 of Message DB', -0.78, 'es-events', 'mdb-txn', 1, 100],
];
const leastDisk = Math.min(facts.disk_message_db, facts.disk_emmett, facts.disk_classic);
const diskGoal = ['disk an event: less than every peer, here the least of them', digits(facts.disk_event_store / leastDisk),
  facts.disk_event_store < leastDisk ? 'yes' : 'no'];
const goalTable = table(['target', 'measured', 'met'], goals.flatMap(([text, goal, a, b, clients, batch = 1, disk = 'native']) => {
  const [ours, theirs] = [find(disk, a, clients, batch), find(disk, b, clients, batch)];
  if (!ours || !theirs) return [];
  const value = median(ratios(ours, theirs, goal < 0 ? 'wal_bytes' : 'rate'));
  return [[text, digits(value), (goal < 0 ? value <= -goal : value >= goal) ? 'yes' : 'no']];
}).concat([diskGoal]));

// ---- the page

const span = (field, decimals) => {
  const values = slices.map((s) => s[field]);
  const [middle, least, greatest] = [median(values), Math.min(...values), Math.max(...values)].map((x) => x.toFixed(decimals));
  return `${middle} (${least} to ${greatest})`;
};
const count = (condition) => slices.filter(condition).length;

const section = (title, note, body) => console.log(`## ${title}\n\n${note}\n\n${body}\n`);
const native = (filter) => (c) => c.disk === 'native' && filter(c);
const slow = (filter) => (c) => c.disk === 'slow' && filter(c);
const isOneStream = (c) => c.work === 'append' && c.clients === 1 && !c.scattered && !isSingle(c);
const isScattered = (c) => c.work === 'append' && c.clients === 1 && c.scattered;
const isRead = (c) => c.work.startsWith('read');
const is = (work) => (c) => c.work === work;

console.log(`# event_store against its peers

event_store ${facts.event_store}, Message DB ${facts.message_db}, Emmett ${facts.emmett}, PostgreSQL ${facts.postgresql}; ${facts.date}.
${facts.cpu}; memory ${facts.memory}; ${facts.kernel}.

Rounds: ${facts.rounds}, with a slice of ${facts.slice} s a cell, in random order. The stores were filled with ${whole(facts.events)} events in
${whole(facts.streams)} streams first. fsync, synchronous_commit and full_page_writes on; no checkpoint ran in between;
event_store.early_lock_release on, unless it is said.
Load average ${span('load', 1)}, our own clients included. Other work on the machine took, in percent of a
core, ${span('foreign_percent', 0)}; ${count((s) => s.tries > 1)} of ${slices.length} slices were done again for it, ${count((s) => s.foreign_percent > 30)} stayed above 30.
\`bench/README.md\` says how this is measured and how to read it.
${facts.quick ? '\n**A quick run: short slices. The committed full run is the one to quote.**\n' : ''}
Ratios are ours / theirs inside a round, medians of the rounds: more is better for events/s, less for CPU and WAL.
`);
section('Targets', 'What the project has set itself, by the medians of the ratios below.', goalTable);
section('Single events: ratios',
  'One event a call, one transaction a call, by the number of clients.', ratioTable(native(isSingle), 'clients'));
section('One stream: ratios', `All clients append to the same stream, any version.`, ratioTable(native(is('hot')), 'clients'));
section('One stream, exact versions: ratios',
  'The client reads the version and appends with it; when another was faster, it does both again. Successes a second.',
  ratioTable(native(is('exact')), 'clients'));
section('A slower disk: ratios', 'Each flush takes 1 ms longer, as over a network. Single events.', ratioTable(slow(isSingle), 'clients'));
section('A slower disk, one stream: ratios', 'Any version.', ratioTable(slow(is('hot')), 'clients'));
section('A slower disk, one stream, exact versions: ratios', 'Successes a second.', ratioTable(slow(is('exact')), 'clients'));
section('Early lock release: ratios', 'Appends with event_store.early_lock_release on / off.', lateTable);
section('Batches into one stream: ratios',
  'One client, one transaction a call, all its events in one random stream; by events a call.', ratioTable(native(isOneStream), 'batch'));
section('Batches over random streams: ratios',
  'One client, one transaction a call, a random stream an event; by events a call.', ratioTable(native(isScattered), 'batch'));
section('Reads: ratios', 'One client, pages of 1,000 events in position order, as text.', readRatios);
section('Single events: figures',
  'Latency is a call\'s. CPU is that of the sessions\' server processes, an event.', figureTable(native(isSingle), 'clients'));
section('One stream: figures', 'Any version.', figureTable(native(is('hot')), 'clients'));
section('One stream, exact versions: figures',
  '*lost*: attempts that came too late, a success. Latency, CPU and WAL are a success\'s, its lost attempts included.',
  figureTable(native(is('exact')), 'clients', true));
section('A slower disk: figures', 'Single events, many streams.', figureTable(slow(isSingle), 'clients'));
section('A slower disk, one stream: figures', 'Any version.', figureTable(slow(is('hot')), 'clients'));
section('A slower disk, one stream, exact versions: figures', 'As above.', figureTable(slow(is('exact')), 'clients', true));
section('Batches into one stream: figures', 'One client.', figureTable(native(isOneStream), 'batch'));
section('Batches over random streams: figures', 'One client.', figureTable(native(isScattered), 'batch'));
section('Reads: figures', 'Latency is a page\'s; CPU is an event\'s.', figureTable(native(isRead), 'kind'));
console.log(`## Disk

Bytes an event, tables and indexes, after the rounds of the ordinary disk: event_store ${whole(facts.disk_event_store)},
Message DB ${whole(facts.disk_message_db)}, Emmett ${whole(facts.disk_emmett)}, the hand-written table ${whole(facts.disk_classic)}.`);
