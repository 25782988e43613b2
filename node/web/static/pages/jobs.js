// My jobs: what runs, what ran, what it cost.
import { html } from '../vendor/ui.js';
import { news } from '../lib/api.js';
import { ago, money, plural, short, span, when } from '../lib/format.js';
import { Copy, Empty, Loading, Panel, Tile, Tiles, Trouble, token, useAsk, useNow } from '../lib/parts.js';
import { go, place } from '../app.js';

export const STATES = {
  PENDING: ['info', 'Waiting'], MATCHING: ['info', 'Looking for a provider'], STARTING: ['info', 'Starting'], RUNNING: ['accent', 'Running'], RECOVERING: ['warn', 'Moving on to another provider'],
  SUCCEEDED: ['good', 'Succeeded'], FAILED: ['bad', 'Failed'], FAILED_SETUP: ['bad', 'Could not be set up'], FAILED_NO_RESOURCE: ['bad', 'No provider found'], CANCELLING: ['warn', 'Being cancelled'], CANCELLED: ['', 'Cancelled'],
};
export const State = ({ of }) => html`<span class=${`chip ${STATES[of]?.[0] ?? ''}`}>${STATES[of]?.[1] ?? of}</span>`;

// How long the money that is locked now still lasts, in seconds; null where nothing runs.
export const timeLeft = (job, now) => (job.ends && job.state === 'RUNNING' ? job.ends - now : null);
export const Left = ({ job, now }) => {
  const left = timeLeft(job, now);
  if (left === null) return '–';
  return html`<span class=${left < 300 ? 'chip bad' : left < 1800 && left < job.max_duration_s / 4 ? 'chip warn' : 'num'}>${left > 0 ? span(left) : 'used up'}</span>`;
};

export default function Jobs() {
  const { data, problem, reload } = useAsk('/api/jobs', [news.changed]);
  const now = useNow();
  const show = new URLSearchParams(place.value.split('?')[1]).get('show') || 'all';
  if (!data) return problem ? html`<${Trouble} problem=${problem} again=${reload} />` : html`<${Loading} what="your jobs" />`;
  const live = data.filter((job) => !job.over);
  const rows = show === 'live' ? live : show === 'over' ? data.filter((job) => job.over) : data;
  const sum = (key) => data.reduce((total, job) => total + Number(job[key]), 0);
  return html`<div class="head"><div class="grow"><h1>My jobs</h1><p>A job whose provider fails goes on elsewhere from its last checkpoint.</p></div><a class="button primary" href="/new">New job</a></div>
    <${Tiles}><${Tile} name="Running or waiting">${live.length}<//><${Tile} name="Paid so far">${money(sum('paid'))} <small>${token}</small><//>
      <${Tile} name="Locked now">${money(live.reduce((total, job) => total + Number(job.deposit), 0))} <small>${token}</small><//><${Tile} name="Compensation received">${money(sum('compensated'))} <small>${token}</small><//><//>
    <${Panel} flush title=${plural(rows.length, 'job')} side=${html`<label class="row small soft">Show<select value=${show} onChange=${(event) => go(event.target.value === 'all' ? '/jobs' : `/jobs?show=${event.target.value}`, true)}>${[['all', 'all'], ['live', 'not over'], ['over', 'over']].map(([value, name]) => html`<option value=${value} selected=${show === value}>${name}</option>`)}</select></label>`}>
    ${rows.length ? html`<div class="scroll" tabindex="0" role="region" aria-label="Jobs"><table class="cards"><thead><tr><th>Job</th><th>State</th><th>Provider</th><th class="num">Ran</th><th class="num">Spent of cap</th><th class="num">Money lasts</th><th class="num">Heard</th><th class="num">Handed in</th></tr></thead>
      <tbody>${rows.map((job) => html`<tr key=${job.id}>
        <td><a href=${`/jobs/${job.id}`}><strong>${job.name}</strong></a><div class="soft small"><code>${job.id.slice(0, 12)}</code></div></td>
        <td><${State} of=${job.state} />${job.attempts > 1 && html` <span class="chip warn">${plural(job.attempts - 1, 'failover')}</span>`}<div class="soft small">${job.reason}</div></td>
        <td>${job.provider ? html`<code title=${job.provider}>${short(job.provider, 6, 4)}</code>` : '–'}</td>
        <td class="num">${span(job.metered_s)}</td>
        <td class="num">${money(job.promised)} <span class="soft small">of ${money(cap(job))} ${token}</span></td>
        <td class="num"><${Left} job=${job} now=${now} /></td>
        <td class="num soft">${!job.over && job.last_heard ? ago(job.last_heard, now) : '–'}</td>
        <td class="num soft">${when(job.created)}</td></tr>`)}</tbody></table></div>`
    : html`<${Empty} title=${data.length ? 'None of them' : 'No job yet'}>${data.length ? html`<p>Choose another view.</p>` : html`<p>Say what to run and what it may cost; the market does the rest.</p><p><a class="button primary" href="/new">Write a job</a></p><p class="small">From a file: <${Copy} text="souk run job.yaml"><code>souk run job.yaml</code><//></p>`}<//>`}<//>`;
}
export const cap = (job) => (Number(job.max_price_per_hour) * (job.units || 1) * (job.nodes || 1) * job.max_duration_s) / 3600;
