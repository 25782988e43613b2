// Provider: the machine, what it sells, who waits, what it earned and what was taken.
import { html, useEffect, useMemo, useState } from '../vendor/ui.js';
import { news, post } from '../lib/api.js';
import { count, money, percent, plural, price, short, span, time, toBase, when } from '../lib/format.js';
import { Ask, Copy, Empty, Facts, Histogram, Id, Loading, Panel, Tile, Tiles, Trouble, Tx, decimals, say, token, useAsk, useNow } from '../lib/parts.js';
import { useOffers } from './market.js';

const MODES = { open: ['good', 'Selling'], paused: ['warn', 'Paused'], draining: ['warn', 'Draining'] };
const OUTCOMES = {
  won: ['good', 'won', 'It was accepted.'], waiting: ['info', 'waiting', 'The requester has not chosen yet.'], lost: ['', 'lost', 'The requester chose another.'],
  expired: ['', 'expired', 'The requester said nothing while the units were held.'], declined: ['warn', 'declined', 'The requester did not take it as it was.'], void: ['warn', 'never funded', 'It was accepted, but not funded in time.'],
};

export default function Provider() {
  const { data, problem, reload } = useAsk('/api/provider', [news.changed], 1500);
  const { data: queue } = useAsk('/api/provider/queue', [news.changed], 2000);
  const { data: quotes } = useAsk('/api/provider/quotes', [news.changed], 2000);
  const { data: money_, problem: trouble } = useAsk('/api/provider/earnings', [news.changed], 10000);
  const now = useNow();
  const [asked, ask_] = useState('');
  useEffect(() => { const timer = setInterval(() => !document.hidden && reload(), 5000); return () => clearInterval(timer); }, []);
  if (!data) return problem ? html`<${Trouble} problem=${problem} again=${reload} />` : html`<${Loading} what="the provider" />`;
  if (!data.selling) return html`<div class="head"><h1>Provider</h1></div><${Panel}><${Empty} title="This node sells nothing">
    <p>To rent out this machine’s GPUs, type this on it:</p><p><${Copy} text="souk provider init"><code>souk provider init</code><//></p>
    <p>It finds the GPUs, checks the sandbox, suggests a price from the market and writes the <code>[provider]</code> table of the configuration. Then start the node again.</p>
    <p><a href="/">See what others ask</a></p><//><//>`;
  const [kind, mode] = MODES[data.mode] || ['', data.mode];
  const to = async (what) => { try { await post(`/api/provider/${what}`); reload(); } catch (failed) { say('bad', failed.message, failed.hint); } };
  const busy = data.machine.filter((unit) => unit.agreement).length;
  return html`<div class="head"><div class="grow"><h1>Provider</h1><div class="row"><span class=${`chip ${kind}`}>${mode}</span>${data.mode === 'draining' && html`<span class="soft">${data.drained ? 'Nothing runs any more: the machine may be switched off.' : `${plural(busy, 'unit')} still at work.`}</span>`}</div></div>
      <div class="row">${data.mode === 'open' ? html`<button onClick=${() => ask_('pause')}>Pause</button><button onClick=${() => ask_('drain')}>Drain</button>` : html`<button class="primary" onClick=${() => to('resume')}>Sell again</button>`}</div></div>
    <div class="stack"><${Trouble} problem=${trouble} />
    <${Tiles}>
      <${Tile} name="Units at work">${busy} <small>of ${data.machine.length}</small><//>
      <${Tile} name="Earned, settled">${money_ ? money(money_.payments) : '–'} <small>${token}</small><//>
      <${Tile} name="Earned, not settled yet">${money_ ? money(money_.pending) : '–'} <small>${token}</small><//>
      <${Tile} name="Slashed">${money_ ? money(money_.slashed) : '–'} <small>${token}</small><//>
    <//>
    <${Units} units=${data.machine} />
    <div class="two"><div class="stack"><${Prices} data=${data} reload=${reload} /><${Slashes} money_=${money_} /></div><div class="stack"><${Earnings} money_=${money_} /><${Stake} /></div></div>
    <${Queue} queue=${queue} data=${data} now=${now} />
    <${Quotes} quotes=${quotes} />
    </div>
    ${asked === 'pause' && html`<${Ask} title="Pause selling?" action="Pause" onClose=${() => ask_('')} onYes=${() => to('pause')}><p>No new quotes until you sell again, also after a restart. What runs goes on and is paid.</p><//>`}
    ${asked === 'drain' && html`<${Ask} title="Drain this machine?" action="Drain" onClose=${() => ask_('')} onYes=${() => to('drain')}><p>No new quotes; what runs may end in its own time. The page says when nothing is left and the machine may be switched off.</p><//>`}`;
}

function Units({ units }) {
  const show = (value, unit) => (value === null ? html`<span class="soft" title="The driver does not say">not known</span>` : `${count(value)} ${unit}`);
  return html`<${Panel} flush title="Units"><div class="scroll" tabindex="0" role="region" aria-label="Units"><table><thead><tr><th>Unit</th><th>Health</th><th>At work</th><th class="num">Load</th><th class="num">Memory</th><th class="num">Temperature</th><th class="num">Power</th></tr></thead>
    <tbody>${units.map((unit) => html`<tr key=${unit.index}><td><strong>${unit.name}</strong> <span class="soft small">no. ${unit.index}</span> ${unit.declared && html`<span class="chip">declared</span>`}</td>
      <td>${unit.healthy === null ? html`<span class="chip">not known</span>` : unit.healthy ? html`<span class="chip good">healthy</span>` : html`<span class="chip bad">unhealthy</span>`}<div class="soft small">${unit.reason}</div></td>
      <td>${unit.agreement ? html`<code>${short(unit.agreement, 8, 4)}</code> <span class="soft small">${unit.phase}</span>` : html`<span class="soft">idle</span>`}</td>
      <td class="num">${unit.utilisation === null ? show(null) : percent(unit.utilisation, 0)}</td>
      <td class="num">${unit.memory_used_mib === null ? html`<span class="soft">not known</span> of ${count(unit.ram_mib)} MiB` : `${count(unit.memory_used_mib)} of ${count(unit.ram_mib)} MiB`}</td>
      <td class="num">${unit.temperature_c === null ? show(null) : html`<span class=${unit.temperature_c >= 85 ? 'chip bad' : unit.temperature_c >= 75 ? 'chip warn' : ''}>${unit.temperature_c} °C</span>`}</td>
      <td class="num">${show(unit.power_w, 'W')}</td></tr>`)}</tbody></table></div><//>`;
}

function Prices({ data, reload }) {
  const { offers } = useOffers();
  const [at, setAt] = useState(0);
  const kind = data.kinds[Math.min(at, data.kinds.length - 1)];
  const [text, set] = useState('');
  const own = kind ? Number(kind.wares.find((ware) => !ware.preemptible)?.dph ?? kind.wares[0]?.dph) : 0;
  const prices = useMemo(() => (offers || []).filter((one) => one.gpu_name === kind?.name).map((one) => one.price), [offers, kind?.name]);
  if (!kind) return null;
  const typed = Number(text) || null;
  const base = toBase(text, decimals.value);
  const wrong = text !== '' && base === null;
  const dearer = prices.filter((one) => one > (typed || own)).length;
  const save = async (event) => {
    event.preventDefault();
    try { await post('/api/provider/price', { price_per_hour: text, name: kind.name, ram_mib: kind.ram_mib }); say('good', `${kind.name} now costs ${text} ${token.value}/h.`, 'What was quoted or agreed keeps its price.'); set(''); reload(); } catch (problem) { say('bad', problem.message, problem.hint); }
  };
  return html`<${Panel} title="Price" side=${data.kinds.length > 1 && html`<label class="row small soft">Of<select value=${at} onChange=${(event) => { setAt(Number(event.target.value)); set(''); }}>${data.kinds.map((one, i) => html`<option value=${i}>${one.name}</option>`)}</select></label>`}>
    <div class="stack"><p><strong class="num">${price(own)}</strong> ${token}/h for a ${kind.name} now${kind.wares.some((ware) => ware.preemptible) ? html`, <span class="num">${kind.wares.find((ware) => ware.preemptible).dph}</span> if it may be preempted` : ''}. <span class="soft">${prices.length > 1 ? `${dearer} of ${prices.length} offers of this model ask more than ${typed ? 'that' : 'you'}.` : 'Nobody else offers this model.'}</span></p>
    <${Histogram} prices=${prices} mine=${typed || own} label=${`Prices of ${kind.name}`} onCap=${(value) => set(String(Number(value.toPrecision(3))))} />
    <form onSubmit=${save}><div class="field"><label for="new-price">New price (${token}/h)</label><span class="row"><input id="new-price" class=${`grow ${wrong ? 'wrong' : ''}`} inputmode="decimal" value=${text} onInput=${(event) => set(event.target.value)} /><button class="primary" disabled=${!text || wrong || base === 0n}>Change the price</button></span></div></form>
    <p class="soft small">It holds until the node starts again; to keep it, write it to the configuration.</p></div><//>`;
}

function Earnings({ money_ }) {
  if (!money_) return html`<${Panel} title="Earnings by day"><${Loading} what="the chain" /><//>`;
  const days = money_.days.slice(-30);
  const top = Math.max(...days.map((day) => Math.abs(Number(day.net))), 1e-9);
  return html`<${Panel} title="Earnings by day" side=${html`<span class="soft small">UTC days, from the chain’s events</span>`}>
    ${days.length ? html`<div class="scroll" tabindex="0" role="region" aria-label="Days"><table><thead><tr><th>Day</th><th class="num">Paid</th><th class="num">Bonds</th><th class="num">Slashed</th><th class="num">Net</th><th><span class="hidden">As a bar</span></th></tr></thead>
      <tbody>${[...days].reverse().map((day) => html`<tr key=${day.day}><td class="nowrap">${day.day}</td><td class="num">${money(day.payments)}</td><td class="num">${money(day.bonds)}</td><td class="num">${Number(day.slashes) ? html`<span class="error">${money(day.slashes)}</span>` : '–'}</td><td class="num"><strong>${money(day.net)}</strong></td><td><div class=${`meter ${Number(day.net) < 0 ? 'bad' : ''}`} style=${{ width: '60px' }} aria-hidden="true"><span style=${{ width: `${(Math.abs(Number(day.net)) / top) * 100}%` }}></span></div></td></tr>`)}</tbody></table></div>`
    : html`<${Empty} title="Nothing earned yet"><p>Payments appear here when agreements are settled on the chain.</p><//>`}<//>`;
}

function Queue({ queue, data, now }) {
  return html`<${Panel} flush title="Queue" side=${html`<span class="soft small">policy <strong>${data.policy}</strong>, placement <strong>${data.placement}</strong></span>`}>
    ${queue?.length ? html`<div class="scroll" tabindex="0" role="region" aria-label="Queue"><table><thead><tr><th>Job</th><th>Requester</th><th>Kind</th><th class="num">Units</th><th class="num">Bid</th><th class="num">Priority</th><th class="num">Waits for</th><th class="num">Would start</th></tr></thead>
      <tbody>${queue.map((one) => html`<tr key=${one.demand}><td><code>${one.job.slice(0, 12)}</code></td><td><code>${short(one.requester, 6, 4)}</code></td><td>${one.kind}</td><td class="num">${one.units}</td><td class="num">${price(Number(one.bid))} ${token}/h</td><td class="num">${one.priority}</td><td class="num">${span(now - one.since)}</td><td class="num">${one.starts ? (one.starts <= now ? 'now' : `in ${span(one.starts - now)}`) : 'not known'}</td></tr>`)}</tbody></table></div>`
    : html`<p class="soft" style=${{ padding: '12px 16px' }}>Nobody waits. Demands that fit but cannot start yet stand here, in the policy’s order.</p>`}<//>`;
}

function Quotes({ quotes }) {
  const [show, set] = useState('all');
  const rows = (quotes || []).filter((one) => show === 'all' || one.outcome === show);
  const sums = useMemo(() => (quotes || []).reduce((all, one) => ({ ...all, [one.outcome]: (all[one.outcome] || 0) + 1 }), {}), [quotes]);
  return html`<${Panel} flush title="Quotes" side=${html`<label class="row small soft">Show<select value=${show} onChange=${(event) => set(event.target.value)}><option value="all">all</option>${Object.entries(sums).map(([name, n]) => html`<option value=${name}>${OUTCOMES[name]?.[1] || name} (${n})</option>`)}</select></label>`}>
    ${rows.length ? html`<div class="scroll" tabindex="0" role="region" aria-label="Quotes"><table><thead><tr><th>When</th><th>For</th><th>Requester</th><th class="num">Units</th><th class="num">Our price</th><th class="num">Their cap</th><th>What became of it</th></tr></thead>
      <tbody>${rows.slice(0, 60).map((one) => html`<tr key=${one.agreement}><td class="nowrap">${when(one.at)}</td><td><code>${one.job.slice(0, 12)}</code></td><td><code>${short(one.requester, 6, 4)}</code></td><td class="num">${one.units}</td><td class="num">${price(Number(one.dph))} ${token}/h</td><td class="num">${Number(one.bid) ? price(Number(one.bid)) : '–'}</td><td><span class=${`chip ${OUTCOMES[one.outcome]?.[0] ?? ''}`}>${OUTCOMES[one.outcome]?.[1] ?? one.outcome}</span> <span class="soft small">${one.reason || OUTCOMES[one.outcome]?.[2] || ''}</span></td></tr>`)}</tbody></table></div>`
    : html`<p class="soft" style=${{ padding: '12px 16px' }}>No quote yet. This node answers a demand when its offer is among the best for it.</p>`}<//>`;
}

function Stake() {
  const { data } = useAsk('/api/wallet', [news.money], 5000);
  return html`<${Panel} title="Stake and money" side=${html`<a class="button" href="/wallet">Withdraw or stake</a>`}>
    ${data ? html`<${Facts} rows=${[['Free to withdraw', `${money(data.deposited)} ${token.value}`], ['Stake, free', `${money(data.stake)} ${token.value}`], ['Stake, locked by agreements', `${money(data.locked)} ${token.value}`], ['Thawing', `${money(data.thawing)} ${token.value}`], ['Wallet', html`<${Id} value=${data.wallet} />`]]} />
      ${Number(data.stake) === 0 && Number(data.locked) === 0 && html`<div class="note warn"><p><strong>Nothing is staked.</strong></p><p>Without stake no agreement with collateral can be opened.</p></div>`}` : html`<${Loading} what="the escrow" />`}<//>`;
}

function Slashes({ money_ }) {
  return html`<${Panel} title="Slashes">${money_?.slashes.length ? html`<table><tbody>${money_.slashes.map((one) => html`<tr key=${one.slash_tx}><td><strong class="error">${money(one.amount)} ${token}</strong><div class="soft small">${when(one.at)}, agreement <code>${short(one.agreement, 8, 4)}</code>${one.last_heartbeat !== null ? `, last heartbeat no. ${one.last_heartbeat}` : ''}</div><div class="small">${one.challenge_tx && html`<div>challenge <${Tx} hash=${one.challenge_tx} /></div>`}<div>slash <${Tx} hash=${one.slash_tx} /></div></div></td></tr>`)}</tbody></table><p class="soft small">A challenge that is not answered in its window is the evidence: both transactions are on the chain.</p>`
    : html`<p class="soft">None. Stake is taken when a challenge is not answered in time, or for two different heartbeats with one number.</p>`}<//>`;
}
