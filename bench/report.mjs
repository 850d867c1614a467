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

// ---- cells: all rounds of one variant at one number of clients and one batch size

const groups = new Map();
for (const s of slices) {
  const key = `${s.variant} ${s.clients} ${s.batch}`;
  groups.set(key, [...(groups.get(key) ?? []), s]);
}
const cells = [...groups.values()].map((rounds) => ({
  ...rounds[0],
  rounds: new Map(rounds.map((s) => [s.round, s])),
  median: (field) => median(rounds.map((s) => s[field])),
}));
const rank = { limit: 0, ours: 1, theirs: 2 };
cells.sort((a, b) => a.batch - b.batch || a.clients - b.clients || a.scattered - b.scattered
  || rank[a.side] - rank[b.side] || a.variant.localeCompare(b.variant));

// Calls of several events are compared only with calls that spread them over streams in the same way, and pipelined
// ones only with each other. What the machine allows stands beside single events.
const isSingle = (c) => c.batch === 1 && !['es-batch', 'es-events'].includes(c.variant);
const comparable = (ours, c) => ours.clients === c.clients && ours.batch === c.batch
  && (c.side === 'theirs' || isSingle(ours))
  && (ours.batch === 1 || ours.scattered === c.scattered)
  && (!ours.pipeline || c.pipeline);

const ratios = (a, b, field) =>
  [...a.rounds.keys()].filter((r) => b.rounds.has(r)).map((r) => a.rounds.get(r)[field] / b.rounds.get(r)[field]);

// ---- Markdown

// The first column is text, the others are numbers.
const table = (head, rows) => {
  const widths = head.map((h, i) => Math.max(3, h.length, ...rows.map((r) => r[i].length)));
  const line = (row) => `| ${row.map((c, i) => (isText(head[i]) ? c.padEnd(widths[i]) : c.padStart(widths[i]))).join(' | ')} |`;
  const rule = `|${widths.map((w, i) => (isText(head[i]) ? `${'-'.repeat(w + 2)}` : `${'-'.repeat(w + 1)}:`)).join('|')}|`;
  return [line(head), rule, ...rows.map(line)].join('\n');
};
const isText = (heading) => ['', 'ours', 'theirs'].includes(heading);

const ratioTable = (filter, key) => {
  const rows = [];
  for (const ours of cells.filter((c) => c.side === 'ours' && filter(c))) {
    for (const theirs of cells.filter((c) => c.side !== 'ours' && comparable(ours, c))) {
      const rate = ratios(ours, theirs, 'rate');
      rows.push([String(ours[key]), ours.label, theirs.label, `**${digits(median(rate))}**`,
        `${digits(Math.min(...rate))} to ${digits(Math.max(...rate))}`,
        digits(median(ratios(ours, theirs, 'cpu_us'))), digits(median(ratios(ours, theirs, 'wal_bytes')))]);
    }
  }
  return table([key, 'ours', 'theirs', 'events/s', 'of the rounds', 'CPU', 'WAL'], rows);
};

const figureTable = (filter, key) => table(
  [key, '', 'events/s', 'p50 ms', 'p95 ms', 'p99 ms', 'CPU us', 'client CPU us', 'WAL bytes'],
  cells.filter(filter).map((c) => [String(c[key]), c.label, whole(c.median('rate')),
    ...['p50_us', 'p95_us', 'p99_us'].map((f) => digits(c.median(f) / 1000)),
    digits(c.median('cpu_us')), digits(c.median('client_cpu_us')), whole(c.median('wal_bytes'))]));

const span = (field, decimals) => {
  const values = slices.map((s) => s[field]);
  const [middle, least, greatest] = [median(values), Math.min(...values), Math.max(...values)].map((x) => x.toFixed(decimals));
  return `${middle} (${least} to ${greatest})`;
};
const count = (condition) => slices.filter(condition).length;

const section = (title, note, body) => `## ${title}\n\n${note}\n\n${body}\n`;
const isOneStream = (c) => c.clients === 1 && !c.scattered && !isSingle(c);
const isScattered = (c) => c.clients === 1 && c.scattered;

console.log(`# event_store against Message DB

event_store ${facts.event_store}, Message DB ${facts.message_db}, PostgreSQL ${facts.postgresql}; ${facts.date}.
${facts.cpu}; memory ${facts.memory}; ${facts.kernel}.

Rounds: ${facts.rounds}, with a slice of ${facts.slice} s a cell, in random order. Both stores were filled with ${whole(facts.events)} events in
${whole(facts.streams)} streams first. fsync, synchronous_commit and full_page_writes on; no checkpoint ran in between.
Load average ${span('load', 1)}, our own clients included. Other work on the machine took, in percent of a
core, ${span('foreign_percent', 0)}; ${count((s) => s.tries > 1)} of ${slices.length} slices were done again for it, ${count((s) => s.foreign_percent > 30)} stayed above 30.
\`bench/README.md\` says how this is measured and how to read it.

Ratios are ours / theirs inside a round, medians of the rounds: more is better for events/s, less for CPU and WAL.
`);
console.log(section('Single events: ratios',
  'One event a call, one transaction a call, by the number of clients.', ratioTable(isSingle, 'clients')));
console.log(section('Batches into one stream: ratios',
  'One client, one transaction a call, all its events in one random stream; by events a call.', ratioTable(isOneStream, 'batch')));
console.log(section('Batches over random streams: ratios',
  'One client, one transaction a call, a random stream an event; by events a call.', ratioTable(isScattered, 'batch')));
console.log(section('Single events: figures',
  'Latency is a call\'s. CPU is that of the sessions\' server processes, an event.', figureTable(isSingle, 'clients')));
console.log(section('Batches into one stream: figures', 'One client.', figureTable(isOneStream, 'batch')));
console.log(section('Batches over random streams: figures', 'One client.', figureTable(isScattered, 'batch')));
console.log(`## Disk

Bytes an event at the end, tables and indexes: event_store ${whole(facts.disk_event_store)},
Message DB ${whole(facts.disk_message_db)}.`);
