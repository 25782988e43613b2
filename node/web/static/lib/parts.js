// Pieces that every page shares: errors, panels, tiles, dialogs, messages, copying, loading.
import { html, signal, useEffect, useRef, useState } from '../vendor/ui.js';
import { ask, link } from './api.js';
import { price, short } from './format.js';

export const token = signal('');
export const decimals = signal(6);
export const explorer = signal('');
export const status = signal(null);

// Reads `path` now and whenever one of `signals` moves, at most once in `pause` ms.
export function useAsk(path, signals = [], pause = 400) {
  const [state, set] = useState({ data: null, problem: null });
  const busy = useRef({ running: false, again: false, at: 0, timer: 0, gone: false });
  const marks = signals.map((one) => one.value).join();
  const load = async () => {
    const own = busy.current;
    if (own.running) { own.again = true; return; }
    own.running = true;
    own.at = Date.now();
    try {
      const data = await ask(path);
      if (!own.gone && own.path === path) set({ data, problem: null });
    } catch (problem) {
      if (!own.gone && own.path === path) set((old) => ({ data: problem.status === 404 ? null : old.data, problem }));
    }
    own.running = false;
    if (own.again && !own.gone) { own.again = false; plan(); }
  };
  const plan = () => {
    const own = busy.current;
    clearTimeout(own.timer);
    own.timer = setTimeout(load, Math.max(0, own.at + pause - Date.now()));
  };
  useEffect(() => {
    const own = busy.current;
    own.gone = false;
    if (own.path !== path) { own.path = path; own.at = 0; set({ data: null, problem: null }); }
    plan();
  }, [path, marks, link.value]);
  useEffect(() => () => { busy.current.gone = true; clearTimeout(busy.current.timer); }, []);
  return { ...state, reload: load };
}

// The time, for ages that grow; ticks each `every` ms while the page is seen.
export function useNow(every = 1000) {
  const [now, set] = useState(Date.now() / 1000);
  useEffect(() => {
    const timer = setInterval(() => { if (!document.hidden) set(Date.now() / 1000); }, every);
    return () => clearInterval(timer);
  }, [every]);
  return now;
}

export const Trouble = ({ problem, again }) => problem && html`
  <div class="note bad" role="alert"><p><strong>${problem.message}</strong></p>
    ${problem.hint && html`<p>${problem.hint}</p>`}
    ${again && html`<div><button class="tiny" onClick=${again}>Try again</button></div>`}</div>`;

export const Loading = ({ what }) => html`<div class="empty" role="status"><span class="spin"></span>Reading ${what}…</div>`;

export const Empty = ({ title, children }) => html`<div class="empty"><h2>${title}</h2>${children}</div>`;

export const Panel = ({ title, side, flush, children, ...rest }) => html`
  <section class=${`panel ${flush ? 'flush' : ''}`} aria-label=${flush ? undefined : title} ...${rest}>
    ${title && html`<header><h2>${title}</h2>${side}</header>`}${children}</section>`;

export const Tile = ({ name, children }) => html`<div class="tile"><dt>${name}</dt><dd>${children}</dd></div>`;
export const Tiles = ({ children }) => html`<dl class="tiles">${children}</dl>`;

export const Facts = ({ rows }) => html`<dl class="facts">${rows.filter(Boolean).map(([name, value]) => html`
  <dt>${name}</dt><dd>${value}</dd>`)}</dl>`;

export const Price = ({ value, unit = '/h' }) => html`<span class="num nowrap">${price(Number(value))} <span class="soft small">${token.value}${unit}</span></span>`;

export function Copy({ text, label = 'Copy', children }) {
  const [done, set] = useState(false);
  const copy = async () => {
    try { await navigator.clipboard.writeText(text); set(true); setTimeout(() => set(false), 1500); } catch { say('bad', 'The browser did not let the page copy.', 'Select the text and copy it by hand.'); }
  };
  return html`<span class="copy">${children}<button type="button" class=${children ? 'icon' : ''} onClick=${copy} title=${label} aria-label=${`${label}: ${text.slice(0, 40)}`}>
    <svg viewBox="0 0 16 16" width="14" height="14" fill="none" stroke="currentColor" stroke-width="1.6" aria-hidden="true"><path d=${done ? 'm3 8.5 3.2 3.2L13 4.8' : 'M5.5 5.5h8v8h-8zM10.5 5.5v-3h-8v8h3'} /></svg>${children ? '' : done ? 'Copied' : label}</button>
    <span class="hidden" role="status">${done ? 'Copied' : ''}</span></span>`;
}

export const Id = ({ value, head = 8, tail = 4 }) => (value ? html`<${Copy} text=${value}><code title=${value}>${short(value, head, tail)}</code><//>` : '–');

export const Tx = ({ hash }) => (explorer.value
  ? html`<a href=${`${explorer.value.replace(/\/$/, '')}/tx/${hash}`} target="_blank" rel="noreferrer noopener"><code>${short(hash, 8, 4)}</code></a>`
  : html`<${Copy} text=${hash}><code title=${`${hash} (this chain has no explorer)`}>${short(hash, 8, 4)}</code><//>`);

export const Meter = ({ share, label, kind = '' }) => html`
  <div class=${`meter ${kind}`} role="img" aria-label=${label}><span style=${{ width: `${Math.max(0, Math.min(1, share)) * 100}%` }}></span></div>`;

// Messages in the corner, read out politely.
const messages = signal([]);
let next = 1;
export function say(kind, text, hint = '', keep = kind === 'bad' ? 12000 : 6000) {
  const id = next++;
  messages.value = [...messages.value.slice(-3), { id, kind, text, hint }];
  if (keep) setTimeout(() => { messages.value = messages.value.filter((one) => one.id !== id); }, keep);
}
export const Toasts = () => html`<div class="toasts" role="status" aria-live="polite">${messages.value.map((one) => html`
  <div class=${`note ${one.kind}`} key=${one.id}><p><strong>${one.text}</strong></p>${one.hint && html`<p>${one.hint}</p>`}</div>`)}</div>`;

export function Dialog({ title, drawer, onClose, children }) {
  const ref = useRef();
  useEffect(() => {
    const dialog = ref.current;
    if (!dialog.open) dialog.showModal();
    return () => dialog.close();
  }, []);
  return html`<dialog ref=${ref} class=${drawer ? 'drawer' : ''} aria-label=${title} onClose=${onClose}
      onClick=${(event) => event.target === ref.current && ref.current.close()}>
    <div class="inner"><div class="row"><h2>${title}</h2><button class="plain close" onClick=${() => ref.current.close()}>Close</button></div>${children}</div></dialog>`;
}

export function Ask({ title, action, kind = 'primary', disabled, onYes, onClose, children }) {
  const [busy, set] = useState(false);
  const yes = async () => { set(true); try { await onYes(); onClose(); } catch (problem) { set(false); say('bad', problem.message, problem.hint); } };
  return html`<${Dialog} title=${title} onClose=${onClose}>${children}
    <div class="row"><button class=${kind} disabled=${busy || disabled} onClick=${yes}>${busy ? html`<span class="spin"></span>` : ''}${action}</button>
    <button onClick=${onClose}>Not now</button></div><//>`;
}

// Prices of one class of GPU as bars; a click or the slider sets the cap.
export function Histogram({ prices, cap, mine, onCap, label }) {
  if (!prices.length) return html`<div class="empty">No price to show.</div>`;
  const sorted = [...prices].sort((a, b) => a - b);
  const low = sorted[0];
  const high = sorted[Math.min(sorted.length - 1, Math.ceil(sorted.length * 0.98))];
  const edge = high > low ? (high - low) * 0.04 : low * 0.1 || 1;
  const from = Math.max(0, low - edge);
  const to = Math.max(high, mine || 0) + edge;
  const bins = 40;
  const counts = Array(bins).fill(0);
  for (const one of sorted) counts[Math.min(bins - 1, Math.floor(((one - from) / (to - from)) * bins))]++;
  const top = Math.max(...counts);
  const x = (value) => ((value - from) / (to - from)) * 400;
  const at = (share) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))];
  const click = (event) => {
    if (!onCap) return;
    const box = event.currentTarget.getBoundingClientRect();
    onCap(from + ((event.clientX - box.left) / box.width) * (to - from));
  };
  return html`<div class="stack">
    <svg class="hist" viewBox="0 0 400 100" preserveAspectRatio="none" role="img" aria-label=${`${label}: ${prices.length} prices from ${price(low)} to ${price(sorted.at(-1))}, median ${price(at(0.5))} ${token.value} an hour`} onClick=${click}>
      ${counts.map((n, i) => n > 0 && html`<rect x=${i * (400 / bins) + 1} width=${400 / bins - 2} y=${100 - (n / top) * 92} height=${(n / top) * 92} class=${cap && from + ((i + 0.5) / bins) * (to - from) > cap ? 'out' : ''} />`)}
      <line x1=${x(at(0.5))} x2=${x(at(0.5))} y1="0" y2="100" vector-effect="non-scaling-stroke" />
      ${mine && html`<line class="mine" x1=${x(mine)} x2=${x(mine)} y1="0" y2="100" vector-effect="non-scaling-stroke" />`}
      ${cap && cap < to && html`<line class="cap" x1=${x(cap)} x2=${x(cap)} y1="0" y2="100" vector-effect="non-scaling-stroke" />`}
    </svg>
    ${onCap && html`<input type="range" aria-label="Highest price per hour" min=${from} max=${to} step=${(to - from) / 200} value=${Math.min(cap || to, to)} onInput=${(event) => onCap(Number(event.target.value))} />`}
    <div class="legend num"><span>10 %: ${price(at(0.1))}</span><span>median: ${price(at(0.5))}</span><span>90 %: ${price(at(0.9))}</span><span>${token.value} per GPU-hour</span>${mine && html`<span>yours: ${price(mine)}</span>`}</div>
  </div>`;
}

