// New job: the CLI's own file beside a form, what the market would answer, and the way to run it.
import { html, useEffect, useMemo, useRef, useState } from '../vendor/ui.js';
import { ask, news, post } from '../lib/api.js';
import { bytes, fromBase, money, plural, price, short, span, toBase } from '../lib/format.js';
import { Copy, Facts, Panel, Price, Trouble, decimals, say, status, token, useAsk } from '../lib/parts.js';
import { account, deposit, send } from '../lib/wallet.js';
import { edit, write } from '../lib/yaml.js';
import { go, place } from '../app.js';
import { offers, useOffers } from './market.js';
import { Connect, useRun } from './wallet.js';

const START = `name: my-job
image: base
resources:
  accelerators: "*:1"
run: echo hello from $(uname -n)
max_hourly_cost: "1.00"
max_duration: 10m
`;
const store = { get: (key) => localStorage.getItem(key), set: (key, value) => localStorage.setItem(key, value) };
// One key for one file, until it is handed in: a second try of the same is the same job, another is not.
function keyOf(text) {
  const [key, of] = JSON.parse(store.get('souk.draft.once') || '[]');
  if (of === text) return key;
  const made = crypto.randomUUID();
  store.set('souk.draft.once', JSON.stringify([made, text]));
  return made;
}

export default function New() {
  const query = new URLSearchParams(place.value.split('?')[1]);
  const [text, setText] = useState(() => {
    let begun = store.get('souk.draft') || START;
    if (query.get('gpu')) begun = edit(begun, ['resources', 'accelerators'], `${query.get('gpu')}:1`) ?? begun;
    if (query.get('max')) begun = edit(begun, ['max_hourly_cost'], query.get('max')) ?? begun;
    return begun;
  });
  const [read, setRead] = useState(null);
  const [problem, setProblem] = useState(null);
  const [files] = useState(() => new Map()); // path in the job -> File
  const [secrets] = useState(() => new Map());
  const [, redraw] = useState(0);
  useOffers();
  const change = (next) => { setText(next); store.set('souk.draft', next); };
  const look = useRef({ number: 0 });
  useEffect(() => {
    const timer = setTimeout(async () => {
      const mine = ++look.current.number;
      try {
        const said = await post('/api/drafts', { text });
        if (mine === look.current.number) { setRead((old) => (said.spec ? said : { ...said, spec: old?.spec })); setProblem(null); }
      } catch (failed) { setProblem(failed); }
    }, read ? 300 : 0);
    return () => clearTimeout(timer);
  }, [text, Math.floor(news.market.value / 3)]);
  const spec = read?.spec || {};
  const set = (path, value) => {
    const [top, inner] = path;
    const done = edit(text, path, value);
    if (done !== null) { change(done); return; }
    const next = structuredClone(spec);
    if (inner) next[top] = { ...(next[top] || {}), [inner]: value }; else next[top] = value;
    change(write(next));
  };
  return html`<div class="head"><div class="grow"><h1>New job</h1><p>The form and the file are the same thing; the command line takes the file too.</p></div>
      <${Copy} text=${command(text, read?.plan)} label="Copy as command" /></div>
    <div class="stack"><${Trouble} problem=${problem} />
      <div class="two" key="draft"><${Form} spec=${spec} set=${set} files=${files} text=${text} change=${change} redraw=${redraw} />
        <div class="stack"><${File_} text=${text} change=${change} read=${read} /><${Estimate} plan=${read?.plan} /></div></div>
      <${Ranking} plan=${read?.plan} />
      <${Run} key="run" text=${text} read=${read} files=${files} secrets=${secrets} redraw=${redraw} />
    </div>`;
}

const command = (text, plan) => `souk run - ${(plan?.secrets || []).map((name) => `--secret ${name} `).join('')}<<'JOB'\n${text.replace(/\n*$/, '\n')}JOB\n`;

function File_({ text, change, read }) {
  const wrong = read?.problem;
  const lines = text.split('\n').length;
  return html`<${Panel} title="Job file" side=${wrong ? html`<span class="chip bad">${wrong.line ? `line ${wrong.line}` : 'not in order'}</span>` : read?.plan ? html`<span class="chip good">in order</span>` : ''}>
    <textarea class=${`code ${wrong ? 'wrong' : ''}`} aria-label="Job file (YAML)" aria-invalid=${Boolean(wrong)} aria-describedby="file-problem" spellcheck="false" rows=${Math.min(26, Math.max(13, lines + 1))} value=${text} onInput=${(event) => change(event.target.value)}></textarea>
    <div id="file-problem" role="status">${wrong && html`<p class="error">${wrong.line ? `Line ${wrong.line}: ` : ''}${wrong.message}</p>${wrong.hint && html`<p class="soft small">${wrong.hint}</p>`}`}</div><//>`;
}

function Form({ spec, set, files, text, change, redraw }) {
  const { data: images } = useAsk('/api/drafts/images', [news.changed], 5000);
  const res = spec.resources || {};
  const said = typeof res.accelerators === 'string' ? res.accelerators : '';
  const [, gpu = '*', n = '1'] = /^(.*?)(?::(\d+))?$/.exec(said) || [];
  const names = useMemo(() => [...new Set((offers.value || []).map((one) => one.gpu_name))].sort(), [offers.value]);
  const field = (path, label, extra = {}) => html`<label class="field">${label}<input value=${(path[1] ? (spec[path[0]] || {})[path[1]] : spec[path[0]]) ?? ''} onChange=${(event) => set(path, event.target.value.trim())} autocomplete="off" ...${extra} /></label>`;
  const addFiles = (event) => {
    const mounts = { ...(spec.file_mounts || {}) };
    for (const file of event.target.files) { const path = `/in/${file.name}`; files.set(path, file); mounts[path] = `./${file.name}`; }
    event.target.value = '';
    change(write({ ...spec, file_mounts: mounts }));
  };
  const drop = (path) => { const mounts = { ...spec.file_mounts }; delete mounts[path]; files.delete(path); change(write({ ...spec, file_mounts: mounts })); };
  return html`<${Panel} title="Form"><div class="stack">
    <div class="fields">${field(['name'], 'Name', { maxlength: 64 })}
      <label class="field">Image<input list="images" value=${spec.image ?? ''} onChange=${(event) => set(['image'], event.target.value.trim())} autocomplete="off" placeholder="base, or docker.io/…" /></label><datalist id="images">${(images || []).map((one) => html`<option value=${one.name}>${bytes(one.size_bytes)}</option>`)}</datalist></div>
    <label class="field">Command<textarea class="code" rows="3" spellcheck="false" value=${spec.run ?? ''} onChange=${(event) => set(['run'], event.target.value)}></textarea></label>
    <div class="fields">
      <label class="field">GPU<input list="gpus" value=${gpu} onChange=${(event) => set(['resources', 'accelerators'], `${event.target.value.trim() || '*'}:${n}`)} /></label><datalist id="gpus"><option value="*">any</option>${names.map((name) => html`<option value=${name} />`)}</datalist>
      <label class="field">How many<input type="number" min="1" max="256" value=${n} onChange=${(event) => set(['resources', 'accelerators'], `${gpu}:${event.target.value || 1}`)} /></label>
      ${field(['resources', 'vram'], 'VRAM, at least', { placeholder: '24GB' })}
      ${field(['resources', 'cpus'], 'CPU cores, at least', { inputmode: 'numeric' })}
      ${field(['resources', 'memory'], 'Memory, at least', { placeholder: '16GB' })}
      ${field(['resources', 'disk_size'], 'Disk', { placeholder: '10GB' })}
    </div>
    <div class="fields">
      ${field(['max_hourly_cost'], `Pay at most, ${token.value}/h`, { inputmode: 'decimal' })}
      ${field(['max_duration'], 'For at most', { placeholder: '2h' })}
      ${field(['value_of_time'], `An hour of waiting is worth, ${token.value}`, { inputmode: 'decimal', placeholder: 'as the cap' })}
    </div>
    <details><summary>Files, variables, results, checkpoints, limits</summary><div class="stack" style=${{ paddingTop: '12px' }}>
      <div><label class="field">Add files (the job sees them in /in)<input type="file" multiple onChange=${addFiles} /></label>
        ${Object.entries(spec.file_mounts || {}).map(([path, source]) => html`<div class="row small"><code>${path}</code><span class="soft">${files.has(path) ? bytes(files.get(path).size) : `${source}: choose it below, a page cannot read it`}</span><button type="button" class="plain tiny" onClick=${() => drop(path)} aria-label=${`Remove ${path}`}>Remove</button></div>`)}</div>
      <label class="field">Variables, a NAME=value a line<textarea class="code" rows="2" spellcheck="false" value=${Object.entries(spec.envs || {}).map(([key, value]) => `${key}=${value}`).join('\n')} onChange=${(event) => change(write({ ...spec, envs: Object.fromEntries(event.target.value.split('\n').filter((line) => line.includes('=')).map((line) => [line.slice(0, line.indexOf('=')).trim(), line.slice(line.indexOf('=') + 1)])) }))}></textarea></label>
      <div class="fields">
        <label class="field">Results are in<input placeholder="/out" value=${[].concat(spec.outputs || []).join(', ')} onChange=${(event) => change(write({ ...spec, outputs: event.target.value.split(',').map((one) => one.trim()).filter(Boolean) }))} /></label>
        ${field(['checkpoint', 'path'], 'Checkpoints are in', { placeholder: '/ckpt' })}${field(['checkpoint', 'interval'], 'Fetched every', { placeholder: '5m' })}
        ${field(['min_reliability'], 'Reliability, at least', { placeholder: '0.97' })}${field(['resources', 'region'], 'Region')}${field(['deadline'], 'Done by', { placeholder: '6h' })}
      </div></div></details></div><//>`;
}

function Estimate({ plan }) {
  if (!plan) return null;
  const e = plan.estimate;
  return html`<${Panel} title="What it would cost">${e ? html`<${Facts} rows=${[
      ['Expected', html`<strong>${money(e.expected_cost)} ${token}</strong> <span class="soft">with the risk of a failure</span>`],
      ['Of that for the provider', `${money(e.price)} ${token.value}`],
      ['Result ready in', `${span(e.ready_s)}, of which ${span(e.run_s)} run${e.is_guess ? ' (a guess: the file gives no estimate)' : ''}`],
      ['Held in the escrow', html`<strong>${money(plan.held)} ${token}</strong> <span class="soft">for the whole ${span(plan.max_duration_s)} and a bond</span>`],
      ['Comes back, if as expected', `${money(plan.refundable)} ${token.value}`],
    ]} />` : html`<p class="soft sentence">${plan.waiting || 'No offer fits now.'}</p>`}
    <p class="soft small">Never more than ${money(plan.max_hold)} ${token}: ${money(plan.max_hourly_cost)} an hour for ${span(plan.max_duration_s)}.</p><//>`;
}

function Ranking({ plan }) {
  if (!plan) return null;
  const rows = plan.ranking;
  const top = Math.max(...rows.map((one) => Number(one.cost.total)), 1e-12);
  const wide = (value) => ({ width: `${(Number(value) / top) * 100}%` });
  const ex = plan.explanation;
  return html`<${Panel} flush title="What the market would answer now" side=${html`<span class="small soft"><span class="key price"></span>price <span class="key time"></span>waiting <span class="key risk"></span>risk, all in ${token}</span>`}>
    ${rows.length ? html`<div class="scroll" tabindex="0" role="region" aria-label="Ranking"><table><thead><tr><th>Offer</th><th class="num">Price</th><th>Why: what it costs you in all</th><th class="num">Total</th><th class="num">Result in</th><th class="num">Held</th></tr></thead>
      <tbody>${rows.map((one, i) => html`<tr key=${`${one.peer}${one.offer}`}><td><strong>${one.gpu_name}</strong>${one.units > 1 ? ` × ${one.units}` : ''} <span class="soft small"><code>${short(one.provider, 6, 4)}</code> ${one.geolocation}</span>${one.chosen && html` <span class="chip good">chosen</span>`}</td>
        <td class="num">${price(Number(one.dph))} ${token}/h</td>
        <td style=${{ minWidth: '220px' }}><div class="bar" role="img" aria-label=${`price ${money(one.cost.price)}, waiting ${money(one.cost.waiting)}, risk ${money(one.cost.risk)} ${token.value}`}><span style=${wide(one.cost.price)}></span><span style=${wide(one.cost.waiting)}></span><span style=${wide(one.cost.risk)}></span></div>
          <div class="soft small num">${money(one.cost.price)} + ${money(one.cost.waiting)} for ${span(one.seconds.ready)} + ${money(one.cost.risk)}${i === 0 ? '' : ` (${money(Number(one.cost.total) - Number(rows[0].cost.total))} more than the best)`}</div></td>
        <td class="num"><strong>${money(one.cost.total)}</strong></td><td class="num" title=${`queue ${span(one.seconds.queue)}, transfer ${span(one.seconds.transfer)}, start ${span(one.seconds.start_up)}, run ${span(one.seconds.run)}`}>${span(one.seconds.ready)}</td><td class="num">${money(one.held)}</td></tr>`)}</tbody></table></div>
      <p class="soft small" style=${{ padding: '10px 16px' }}>${plural(ex.fitting, 'offer')} of ${ex.considered} fit. The cheapest in all is chosen, not the cheapest an hour: slow or unreliable machines pay for it here.</p>`
    : html`<div class="empty"><h2>${ex.considered ? `None of ${plural(ex.considered, 'live offer')} fits` : 'No offer was heard yet'}</h2>
        ${ex.relaxations.length > 0 && html`<p>The nearest ways to a match:</p><ul style=${{ textAlign: 'left', margin: 0 }}>${ex.relaxations.map((one) => html`<li>${one.sentence}</li>`)}</ul>`}
        ${ex.removed.length > 0 && html`<p class="small">Removed by: ${ex.removed.map((one) => `${one.constraint.replaceAll('_', ' ')} (${one.offers})`).join(', ')}.</p>`}
        <p class="small">You may submit it all the same: it waits until something fits.</p></div>`}<//>`;
}

// The way from a file to a running job: bytes, money, permission, submission. Each step says whether it is done.
function Run({ text, read, files, secrets, redraw }) {
  const node = status.value;
  const plan = read?.plan;
  const { data: held, reload } = useAsk(`/api/wallets/${node.wallet}`, [news.money, news.changed], 3000);
  const { busy, problem, run } = useRun();
    if (!plan) return html`<${Panel} title="Run it"><p class="soft">${read?.problem ? 'Correct the file first.' : 'Reading the file…'}</p><//>`;
  const need = toBase(Number(plan.held) ? plan.held : plan.max_hold, decimals.value);
  const free = held && toBase(held.free, decimals.value);
  const may = held && (held.allowance === 'unlimited' ? need : held.allowance_live ? toBase(held.allowance, decimals.value) : 0n);
  const mounts = Object.keys(plan.mounts);
  const lacking = mounts.filter((path) => !files.has(path));
  const silent = plan.secrets.filter((name) => !secrets.get(name));
  const mine = account.value && account.value === node.wallet;
  const steps = [
    { name: 'Files and secrets', done: !lacking.length && !silent.length, text: mounts.length || plan.secrets.length ? `${plural(mounts.length, 'file')}, ${plural(plan.secrets.length, 'secret')}` : 'the job needs none' },
    { name: 'Money in the escrow', done: held && free >= need, text: held ? `${money(held.free)} ${token.value} free, ${money(fromBase(need, decimals.value))} will be held` : 'reading…' },
    { name: 'The node may use it', done: held && may >= need, text: held ? (held.allowance === 'unlimited' ? 'without a limit' : held.allowance_live ? `${money(held.allowance)} ${token.value} more, of ${money(fromBase(need, decimals.value))} needed` : 'not yet, or no longer') : 'reading…' },
  ];
  const ready = steps.every((step) => step.done);
  const missing = held && free < need ? fromBase(need - free, decimals.value) : '';
  const round = (amount) => fromBase(((toBase(amount, decimals.value) + 10n ** BigInt(decimals.value) - 1n) / 10n ** BigInt(decimals.value)) * 10n ** BigInt(decimals.value), decimals.value);
  const submit = () => run('Sending', async (step) => {
    const image = await imageOf(plan.image, step);
    const inputs = [];
    for (const path of mounts) inputs.push(await upload(files.get(path), path, step));
    step('Handing the job in');
    const made = await post('/api/jobs', { spec: read.spec, image, inputs, secrets: Object.fromEntries(secrets) }, { 'idempotency-key': keyOf(text) });
    store.set('souk.draft.once', '[]');
    say('good', `${plan.name} is handed in.`);
    go(`/jobs/${made.id}`);
  });
  return html`<${Panel} title="Run it">
    ${steps.map((step, i) => html`<div class=${`task ${step.done ? 'done' : ''}`} key=${step.name}><span class="n">${step.done ? '✓' : i + 1}</span><div><strong>${step.name}</strong><span class="hidden">${step.done ? ' (done)' : ' (to do)'}</span><div class="soft small">${step.text}</div></div>
      <div class="row">${i === 1 && missing && mine && html`<button disabled=${busy} onClick=${() => run('Preparing the deposit', (say_) => deposit(round(missing), say_)).then(reload)}>Deposit ${money(round(missing))} ${token}</button>`}
        ${i === 2 && held && !step.done && mine && html`<button disabled=${busy} onClick=${() => run('Authorise: answer in your wallet', () => send('authorise', { allowance: round(fromBase(need * 2n, decimals.value)), expires: Math.floor(held.now) + 30 * 86400 })).then(reload)}>Authorise ${money(round(fromBase(need * 2n, decimals.value)))} ${token}</button>`}</div></div>
      ${i === 0 && lacking.map((path) => html`<label class="field">File for ${path} (${plan.mounts[path]})<input type="file" onChange=${(event) => { if (event.target.files[0]) { files.set(path, event.target.files[0]); redraw((n) => n + 1); } }} /></label>`)}
      ${i === 0 && plan.secrets.map((name) => html`<label class="field">Secret ${name} (sealed to the provider, kept nowhere else)<input type="password" autocomplete="off" value=${secrets.get(name) || ''} onInput=${(event) => { secrets.set(name, event.target.value); redraw((n) => n + 1); }} /></label>`)}`)}
    <div class="stack" style=${{ paddingTop: '14px' }}>
      ${!mine && !(steps[1].done && steps[2].done) && (account.value ? html`<div class="note warn"><p>This node is paid by the wallet <code>${short(node.wallet, 8, 6)}</code>; yours is another. Choose that account in your wallet.</p></div>` : html`<${Connect}><p class="soft">Connect the wallet <code>${short(node.wallet, 8, 6)}</code> to deposit and authorise.</p><//>`)}
      <${Trouble} problem=${problem} />
      ${busy ? html`<p class="row" role="status"><span class="spin"></span>${busy}…</p>` : ''}
      <div class="row"><button class="primary" disabled=${!ready || Boolean(busy)} onClick=${submit}>Run the job</button>
      <span class="soft small">${ready ? `Up to ${money(plan.max_hold)} ${token.value} may be held. No further signature is needed, also when a provider fails.` : 'The steps above come first.'}</span></div>
    </div><//>`;
}

async function imageOf(name, step) {
  const images = await ask('/api/drafts/images');
  const found = images.find((one) => one.name === name);
  if (found && !found.built) return { path: found.path || name, sha256: found.sha256, size_bytes: found.size_bytes };
  if (!found && /[/:]/.test(name)) return null; // the node finds it in its registry
  if (!found) throw Object.assign(new Error(`This node has no image called ${name}.`), { hint: `Build it on the node’s machine: souk image build ${name}` });
  step(`Reading the image ${name}`);
  return post('/api/drafts/images', { name });
}

const WHOLE_MAX = 1024 ** 3; // a browser hashes a file only in one piece
function upload(file, path, step) {
  if (file.size > WHOLE_MAX) throw Object.assign(new Error(`${file.name} is larger than ${bytes(WHOLE_MAX)}.`), { hint: 'Hand this job in by the command line: it sends in parts.' });
  return (async () => {
    step(`Hashing ${file.name}`);
    const hash = [...new Uint8Array(await crypto.subtle.digest('SHA-256', await file.arrayBuffer()))].map((byte) => byte.toString(16).padStart(2, '0')).join('');
    const named = { path, sha256: hash, size_bytes: file.size };
    if ((await ask(`/api/blobs/${hash}/size`)).size_bytes !== null) return named;
    await new Promise((done, fail) => {
      const send_ = new XMLHttpRequest();
      send_.open('PUT', '/api/blobs');
      send_.setRequestHeader('x-sha256', hash);
      send_.upload.onprogress = (event) => step(`Sending ${file.name}: ${bytes(event.loaded)} of ${bytes(file.size)}`);
      send_.onload = () => (send_.status < 300 ? done() : fail(Object.assign(new Error(JSON.parse(send_.responseText || '{}').message || `the node answered ${send_.status}`), { hint: '' })));
      send_.onerror = () => fail(Object.assign(new Error('The node went away while the file was sent.'), { hint: 'Try again when it is back.' }));
      send_.send(file);
    });
    return named;
  })();
}
