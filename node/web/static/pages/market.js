// Market: every live offer, as the node hears them; filters live in the address.
import { html, signal, useEffect, useLayoutEffect, useMemo, useRef, useState } from '../vendor/ui.js';
import { ask, link, news } from '../lib/api.js';
import { aligned, count, gib, number, percent, plural, price, short, span, when } from '../lib/format.js';
import { Dialog, Empty, Facts, Histogram, Id, Loading, Panel, Price, Tile, Tiles, Trouble, token, useNow } from '../lib/parts.js';
import { go, place } from '../app.js';

// One copy for all pages, brought up to date by what changed.
const book = new Map();
let version = -1;
export const offers = signal(null);
let running = false;
let again = false;
let last = 0;
export async function refresh() {
  if (running) { again = true; return; }
  running = true;
  try {
    const wait = book.size > 2000 ? 2000 : 500;
    if (Date.now() - last < wait) await new Promise((done) => setTimeout(done, wait - (Date.now() - last)));
    last = Date.now();
    const said = await ask(`/api/market?since=${version}`);
    if (said.full) book.clear();
    for (const key of said.gone) book.delete(key);
    for (const row of said.offers) {
      row.key = `${row.peer}-${row.offer}`;
      row.price = Number(row.dph);
      book.set(row.key, row);
    }
    const moved = version !== said.version || offers.value === null;
    version = said.version;
    if (moved) offers.value = [...book.values()];
  } catch (problem) {
    if (problem.status !== 0 && problem.status !== 401) throw problem;
  } finally {
    running = false;
    if (again) { again = false; refresh().catch(() => {}); }
  }
}
export function useOffers() {
  const [problem, set] = useState(null);
  useEffect(() => { refresh().then(() => set(null), set); }, [news.market.value, link.value]);
  return { offers: offers.value, problem };
}

// Filters: a test each, and what would let more through.
const FILTERS = {
  gpu: { name: 'GPU', test: (o, v) => o.gpu_name === v },
  n: { name: 'free GPUs', test: (o, v) => o.num_gpus >= Number(v), near: (list) => Math.max(...list.map((o) => o.num_gpus)), say: (v) => `at most ${v} at once` },
  vram: { name: 'VRAM', test: (o, v) => o.gpu_ram >= Number(v), near: (list) => Math.max(...list.map((o) => o.gpu_ram)), say: (v) => `VRAM of ${gib(v)}` },
  max: { name: 'price', test: (o, v) => o.price <= Number(v), near: (list) => Math.min(...list.map((o) => o.price)), say: (v) => `a price from ${price(v)} ${token.value}/h` },
  rel: { name: 'reliability', test: (o, v) => o.reliability * 100 >= Number(v), near: (list) => Math.max(...list.map((o) => o.reliability)) * 100, say: (v) => `a reliability of ${v} %` },
  region: { name: 'region', test: (o, v) => o.geolocation.toLowerCase().includes(v.toLowerCase()) },
  cuda: { name: 'CUDA', test: (o, v) => o.cuda_vers >= Number(v), near: (list) => Math.max(...list.map((o) => o.cuda_vers)), say: (v) => `CUDA ${v}` },
  real: { name: 'found by a driver', test: (o) => !o.declared },
};
const passes = (offer, filters, except) => filters.every(([key, value]) => key === except || FILTERS[key].test(offer, value));

const SORTS = { // name, order, unit (said here once for the whole column)
  gpu: ['GPU', (a, b) => a.gpu_name.localeCompare(b.gpu_name) || a.price - b.price],
  free: ['Free', (a, b) => b.num_gpus - a.num_gpus],
  vram: ['VRAM', (a, b) => b.gpu_ram - a.gpu_ram, 'GiB'],
  price: ['Price', (a, b) => a.price - b.price, () => `${token.value}/h`],
  rel: ['Reliable', (a, b) => b.reliability - a.reliability, '%'],
  region: ['Region', (a, b) => a.geolocation.localeCompare(b.geolocation)],
  host: ['Cores / GiB', (a, b) => b.cpu_cores - a.cpu_cores],
  net: ['Mbit/s', (a, b) => b.inet_down - a.inet_down],
  provider: ['Provider', (a, b) => a.provider.localeCompare(b.provider)],
  age: ['Expires in', (a, b) => b.expires - a.expires],
};
const END = ['free', 'vram', 'price', 'rel', 'host', 'net', 'age'];
const DOWN = ['free', 'vram', 'rel', 'host', 'net', 'age']; // the largest first

export default function Market() {
  const { offers: all, problem } = useOffers();
  const query = new URLSearchParams(place.value.split('?')[1] || '');
  const filters = Object.keys(FILTERS).filter((key) => query.get(key)).map((key) => [key, query.get(key)]);
  const sort = SORTS[query.get('sort')] ? query.get('sort') : 'price';
  const set = (changes, replace = true) => {
    const next = new URLSearchParams(query);
    for (const [key, value] of Object.entries(changes)) if (value === '' || value == null) next.delete(key); else next.set(key, value);
    const text = next.toString();
    go(text ? `/?${text}` : '/', replace);
  };
  const found = useMemo(() => (all || []).filter((one) => passes(one, filters)).sort((a, b) => SORTS[sort][1](a, b) || (a.key < b.key ? -1 : 1)), [all, place.value]);
  const inClass = useMemo(() => (all || []).filter((one) => passes(one, filters, 'max')).map((one) => one.price), [all, place.value]);
  if (problem && !all) return html`<${Trouble} problem=${problem} again=${() => refresh()} />`;
  if (!all) return html`<${Loading} what="the market" />`;
  const prices = found.map((one) => one.price).sort((a, b) => a - b);
  const free = all.reduce((sum, one) => sum + one.num_gpus, 0);
  const opened = query.get('offer');
  return html`<div class="head"><div class="grow"><h1>Market</h1><p>Signed offers this node hears from its peers, cheapest first.</p></div>
      <a class="button primary" href=${filters.find(([key]) => key === 'gpu') ? `/new?gpu=${encodeURIComponent(query.get('gpu'))}` : '/new'}>New job</a></div>
    <${Tiles}>
      <${Tile} name="Live offers">${count(all.length)}<//>
      <${Tile} name="GPUs free">${count(free)} <small>of ${count(all.reduce((sum, one) => sum + one.num_units, 0))}</small><//>
      <${Tile} name=${filters.length ? 'Median of what matches' : 'Median price'}>${prices.length ? html`${price(prices[prices.length >> 1])} <small>${token}/h</small>` : '–'}<//>
      <${Tile} name=${filters.length ? 'Cheapest match' : 'Cheapest'}>${prices.length ? html`${price(prices[0])} <small>${token}/h</small>` : '–'}<//>
    <//>
    <div class="stack">
      <div class="two wide" key="filters">
        <${Filters} all=${all} query=${query} set=${set} any=${filters.length > 0} />
        <${Panel} title=${`Prices of ${query.get('gpu') || 'all GPUs'}`} side=${query.get('max') && html`<button class="plain tiny" onClick=${() => set({ max: '' })}>Lift the cap</button>`}>
          <${Histogram} prices=${inClass} cap=${Number(query.get('max')) || null} label="Prices" onCap=${(value) => set({ max: Number(value.toPrecision(3)) })} />
        <//>
      </div>
      <p class="hidden" role="status">${plural(found.length, 'offer')} match</p>
      ${!all.length ? html`<${Panel}><${Empty} title="No offer was heard yet"><p>A provider's offers arrive within seconds once a peer is connected.</p><p><a href="/network">Look at the network</a></p><//><//>`
        : !found.length ? html`<${Nothing} all=${all} filters=${filters} set=${set} />`
        : html`<${Table} rows=${found} sort=${sort} total=${all.length} onSort=${(key) => set({ sort: key === 'price' ? '' : key })} query=${query} />`}
    </div>
    ${opened && html`<${Detail} key=${opened} name=${opened} row=${book.get(opened)} onClose=${() => set({ offer: '' }, false)} />`}`;
}

function Filters({ all, query, set, any }) {
  const classes = useMemo(() => {
    const seen = new Map();
    for (const one of all) seen.set(one.gpu_name, (seen.get(one.gpu_name) || 0) + 1);
    return [...seen].sort((a, b) => a[0].localeCompare(b[0]));
  }, [all]);
  const field = (key, label, extra) => html`<label class="field">${label}<input value=${query.get(key) || ''} onInput=${(event) => set({ [key]: event.target.value })} ...${extra} /></label>`;
  const numeric = { type: 'number', min: 0, step: 'any', inputmode: 'decimal' };
  return html`<${Panel} title="Filters" side=${any && html`<button class="plain tiny" onClick=${() => set(Object.fromEntries(Object.keys(FILTERS).map((key) => [key, ''])))}>Clear</button>`}>
    <div class="fields">
      <label class="field">GPU<select value=${query.get('gpu') || ''} onChange=${(event) => set({ gpu: event.target.value })}>
        <option value="">any</option>${classes.map(([name, n]) => html`<option value=${name} selected=${query.get('gpu') === name}>${name} (${n})</option>`)}</select></label>
      ${field('n', 'Free at once, at least', { ...numeric, step: 1 })}
      ${field('vram', 'VRAM in GiB, at least', numeric)}
      ${field('max', `Price in ${token.value}/h, at most`, numeric)}
      ${field('rel', 'Reliability in %, at least', { ...numeric, max: 100 })}
      ${field('cuda', 'CUDA, at least', numeric)}
      ${field('region', 'Region has', { maxlength: 64 })}
      <label class="check"><input type="checkbox" checked=${query.get('real') === '1'} onChange=${(event) => set({ real: event.target.checked ? '1' : '' })} />Found by a driver</label>
    </div><//>`;
}

function Nothing({ all, filters, set }) {
  const helps = [];
  for (const [key, value] of filters) {
    const list = all.filter((one) => passes(one, filters, key));
    if (!list.length) continue;
    const near = FILTERS[key].near?.(list);
    helps.push({ key, list, text: near !== undefined ? `${plural(list.length, 'offer')} if you accept ${FILTERS[key].say(near)} (you asked for ${value})` : `${plural(list.length, 'offer')} without “${FILTERS[key].name}${key === 'real' ? '' : `: ${value}`}”`, to: near !== undefined ? Number(near.toPrecision(6)) : '' });
  }
  const alone = filters.map(([key, value]) => ({ key, value, n: all.filter((one) => !FILTERS[key].test(one, value)).length }));
  return html`<${Panel}><div class="empty"><h2>No live offer passes all filters</h2>
    ${helps.length ? html`<p>The nearest ways to a match:</p>
      <div class="wallets">${helps.map((one) => html`<button onClick=${() => set({ [one.key]: one.to })}>${one.text}</button>`)}</div>`
    : html`<p>No single filter is to blame. Each removes, of ${count(all.length)}:</p>
      <div class="wallets">${alone.map((one) => html`<button onClick=${() => set({ [one.key]: '' })}>${FILTERS[one.key].name} ${one.key === 'real' ? '' : one.value}: removes ${count(one.n)} (drop it)</button>`)}</div>`}
  </div><//>`;
}

const BLOCK = 8;
const small = matchMedia('(max-width: 864px)');
function Table({ rows, sort, total, onSort, query }) {
  const body = useRef();
  const [block, setBlock] = useState(0); // drawn in blocks, so that most frames of a scroll draw nothing
  const [height, setHeight] = useState(640);
  const [isSmall, setSmall] = useState(small.matches);
  const now = useNow(2000);
  useLayoutEffect(() => {
    const watch = new ResizeObserver(([entry]) => setHeight(entry.contentRect.height));
    watch.observe(body.current);
    const change = () => setSmall(small.matches);
    small.addEventListener('change', change);
    return () => { watch.disconnect(); small.removeEventListener('change', change); };
  }, []);
  const size = isSmall ? 84 : 44;
  const top = isSmall ? 0 : 42; // the head's height; it stays at the top while the rows scroll
  const first = Math.max(0, (block - 1) * BLOCK);
  const shown = rows.slice(first, first + Math.ceil(height / size) + 3 * BLOCK);
  const moved = () => setBlock(Math.floor(body.current.scrollTop / (size * BLOCK)));
  const keys = (event) => { // arrows walk the rows, also those that are not drawn yet
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10 }[event.key];
    const at = Number(event.target.dataset?.at);
    if (!step || Number.isNaN(at)) return;
    event.preventDefault();
    const to = Math.max(0, Math.min(rows.length - 1, at + step));
    const y = to * size;
    if (y < body.current.scrollTop) body.current.scrollTop = y;
    else if (y + size > body.current.scrollTop + height - top) body.current.scrollTop = y + size + top - height;
    moved();
    requestAnimationFrame(() => body.current?.querySelector(`[data-at="${to}"]`)?.focus({ preventScroll: true }));
  };
  const base = new URLSearchParams(query);
  const href = (key) => { base.set('offer', key); return `/?${base}`; };
  return html`<${Panel} flush title=${rows.length === total ? plural(total, 'offer') : `${count(rows.length)} of ${plural(total, 'offer')}`} side=${!isSmall && html`<span class="soft small">arrow keys walk the rows</span>`}>
    <div class="grid" role="table" aria-label="Offers" aria-rowcount=${rows.length + 1}>
      <div class="body" role="presentation" ref=${body} style=${{ height: `${rows.length * size + top}px` }} onScroll=${moved} onKeyDown=${keys} data-keep>
      <div role="rowgroup" class="sticky"><div class="top" role="row">${Object.entries(SORTS).map(([key, [name, , unit]]) => html`
        <span role="columnheader" class=${END.includes(key) ? 'end' : ''} aria-sort=${sort === key ? (DOWN.includes(key) ? 'descending' : 'ascending') : undefined}><button onClick=${() => onSort(key)}>${sort === key ? html`<span aria-hidden="true">${DOWN.includes(key) ? '↓' : '↑'}</span>` : ''}${name}${unit && html` <small>${unit.call ? unit() : unit}</small>`}</button></span>`)}</div></div>
        <div class="pad" role="rowgroup" style=${{ height: `${rows.length * size}px` }}>${shown.map((one, i) => html`
          <div class="item" role="row" key=${one.key} aria-rowindex=${first + i + 2} style=${{ transform: `translateY(${(first + i) * size}px)` }}>
            <span role="cell"><a href=${href(one.key)} data-at=${first + i}>${one.gpu_name}</a>${one.declared && html` <span class="chip" title="Typed by its owner, not found by a driver">declared</span>`}</span>
            <span role="cell" class="end">${one.num_gpus} <span class="soft small">of ${one.num_units}<span class="unit"> free</span></span></span>
            <span role="cell" class="end">${number(one.gpu_ram)}<span class="unit"> GiB</span></span>
            <span role="cell" class="end"><strong>${aligned(one.price)}</strong><span class="unit"> ${token}/h</span></span>
            <span role="cell" class="end">${number(one.reliability * 100)}</span>
            <span role="cell" title=${one.geolocation}>${one.geolocation || '–'}</span>
            <span role="cell" class="end soft">${one.cpu_cores} / ${number(one.cpu_ram)}</span>
            <span role="cell" class="end soft">${count(one.inet_down)} / ${count(one.inet_up)}</span>
            <span role="cell"><code>${short(one.provider, 6, 4)}</code></span>
            <span role="cell" class="end soft">${one.expires > now ? span(one.expires - now) : 'expiring'}</span>
          </div>`)}</div>
      </div></div><//>`;
}

function Detail({ name, row, onClose }) {
  const [state, set] = useState({});
  useEffect(() => { ask(`/api/offers/${name}`).then((data) => set({ data }), (problem) => set({ problem })); }, [name, news.changed.value]);
  const { data, problem } = state;
  const one = data || row;
  if (!one) return html`<${Dialog} drawer title="Offer" onClose=${onClose}>${problem ? html`<${Trouble} problem=${problem} />` : html`<${Loading} what="the offer" />`}<//>`;
  const covered = data && (data.stake_covers_units === null || data.stake_covers_units >= Math.max(1, data.num_gpus));
  return html`<${Dialog} drawer title=${`${one.gpu_name} × ${one.num_units}`} onClose=${onClose}>
    <${Trouble} problem=${problem} />
    <div class="row"><${Price} value=${one.dph} unit=" per GPU-hour" />${one.declared ? html`<span class="chip warn">declared by its owner</span>` : html`<span class="chip good">found by a driver</span>`}${one.verified && html`<span class="chip good">certified</span>`}</div>
    <${Facts} rows=${[
      ['Free now', `${one.num_gpus} of ${one.num_units}`],
      ['VRAM', gib(one.gpu_ram)],
      ['Per GPU', `${one.cpu_cores} cores, ${gib(one.cpu_ram)} memory, ${gib(one.disk_space)} disk`],
      ['Network', `${count(one.inet_down)} Mbit/s down, ${count(one.inet_up)} up`],
      one.cuda_vers > 0 && ['CUDA, driver', `${one.cuda_vers}, ${one.driver_version || 'unknown'}`],
      ['Region', one.geolocation || 'not said'],
      ['Longest job', span(one.duration)],
      ['Expires', when(one.expires)],
    ]} />
    <h3>Trust</h3>
    ${data ? html`<${Facts} rows=${[
      ['Signature', html`<span class="chip good">verified</span> by its peer key`],
      ['Benchmark', data.dlperf > 0 ? `${data.dlperf} × the reference GPU${data.verified ? ', certified' : ''}` : 'never measured'],
      ['Reliability', `${percent(data.reliability, 2)} by its own word${data.believed_reliability < data.reliability ? `; this node believes ${percent(data.believed_reliability, 2)}` : ''}`],
      ['Stake', html`${data.stake_free} ${token} free, ${data.stake_locked} locked${Number(data.stake_thawing) > 0 ? `, ${data.stake_thawing} leaving` : ''}`],
      ['Collateral', html`${data.collateral_per_unit} ${token} per GPU ${covered ? html`<span class="chip good">stake covers it</span>` : html`<span class="chip bad">stake does not cover it</span>`}`],
      ['Operator key', data.authorised ? html`<span class="chip good">authorised on chain</span>` : html`<span class="chip warn">no authorisation on chain</span>`],
      ['With this node', data.record.opened ? `${plural(data.record.settled, 'agreement')} settled, ${data.record.slashed} slashed, ${data.record.running} open; ${span(data.record.metered_s)} run` : 'no agreement yet'],
    ]} />` : !problem && html`<${Loading} what="stake and record" />`}
    <${Facts} rows=${[['Wallet', html`<${Id} value=${one.provider} />`], ['Peer', html`<${Id} value=${one.peer} />`]]} />
    <a class="button primary" href=${`/new?gpu=${encodeURIComponent(one.gpu_name)}&max=${one.price}`}>Use it for a job</a>
  <//>`;
}
