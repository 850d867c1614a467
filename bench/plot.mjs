// Draws the slices of a run: node plot.mjs slices.jsonl PREFIX makes PREFIX-single.svg, -stream.svg and -batch.svg.
// Bars are medians of the rounds; the thin line on each goes from the least to the greatest.
import { readFileSync, writeFileSync } from 'node:fs';

const [slicesFile, prefix] = process.argv.slice(2);
const slices = readFileSync(slicesFile, 'utf8').trimEnd().split('\n').map((line) => JSON.parse(line));

const OURS = '#1f6feb';
const PALE = '#9cc3f7';
const LIMIT = '#c4c9d0';
const THEIRS = ['#d1741f', '#8a8f98', '#a86bb5', '#5f9e6e'];

// The rates of a cell, ascending; undefined where it was not measured.
const rates = (disk, variant, clients, batch) => {
  const found = slices.filter((s) => s.disk === disk && s.variant === variant && s.clients === clients && s.batch === batch)
    .map((s) => s.rate).sort((a, b) => a - b);
  return found.length ? found : undefined;
};
const middle = (sorted) => (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2;
const short = (x) => (x >= 9950 ? `${Math.round(x / 1000)}k` : x >= 1000 ? `${(x / 1000).toFixed(1)}k` : `${Math.round(x)}`);

// A round number at or above x, and how many steps lead there.
const scale = (x) => {
  const power = 10 ** Math.floor(Math.log10(x));
  const step = [0.2, 0.5, 1, 2].map((s) => s * power).find((s) => Math.ceil(x / s) <= 6);
  return { step, top: Math.ceil(x / step) * step };
};

const W = 900;
const PANEL_H = 210;
const LEFT = 56;

const text = (x, y, content, more = '') => `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" ${more}>${content}</text>`;

// groups: [{ label, bars: [sorted rates or undefined, ...] }], series: [{ label, colour }]
const panel = (x0, y0, width, title, groups, series) => {
  const all = groups.flatMap((g) => g.bars).filter(Boolean);
  if (all.length === 0) return '';
  const { step, top } = scale(Math.max(...all.map((r) => r[r.length - 1])));
  const y = (value) => y0 + PANEL_H - (value / top) * (PANEL_H - 26);
  const out = [text(x0 + LEFT, y0 + 10, title, 'class="title"')];
  for (let v = 0; v <= top + step / 2; v += step) {
    out.push(`<line x1="${x0 + LEFT}" x2="${x0 + width}" y1="${y(v)}" y2="${y(v)}" class="grid"/>`);
    out.push(text(x0 + LEFT - 6, y(v) + 4, short(v), 'text-anchor="end"'));
  }
  const groupWidth = (width - LEFT) / groups.length;
  groups.forEach((group, i) => {
    const used = group.bars.map((b, j) => [b, series[j]]).filter(([b]) => b);
    const bar = Math.min(34, (groupWidth - 18) / used.length);
    const start = x0 + LEFT + groupWidth * (i + 0.5) - (bar * used.length) / 2;
    used.forEach(([sorted, s], j) => {
      const x = start + j * bar;
      const m = middle(sorted);
      out.push(`<rect x="${(x + 1).toFixed(1)}" y="${y(m).toFixed(1)}" width="${(bar - 2).toFixed(1)}" height="${(y(0) - y(m)).toFixed(1)}" fill="${s.colour}"><title>${s.label}: ${Math.round(m)} events/s</title></rect>`);
      const c = (x + bar / 2).toFixed(1);
      out.push(`<line x1="${c}" x2="${c}" y1="${y(sorted[0]).toFixed(1)}" y2="${y(sorted[sorted.length - 1]).toFixed(1)}" class="span"/>`);
      out.push(text(x + bar / 2, y(sorted[sorted.length - 1]) - 4, short(m), 'text-anchor="middle" class="value"'));
    });
    out.push(text(x0 + LEFT + groupWidth * (i + 0.5), y(0) + 16, group.label, 'text-anchor="middle"'));
  });
  return out.join('\n');
};

const figure = (name, title, note, panels, series) => {
  const height = 92 + PANEL_H + 40;
  const width = W / panels.length;
  let x = 20;
  const legend = series.map((s) => {
    const entry = `<rect x="${x}" y="50" width="11" height="11" fill="${s.colour}"/>${text(x + 16, 60, s.label)}`;
    x += 34 + s.label.length * 6.3;
    return entry;
  });
  const body = panels.map((p, i) => panel(i * width, 88, width - 20, p.title, p.groups, series)).filter(Boolean);
  if (body.length === 0) return;
  writeFileSync(`${prefix}-${name}.svg`, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${W} ${height}" width="${W}" height="${height}" font-family="Helvetica, Arial, sans-serif" font-size="11.5">
<style>text{fill:#24292f}.head{font-size:15px;font-weight:600}.title{font-weight:600}.value{font-size:9.5px}.note{fill:#57606a}.grid{stroke:#d8dee4;stroke-width:1}.span{stroke:#24292f;stroke-width:1}</style>
<rect width="100%" height="100%" fill="#ffffff"/>
${text(20, 24, title, 'class="head"')}
${text(20, 41, note, 'class="note"')}
${legend.join('\n')}
${body.join('\n')}
</svg>
`);
};

const clientGroups = (disk, variants, counts) => counts.map((n) => ({
  label: `${n} ${n === 1 ? 'client' : 'clients'}`,
  bars: variants.map((v) => rates(disk, v, n, 1)),
}));
const bothDisks = (variants, counts) => [
  { title: 'the disk as it is', groups: clientGroups('native', variants, counts.filter((n) => variants.some((v) => rates('native', v, n, 1)))) },
  { title: 'each flush 1 ms slower', groups: clientGroups('slow', variants, counts.filter((n) => variants.some((v) => rates('slow', v, n, 1)))) },
];

figure('single', 'Single durable appends to many streams, events a second',
  'One event a call, one transaction a call. Nothing that commits each event can pass the empty commit.',
  bothDisks(['commit-only', 'es-append', 'classic', 'emmett', 'mdb-write-own', 'mdb-write'], [1, 8, 16]),
  [
    { label: 'empty durable commit', colour: LIMIT },
    { label: 'event_store', colour: OURS },
    { label: 'hand-written INSERT', colour: THEIRS[1] },
    { label: 'Emmett', colour: THEIRS[2] },
    { label: 'Message DB, a category a stream', colour: THEIRS[3] },
    { label: 'Message DB', colour: THEIRS[0] },
  ]);

const streamGroups = (disk, kinds) => kinds.map(([label, variants]) => ({ label, bars: variants.map((v) => rates(disk, v, 16, 1)) }));
const kinds = [
  ['any version', ['es-hot', 'es-hot-late', 'update', 'mdb-hot']],
  ['exact versions, retried', ['es-exact', 'es-exact-late', 'none', 'mdb-exact']],
];
figure('stream', 'One hot stream, 16 clients, durable appends a second',
  'A bare UPDATE of one row is what a lock held until the flush allows. Early: locks are released before it.',
  [
    { title: 'the disk as it is', groups: streamGroups('native', kinds) },
    { title: 'each flush 1 ms slower', groups: streamGroups('slow', kinds) },
  ],
  [
    { label: 'event_store', colour: OURS },
    { label: 'event_store, early_lock_release off', colour: PALE },
    { label: 'bare UPDATE of one row', colour: LIMIT },
    { label: 'Message DB', colour: THEIRS[0] },
  ]);

const batchGroups = (variants) => [10, 100, 1000].map((n) => ({ label: `${n} events a call`, bars: variants.map((v) => rates('native', v, 1, n)) }))
  .filter((g) => g.bars.some(Boolean));
figure('batch', 'Batches, one client, one durable transaction a call, events a second',
  'COPY fills a table with the same two indexes: no streams, versions checked or digests. Emmett appends to one stream a call.',
  [
    { title: 'into one stream', groups: batchGroups(['es-events', 'none', 'copy', 'emmett', 'mdb-unnest', 'mdb-txn']) },
    { title: 'over random streams', groups: batchGroups(['es-batch', 'es-import', 'copy-scattered', 'none', 'mdb-unnest-scattered', 'mdb-txn-scattered']) },
  ],
  [
    { label: 'event_store', colour: OURS },
    { label: 'COPY event_store.import', colour: PALE },
    { label: 'COPY', colour: LIMIT },
    { label: 'Emmett', colour: THEIRS[2] },
    { label: 'Message DB over unnest', colour: THEIRS[3] },
    { label: 'Message DB, calls', colour: THEIRS[0] },
  ]);
