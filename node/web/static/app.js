// The frame around every page: routes, navigation, connection and session.
import { html, render, signal, useEffect, useState } from './vendor/ui.js';
import { ask, link, listen, news } from './lib/api.js';
import { short } from './lib/format.js';
import { Loading, Toasts, Trouble, decimals, explorer, status, token } from './lib/parts.js';
import { account, resume, signIn, wallets, connect } from './lib/wallet.js';

const icon = (path) => html`<svg viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="1.8" stroke-linecap="round" stroke-linejoin="round" aria-hidden="true"><path d=${path} /></svg>`;
const PAGES = [
  { at: '/', name: 'Market', file: './pages/market.js', icon: 'M4 19V9M10 19V5M16 19v-7M22 19H2' },
  { at: '/new', name: 'New job', file: './pages/new.js', icon: 'M12 5v14M5 12h14' },
  { at: '/jobs', name: 'My jobs', file: './pages/jobs.js', icon: 'M4 6h16M4 12h16M4 18h10' },
  { at: '/wallet', name: 'Wallet', file: './pages/wallet.js', icon: 'M3 7h15a3 3 0 0 1 3 3v7a3 3 0 0 1-3 3H6a3 3 0 0 1-3-3zM3 7a3 3 0 0 1 3-3h10M17 13.5h.01' },
  { at: '/provider', name: 'Provider', file: './pages/provider.js', icon: 'M4 5h16v5H4zM4 14h16v5H4zM8 7.5h.01M8 16.5h.01' },
  { at: '/network', name: 'Network', file: './pages/network.js', icon: 'M12 5a2 2 0 1 0 0-.01M5 19a2 2 0 1 0 0-.01M19 19a2 2 0 1 0 0-.01M11 6.5 6 17M13 6.5l5 10.5M7 19h10' },
];

export const place = signal(location.pathname + location.search);
export function go(to, replace = false) {
  if (to === place.value) return;
  history[replace ? 'replaceState' : 'pushState'](null, '', to);
  place.value = to;
}
addEventListener('popstate', () => { place.value = location.pathname + location.search; });
document.addEventListener('click', (event) => {
  const a = event.target.closest?.('a[href]');
  if (!a || a.target || a.hasAttribute('download') || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey) return;
  if (a.origin !== location.origin || a.pathname.startsWith('/api')) return;
  if (a.pathname === location.pathname && a.search === location.search && a.hash) return;
  event.preventDefault();
  go(a.pathname + a.search);
  if (!a.closest('[data-keep]')) { scrollTo(0, 0); document.getElementById('main')?.focus({ preventScroll: true }); }
});

const loaded = new Map();
function pageAt(at) {
  const path = at.split('?')[0].replace(/(.)\/$/, '$1');
  return [PAGES.find((one) => one.at === path) || (path.startsWith('/jobs/') ? { name: 'Job', file: './pages/job.js' } : null), path];
}
function Page() {
  const [page, path] = pageAt(place.value);
  const [, redraw] = useState(0);
  useEffect(() => { document.title = `${page ? page.name : 'Not found'} · gridsouk`; }, [page?.name]);
  if (!page) return html`<div class="empty"><h1>There is no such page</h1><p><a href="/">Go to the market</a></p></div>`;
  const View = loaded.get(page.file);
  if (!View) {
    import(page.file).then((found) => { loaded.set(page.file, found.default); redraw((n) => n + 1); });
    return html`<${Loading} what="the page" />`;
  }
  return html`<${View} key=${page.file} path=${path} />`;
}

const session = signal(null);
async function start() {
  try {
    session.value = await ask('/api/session');
    if (!session.value.may_enter) { link.value = 'unknown'; return; }
    if (link.value === 'unknown') link.value = 'connecting';
    status.value = await ask('/api/status');
    token.value = status.value.token;
    decimals.value = status.value.decimals;
    explorer.value = status.value.explorer;
    listen();
    resume();
  } catch (problem) {
    if (problem.status !== 401) { link.value = 'lost'; setTimeout(start, 2000); }
  }
}

function Stranger() {
  const [problem, set] = useState(null);
  const enter = async (wallet) => {
    try { set(null); await connect(wallet, { anyChain: true }); await signIn(); await start(); } catch (error) { set(error); }
  };
  return html`<div class="empty"><h1>This node does not know your browser</h1>
    <p>Its owner opens the address that this prints, on the node's own machine:</p><p><code>souk dashboard</code></p>
    ${session.value?.wallets_may_enter && html`<p>Or sign in with a wallet that the owner has let in:</p>
      <div class="wallets">${wallets.value.map((one) => html`<button onClick=${() => enter(one)}>${one.info.name}</button>`)}
      ${!wallets.value.length && html`<p>No wallet was found in this browser.</p>`}</div>`}
    <${Trouble} problem=${problem} /></div>`;
}

const LINKS = { live: ['good', 'live'], connecting: ['warn', 'connecting'], lost: ['bad', 'node not reachable'], unknown: ['bad', 'not signed in'] };
function Frame() {
  const [kind, text] = LINKS[link.value];
  const path = place.value.split('?')[0];
  const node = status.value;
  useEffect(() => { if (link.value === 'live') ask('/api/status').then((found) => { status.value = found; }, () => {}); }, [link.value, Math.floor(news.changed.value / 4)]);
  return html`<a class="skip" href="#main">Skip to the content</a>
  <div class="frame"><header class="side">
      <a class="brand" href="/" aria-label="gridsouk, to the market"><img src="/icon.svg" alt="" width="26" height="26" /><span>gridsouk</span></a>
      <nav aria-label="Pages">${PAGES.map((one) => html`<a href=${one.at} aria-current=${path === one.at || (one.at === '/jobs' && path.startsWith('/jobs/')) ? 'page' : undefined}>${icon(one.icon)}${one.name}</a>`)}</nav>
      <div class="foot">
        ${account.value && html`<a class="wide" href="/wallet"><code>${short(account.value, 6, 4)}</code></a>`}
        ${node && html`<span class="wide clip">${node.network}</span>`}
        <span class="row nowrap" role="status"><span class=${`dot ${kind}`}></span><span class="say">${text}</span></span>
      </div></header>
    <div>
      ${link.value === 'lost' && html`<div class="banner" role="alert"><span class="spin"></span>The node does not answer. What you see is from before; it goes on by itself.</div>`}
      ${link.value === 'live' && node?.waiting_for && html`<div class="banner">Waiting for ${node.waiting_for}</div>`}
      <main class="main" id="main" tabindex="-1">${link.value === 'unknown' ? html`<${Stranger} />` : node ? html`<${Page} />` : html`<${Loading} what="the node" />`}</main>
    </div></div><${Toasts} />`;
}

render(html`<${Frame} />`, document.getElementById('app'));
const [first] = pageAt(place.value);
if (first) import(first.file); // while the node is asked who we are
start();
