// One job: its story, output, charts, money and results.
import { html, useEffect, useMemo, useRef, useState } from '../vendor/ui.js';
import { ask, link, news, post } from '../lib/api.js';
import { ago, bytes, money, percent, plural, price, short, span, time, when } from '../lib/format.js';
import { Ask, Empty, Facts, Id, Loading, Meter, Panel, Tile, Tiles, Trouble, Tx, say, status, token, useAsk, useNow } from '../lib/parts.js';
import { State, cap, timeLeft } from './jobs.js';

export default function Job({ path }) {
  const name = decodeURIComponent(path.split('/')[2]);
  const { data: job, problem, reload } = useAsk(`/api/jobs/${encodeURIComponent(name)}`, [news.changed]);
  const now = useNow();
  const [asked, ask_] = useState('');
  if (!job) return problem ? html`<${Trouble} problem=${problem} again=${reload} />` : html`<${Loading} what="the job" />`;
  const live = job.agreements.filter((a) => !['settled', 'slashed', 'void'].includes(a.phase)); // of a gang, one a node
  const current = live.at(-1);
  const left = timeLeft(job, now);
  return html`<div class="head"><div class="grow"><p class="small"><a href="/jobs">My jobs</a></p><h1>${job.name}</h1>
      <div class="row"><${State} of=${job.state} />${job.exit_code !== null && html`<span class="soft small">exit code ${job.exit_code}</span>`}<${Id} value=${job.id} /></div></div>
      <div class="row">${!job.over && !job.state.startsWith('CANCEL') && html`<button class="danger" onClick=${() => ask_('cancel')}>Cancel the job</button>`}</div></div>
    <div class="stack">
      <${Trouble} problem=${problem} />
      ${job.reason && html`<div class=${`note ${job.state.startsWith('FAILED') ? 'bad' : job.state === 'RECOVERING' ? 'warn' : ''}`}><p><strong>${reasonHead(job)}</strong></p><p>${job.reason}</p></div>`}
      ${left !== null && left < Math.min(1800, job.max_duration_s / 4) && html`<div class=${`note ${left < 300 ? 'bad' : 'warn'}`} role="alert"><p><strong>${left > 0 ? `The money for this job lasts ${span(left)} more.` : 'The agreed time is used up.'}</strong></p>
        <p>Then its provider may stop it. ${job.checkpoint ? 'What it has by the last checkpoint is kept.' : 'It keeps no checkpoint.'}</p><div><button onClick=${() => ask_('extend')}>Add time</button></div></div>`}
      <${Tiles}>
        <${Tile} name="Spent">${money(job.promised)} <small>${token} of ${money(cap(job))}</small><${Meter} share=${Number(job.promised) / cap(job)} label=${`${percent(Number(job.promised) / cap(job))} of the cap is spent`} /><//>
        <${Tile} name="Ran">${span(job.metered_s)} <small>of ${span(job.max_duration_s)}${job.progress ? `, ${percent(job.progress, 0)} done` : ''}</small><//>
        <${Tile} name=${job.over ? 'Paid, refunded' : 'Money lasts'}>${job.over ? html`${money(job.paid)}<small> paid, ${money(job.refunded)} back</small>` : left !== null ? span(Math.max(0, left)) : '–'}<//>
        <${Tile} name="Last heartbeat">${current?.last_heard && !job.over ? html`<${Beat} a=${current} now=${now} />` : current?.last_heard ? when(current.last_heard) : '–'}<//>
      <//>
      <div class="split" key="split">
        <div class="stack"><${Log} job=${job} /><${Charts} job=${job} /></div>
        <div class="stack">
          <${Results} job=${job} />
          <${Story} job=${job} now=${now} />
          <${Panel} title="What it is"><${Facts} rows=${[
            ['Command', html`<code>${job.command}</code>`], ['Image', html`<code title=${job.image.sha256}>${job.image.path || short(job.image.sha256, 10, 6)}</code>, ${bytes(job.image.size_bytes)}`],
            ['Wants', job.accelerators.map((a) => `${a.count} × ${a.name}`).join(' or ')], ['Price cap', `${money(job.max_price_per_hour)} ${token.value} per GPU-hour`],
            job.inputs.length > 0 && ['Inputs', job.inputs.map((one) => html`<div><code>${one.path}</code>, ${bytes(one.size_bytes)}</div>`)],
            ['Checkpoint', job.checkpoint ? `${bytes(job.checkpoint.size_bytes)} at this node, every ${span(job.checkpoint_interval_s)}` : job.checkpoint_path ? 'none yet' : 'the job keeps none'],
            ['Attempts', `${job.attempts} of at most ${job.max_attempts}`]]} /><//>
        </div></div>
      <${Agreements} job=${job} now=${now} />
    </div>
    ${asked === 'cancel' && html`<${Cancel} job=${job} live=${live} onClose=${() => ask_('')} />`}
    ${asked === 'extend' && html`<${Extend} job=${job} live=${live} onClose=${() => ask_('')} />`}`;
}

const reasonHead = (job) => ({ RECOVERING: 'Its provider failed; it goes on elsewhere', MATCHING: 'Why it waits', PENDING: 'Why it waits', STARTING: 'It is being started', CANCELLED: 'It was cancelled', CANCELLING: 'It is being cancelled' }[job.state] || (job.state.startsWith('FAILED') ? 'Why it failed' : 'Last word'));

const Beat = ({ a, now }) => {
  const age = now - a.last_heard;
  const beats = age / a.interval_s;
  return html`<span class="row"><span class=${`dot ${beats < 2.5 ? 'good' : beats < 4 ? 'warn' : 'bad'}`}></span>${span(age)} <small>ago, no. ${a.beats}</small></span>
    ${a.answer_by && html`<small class="error">silent: slashed ${a.answer_by > now ? `in ${span(a.answer_by - now)}` : 'now'} unless it answers</small>`}`;
};

const total = (list, of) => list.reduce((sum, one) => sum + of(one), 0);
const hourly = (a) => Number(a.price_per_hour) * a.units;

function Cancel({ job, live, onClose }) {
  const opened = live.filter((a) => a.opened);
  const held = total(opened, (a) => Number(a.deposit));
  const owed = total(opened, (a) => Math.min(Number(a.deposit), Math.max(Number(a.promised), (hourly(a) * a.metered_s) / 3600)));
  return html`<${Ask} title="Cancel this job?" action="Cancel the job" kind="danger" onClose=${onClose} onYes=${async () => { await post(`/api/jobs/${job.id}/cancel`); say('', 'The job is being cancelled.', 'Its last output and checkpoint stay here.'); }}>
    ${opened.length ? html`<p>About <strong>${money(held - owed)} ${token}</strong> of the ${money(held)} held come back; ${money(owed)} ${token} were earned by the provider. The exact amounts are in the closing transaction.</p>` : html`<p>Nothing was locked yet: it costs nothing.</p>`}
    <p class="soft">${job.checkpoint ? 'The last checkpoint stays at this node.' : 'The job keeps no checkpoint: its work is lost.'}</p><//>`;
}

function Extend({ job, live, onClose }) {
  const [minutes, set] = useState('60');
  const { data: held } = useAsk(`/api/wallets/${status.value.wallet}`, [news.money, news.changed], 2000);
  const wanted = Number(minutes);
  const more = (total(live, hourly) * wanted) / 60;
  const wrong = !Number.isInteger(wanted) || wanted < 1 ? 'Write whole minutes, one or more.'
    : held && more > Number(held.free) ? `Only ${money(held.free)} ${token.value} are free in the escrow.`
    : held && held.allowance !== 'unlimited' && more > (held.allowance_live ? Number(held.allowance) : 0) ? `The node may lock only ${money(held.allowance_live ? held.allowance : 0)} ${token.value} more.` : '';
  return html`<${Ask} title="Add time" action="Add the time" disabled=${Boolean(wrong)} onClose=${onClose} onYes=${async () => { await post(`/api/jobs/${job.id}/extend`, { more_s: wanted * 60 }); say('good', 'Asked the provider for more time.', 'It is there once both have signed and the chain has it.'); }}>
    <label class="field">Minutes more<input type="number" min="1" max="43200" value=${minutes} aria-invalid=${Boolean(wrong)} aria-describedby="more-wrong" onInput=${(event) => set(event.target.value)} /></label>
    <p>Up to <strong>${money(wanted > 0 ? more : 0)} ${token}</strong> more will be locked, out of what is free in the escrow. What is not used comes back.</p>
    <p class="error" id="more-wrong" role="status">${wrong}${wrong && wanted > 0 ? html` <a href="/wallet">To the wallet</a>` : ''}</p><//>`;
}

// Output: followed from where it ends; the newest few MiB are kept in the page.
const KEPT = 2 * 1024 * 1024;
const ESCAPES = /\u001b\[[0-?]*[ -/]*[@-~]|\u001b\][^\u0007]*\u0007|[\u0000-\u0008\u000b\u000c\u000e-\u001f]/g;
function Log({ job }) {
  const [text, setText] = useState('');
  const [follow, setFollow] = useState(true);
  const [query, setQuery] = useState('');
  const [rank, setRank] = useState(0); // of a gang
  const at = useRef({ offset: 0, id: '', busy: false, cut: false, decoder: new TextDecoder() });
  const box = useRef();
  useEffect(() => {
    const own = at.current;
    const id = `${job.id} ${rank}`;
    if (own.id !== id) { Object.assign(own, { id, offset: 0, busy: false, again: false, cut: false, decoder: new TextDecoder() }); setText(''); }
    const pull = async () => {
      if (own.busy) { own.again = true; return; }
      own.busy = true;
      try {
        for (;;) {
          const answer = await ask(`/api/jobs/${job.id}/log?offset=${own.offset}&rank=${rank}`, { raw: true });
          const part = new Uint8Array(await answer.arrayBuffer());
          if (own.id !== id) return;
          own.offset = Number(answer.headers.get('x-next-offset'));
          if (!part.length) break;
          const said = own.decoder.decode(part, { stream: true }).replace(/\r(?!\n)/g, '\n').replace(ESCAPES, '');
          setText((old) => { const all = old + said; own.cut ||= all.length > KEPT; return all.length > KEPT ? all.slice(all.indexOf('\n', all.length - KEPT) + 1) : all; });
        }
      } catch { /* the next news tries again */ } finally {
        if (own.id === id) {
          own.busy = false;
          if (own.again) { own.again = false; pull(); }
        }
      }
    };
    pull();
  }, [job.id, rank, news.changed.value, job.state, link.value]);
  useEffect(() => { if (follow && box.current) box.current.scrollTop = box.current.scrollHeight; }, [text, follow, query]);
  const lines = useMemo(() => (query ? text.split('\n').filter((line) => line.toLowerCase().includes(query.toLowerCase())) : null), [text, query]);
  const marked = (line) => {
    const found = line.toLowerCase().indexOf(query.toLowerCase());
    return html`${line.slice(0, found)}<mark>${line.slice(found, found + query.length)}</mark>${line.slice(found + query.length)}\n`;
  };
  return html`<${Panel} title="Output" side=${html`<div class="row small">
      ${job.nodes > 1 && html`<select aria-label="Rank" value=${rank} onChange=${(event) => setRank(Number(event.target.value))}>${Array.from({ length: job.nodes }, (_, i) => html`<option value=${i}>rank ${i}</option>`)}</select>`}
      <input type="search" placeholder="Search" aria-label="Search in the output" value=${query} onInput=${(event) => setQuery(event.target.value)} />
      <label class="check"><input type="checkbox" checked=${follow} onChange=${(event) => setFollow(event.target.checked)} />Follow</label>
      <${Save} job=${job} rank=${rank} /></div>`}>
    ${lines && html`<p class="small soft" role="status">${plural(lines.length, 'line')} of it</p>`}
    <pre class="log" ref=${box} tabindex="0" role="log" aria-label="Output of the job" aria-live="off" onWheel=${(event) => event.deltaY < 0 && setFollow(false)}>${at.current.cut && !lines ? html`<span class="soft">… (the beginning is in the download)\n</span>` : ''}${lines ? lines.slice(-2000).map(marked) : text || (job.over ? 'It wrote nothing.' : 'Nothing yet.')}</pre><//>`;
}

function Save({ job, rank }) {
  const [busy, set] = useState(false);
  const save = async () => {
    set(true);
    try {
      const parts = [];
      for (let offset = 0; ;) {
        const answer = await ask(`/api/jobs/${job.id}/log?offset=${offset}&rank=${rank}`, { raw: true });
        const part = await answer.blob();
        if (!part.size) break;
        parts.push(part);
        offset = Number(answer.headers.get('x-next-offset'));
      }
      const a = document.createElement('a');
      a.href = URL.createObjectURL(new Blob(parts, { type: 'text/plain' }));
      a.download = `${job.name}-${job.id.slice(0, 8)}.log`;
      a.click();
      setTimeout(() => URL.revokeObjectURL(a.href), 1000);
    } catch (problem) { say('bad', problem.message, problem.hint); }
    set(false);
  };
  return html`<button class="tiny" disabled=${busy} onClick=${save}>Download</button>`;
}

function Charts({ job }) {
  const { data } = useAsk(`/api/jobs/${job.id}/series`, [news.changed], 2000);
  if (!data) return null;
  const has = (key) => data[key]?.some((value) => value !== null && value > 0);
  const charts = [
    ['CPU', 'cores', data.cpu_cores, (v) => v.toFixed(v > 0 && v < 0.1 ? 4 : 2), true],
    ['Memory', 'MiB', data.memory_bytes.map((n) => n / 1048576), (v) => Math.round(v), true],
    ['GPU', '%', data.gpu.map((n) => n * 100), (v) => Math.round(v), has('gpu')],
    ['VRAM', 'MiB', data.gpu_memory_bytes?.map((n) => (n === null ? null : n / 1048576)), (v) => Math.round(v), has('gpu_memory_bytes')],
    ['Power', 'W', data.power_w, (v) => Math.round(v), has('power_w')],
  ].filter((one) => one[4]);
  return html`<${Panel} title="Load" side=${data.at.length > 0 && html`<span class="soft small">${plural(data.at.length, 'sample')}, one a heartbeat, kept after the end</span>`}>
    ${data.at.length < 2 ? html`<${Empty} title="No samples yet"><p>They come with the heartbeats once the job runs.</p><//>`
    : html`<div class="charts">${charts.map(([name, unit, values, write]) => html`<${Chart} key=${name} name=${name} unit=${unit} at=${data.at} attempt=${data.attempt} values=${values} write=${write} />`)}</div>
      ${!has('gpu') && html`<p class="soft small">No GPU load was reported: the unit is a CPU, or its driver does not say.</p>`}`}<//>`;
}

let plotting = null;
const loadPlot = () => (plotting ||= (async () => {
  const sheet = document.createElement('link');
  sheet.rel = 'stylesheet';
  sheet.href = '/vendor/uplot.css';
  const styled = new Promise((done) => { sheet.onload = sheet.onerror = done; });
  document.head.append(sheet);
  const [found] = await Promise.all([import('../vendor/uplot.js'), styled]);
  return found.default;
})());

function Chart({ name, unit, at, attempt, values, write }) {
  const box = useRef();
  const plot = useRef(null);
  const [under, point] = useState(null); // the sample below the pointer
  // A gap where one provider ends and the next begins, so that no line joins the two.
  const rows = useMemo(() => {
    const x = []; const y = [];
    at.forEach((one, i) => {
      if (i && attempt[i] !== attempt[i - 1]) { x.push((one + at[i - 1]) / 2); y.push(null); }
      x.push(one); y.push(values[i]);
    });
    return [x, y];
  }, [at, values]);
  useEffect(() => {
    let gone = false;
    loadPlot().then((Plot) => {
      if (gone || !box.current) return;
      const style = getComputedStyle(document.documentElement);
      const colour = (variable) => { const probe = document.createElement('i'); probe.style.color = `var(${variable})`; document.body.append(probe); const value = getComputedStyle(probe).color; probe.remove(); return value; };
      const grid = { stroke: colour('--line'), width: 1 };
      const axis = { stroke: colour('--soft'), grid, ticks: grid, font: `12px ${style.fontFamily}` };
      plot.current = new Plot({
        width: box.current.clientWidth, height: 150, cursor: { points: { size: 6 } }, legend: { show: false },
        hooks: { setCursor: [({ cursor, data }) => { const i = cursor.idx; point(i == null || data[1][i] == null ? null : { at: data[0][i], value: data[1][i] }); }] },
        series: [{}, { stroke: colour('--accent'), width: 2, fill: colour('--accent-soft'), spanGaps: false, points: { show: false } }],
        axes: [{ ...axis, space: 80, values: (_, ticks) => ticks.map((v) => (ticks.at(-1) - ticks[0] > 600 ? time(v).slice(0, -3) : time(v))) }, { ...axis, size: 52, space: 34 }],
        scales: { x: { time: true }, y: { range: (_, low, high) => [0, high > 0 ? high * 1.15 : 1] } },
      }, rows, box.current);
    });
    const watch = new ResizeObserver(([entry]) => plot.current?.setSize({ width: entry.contentRect.width, height: 150 }));
    watch.observe(box.current);
    return () => { gone = true; watch.disconnect(); plot.current?.destroy(); plot.current = null; };
  }, []);
  useEffect(() => { plot.current?.setData(rows); }, [rows]);
  const last = [...values].reverse().find((v) => v !== null);
  const most = values.reduce((top, v) => (v > top ? v : top), 0);
  return html`<figure class="chart"><figcaption class="row small"><strong>${name}</strong><span class="soft num grow">${under ? `${write(under.value)} ${unit} at ${time(under.at)}` : last !== undefined ? `${write(last)} ${unit} at the end, at most ${write(most)}` : ''}</span></figcaption>
    <div ref=${box} role="img" aria-label=${`${name} in ${unit} over time, ${last !== undefined ? write(last) : 'nothing'} ${unit} at the end`}></div></figure>`;
}

const ENDINGS = { finished: 'it finished', cancelled: 'cancelled', broken: 'it could not be started', lost: 'the provider went silent', unpaid: 'payment stopped', expired: 'its time was over', withdrawn: 'the provider stopped', preempted: 'it made room for a better bid' };
function Story({ job, now }) {
  const lines = [];
  for (const one of job.history) lines.push({ at: one.at, kind: { RUNNING: 'good', SUCCEEDED: 'good', RECOVERING: 'warn', CANCELLED: '', CANCELLING: 'warn' }[one.state] ?? (one.state.startsWith('FAILED') ? 'bad' : 'info'), head: html`<strong>${LABELS[one.state] || one.state}</strong>`, more: one.reason });
  let opened = 0; // the first gang's members are no failovers
  job.agreements.forEach((a) => {
    const again = opened >= job.nodes;
    if (a.transactions.open) opened++;
    const at = (kind) => a.story.find((line) => line.kind === kind)?.at;
    const who = `provider ${short(a.peer, 6, 4)}`;
    const tx = (name, kind, text, mark, more) => a.transactions[name] && lines.push({ at: at(kind) ?? a.opened ?? job.created, kind: mark, head: text, more: html`${more}<div><${Tx} hash=${a.transactions[name]} /></div>` });
    tx('open', 'Opened', `${again ? 'Failover: funded again' : 'Funded'} on the chain`, 'info', `${money(a.deposit)} ${token.value} held for ${who}`);
    tx('challenge', 'Challenged', 'Challenged: prove that you live', 'warn', `${who} was silent`);
    tx('slash', 'Slashed', 'Slashed', 'bad', `${money(a.slashed)} ${token.value} of ${who}’s stake, ${money(a.to_victim)} of it to you`);
    tx('close', 'Closed', 'Closed on the chain', 'good', `${money(a.paid)} ${token.value} paid, ${money(a.refunded)} refunded${a.ending !== 'none' ? ` (${ENDINGS[a.ending] || a.ending})` : ''}`);
  });
  lines.sort((a, b) => a.at - b.at);
  return html`<${Panel} title="Story"><ol class="steps" aria-label="What happened">
    <li class="info"><span>Handed in</span><time>${when(job.created)}</time></li>
    ${lines.map((one, i) => html`<li key=${i} class=${one.kind}><span>${one.head}</span><time>${when(one.at)}</time>${one.more && html`<div class="more">${one.more}</div>`}</li>`)}</ol>
    ${!job.over && html`<p class="soft small">Now: ${LABELS[job.state] || job.state}${job.history.length ? `, for ${span(now - job.history.at(-1).at)}` : ''}.</p>`}<//>`;
}
const LABELS = { PENDING: 'Waiting', MATCHING: 'Asking the market', STARTING: 'Starting', RUNNING: 'Running', RECOVERING: 'Failover: looking for another provider', SUCCEEDED: 'Succeeded', FAILED: 'Failed', FAILED_SETUP: 'Could not be set up', FAILED_NO_RESOURCE: 'No provider found', CANCELLING: 'Being cancelled', CANCELLED: 'Cancelled' };

function Results({ job }) {
  if (!job.results.length && !(job.over && job.outputs.length)) return null;
  const file = (path) => (path.split('/').pop() || 'result').replace(/[^\w.+-]/g, '_').slice(0, 120) || 'result';
  return html`<${Panel} title="Results">${job.results.length ? html`<table><tbody>${job.results.map((one) => html`<tr key=${one.sha256 + one.path}><td><code>${one.path}</code><div class="soft small">${bytes(one.size_bytes)}, sha256 ${one.sha256.slice(0, 10)}…</div></td>
    <td class="num"><a class="button" download href=${`/api/blobs/${one.sha256}?name=${file(one.path)}`}>Download</a></td></tr>`)}</tbody></table>`
    : html`<p class="soft">It left nothing in ${job.outputs.join(', ')}.</p>`}<//>`;
}

function Agreements({ job, now }) {
  if (!job.agreements.length) return null;
  const failovers = Math.ceil(job.agreements.filter((a) => a.transactions.open).length / job.nodes) - 1;
  return html`<${Panel} flush title="Agreements" side=${failovers > 0 && html`<span class="chip warn">${plural(failovers, 'failover')}</span>`}>
    <div class="scroll" tabindex="0" role="region" aria-label="Agreements"><table><thead><tr><th>Agreement</th><th>Provider</th><th>Phase</th><th class="num">Price</th><th class="num">Held</th><th class="num">Ran</th><th class="num">Promised</th><th class="num">Paid</th><th class="num">Refunded</th><th class="num">Slashed</th></tr></thead>
    <tbody>${job.agreements.map((a) => html`<tr key=${a.id}><td><code title=${a.id}>${short(a.id, 8, 4)}</code></td><td><code title=${a.peer}>${short(a.peer, 6, 4)}</code></td>
      <td><span class=${`chip ${{ running: 'accent', settled: 'good', slashed: 'bad', closing: 'warn' }[a.phase] || ''}`}>${a.phase}</span>${a.ending !== 'none' && html` <span class="soft small">${ENDINGS[a.ending] || a.ending}</span>`}</td>
      <td class="num">${price(Number(a.price_per_hour))} ${token}/h${a.units > 1 ? ` × ${a.units}` : ''}</td><td class="num">${money(a.deposit)}</td><td class="num">${span(a.metered_s)}</td><td class="num">${money(a.promised)}</td><td class="num">${money(a.paid)}</td><td class="num">${money(a.refunded)}</td><td class="num">${Number(a.slashed) ? html`${money(a.slashed)}, <span class="soft">${money(a.to_victim)} to you</span>` : '–'}</td></tr>`)}</tbody></table></div><//>`;
}
