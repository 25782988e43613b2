// Network: who is connected, what gossip carries, how fresh the table of offers is.
import { html, useEffect, useRef, useState } from '../vendor/ui.js';
import { ago, bytes, count, percent, plural, short, span } from '../lib/format.js';
import { Empty, Facts, Id, Loading, Panel, Tile, Tiles, Trouble, useAsk, useNow } from '../lib/parts.js';

// Counters of two looks, as rates; null before the second look.
function useRates(data) {
  const last = useRef(null);
  const [rates, set] = useState(null);
  useEffect(() => {
    if (!data) return;
    if (last.current && data.now > last.current.now) {
      const seconds = data.now - last.current.now;
      const rate = (name) => Math.max(0, (data.counters[name] - last.current.counters[name]) / seconds);
      set({ messages: rate('messages'), published: rate('published'), in: rate('bytes_in'), out: rate('bytes_out') });
    }
    last.current = data;
  }, [data]);
  return rates;
}

const reachText = (reach) => reach.reachable === null ? 'not yet known' : reach.reachable ? 'yes'
  : reach.relays.length ? `through relay ${reach.relays.map((key) => short(key, 8, 6)).join(' and ')}` : html`<span class="chip warn">no, and no relay found yet</span>`;

export default function Network() {
  const { data, problem, reload } = useAsk('/api/network', [], 1000);
  const rates = useRates(data);
  const now = useNow();
  useEffect(() => { const timer = setInterval(() => !document.hidden && reload(), 4000); return () => clearInterval(timer); }, []);
  if (!data) return problem ? html`<${Trouble} problem=${problem} again=${reload} />` : html`<${Loading} what="the network" />`;
  const c = data.counters;
  const heard = c.messages + c.duplicates + c.invalid;
  const share = (n) => (heard ? percent(n / heard) : '–');
  const skew = Date.now() / 1000 - data.now;
  return html`<div class="head"><div class="grow"><h1>Network</h1><p>This node’s own view: there is no centre to ask.</p></div></div>
    <div class="stack"><${Trouble} problem=${problem} />
    <${Tiles}>
      <${Tile} name="Peers connected">${data.peers.length} <small>${c.outbound} dialled by us</small><//>
      <${Tile} name="Messages heard">${rates ? rates.messages.toFixed(1) : '–'} <small>a second</small><//>
      <${Tile} name="Duplicates">${share(c.duplicates)} <small>${count(c.duplicates)}</small><//>
      <${Tile} name="Invalid">${share(c.invalid)} <small>${count(c.invalid)}</small><//>
    <//>
    <${Panel} flush title=${plural(data.peers.length, 'peer')}>${data.peers.length ? html`<div class="scroll" tabindex="0" role="region" aria-label="Peers"><table><thead><tr><th>Peer</th><th>Address</th><th>Direction</th><th class="num">Round trip</th><th class="num">Offers</th><th class="num">Score</th><th class="num">Connected</th></tr></thead>
      <tbody>${data.peers.map((peer) => html`<tr key=${peer.peer}><td><code class="nowrap" title=${peer.peer}>${short(peer.peer, 8, 6)}</code></td><td class="small" title=${peer.address}>${peer.address.split('/p2p/')[0]}</td><td><span class="nowrap">${peer.outbound ? 'we dialled' : 'it dialled'}${peer.relayed ? ', relayed' : ''}</span></td>
        <td class="num">${peer.rtt_ms === null ? html`<span class="soft">not measured yet</span>` : `${peer.rtt_ms < 10 ? peer.rtt_ms.toFixed(1) : Math.round(peer.rtt_ms)} ms`}</td><td class="num">${peer.offers}</td>
        <td class="num">${peer.strikes > 0 ? html`<span class="chip warn">${peer.strikes} strikes</span>` : html`<span class="chip good">clean</span>`}</td><td class="num">${span(now - peer.since)}</td></tr>`)}</tbody></table></div>`
    : html`<${Empty} title="No peer is connected"><p>Give the node one to start from: <code>bootstrap = ["/ip4/…/p2p/…"]</code> in its configuration, or <code>souk up --bootstrap</code>.</p><//>`}<//>
    <div class="two">
      <${Panel} title="Map"><${Map_} data=${data} /><//>
      <div class="stack">
        <${Panel} title="Gossip"><${Facts} rows=${[
          ...Object.entries(data.mesh).map(([topic, size]) => [`Mesh of ${topic}`, html`${plural(size, 'peer')} ${size === 0 && data.peers.length > 0 ? html`<span class="chip warn">nobody</span>` : ''}`]),
          ['Messages heard, published', `${count(c.messages)}, ${count(c.published)}`], ['Over the limit, blamed', `${count(c.limited)}, ${count(c.blamed)}`], ['Lost to a slow reader', `${count(c.dropped_in)} in, ${count(c.dropped_out)} out`],
          ['Traffic', `${bytes(c.bytes_in)} in, ${bytes(c.bytes_out)} out${rates ? ` (now ${bytes(rates.in)}/s and ${bytes(rates.out)}/s)` : ''}`], ['Requests', `${count(c.requests_in)} answered, ${count(c.requests_out)} made`], ['Cut off for misbehaving', count(c.cut_off)]]} /><//>
        <${Panel} title="Table of offers"><${Facts} rows=${[['Offers, peers', `${count(data.book.offers)}, ${count(data.book.peers)}`], ['Last heard', data.heard_at ? ago(data.heard_at, data.now + (now - Date.now() / 1000)) : 'nothing from others yet'], ['Taken, refused, stale', `${count(data.book.accepted)}, ${count(data.book.refused)}, ${count(data.book.stale)}`], ['Expired, withdrawn', `${count(data.book.expired)}, ${count(data.book.withdrawn)}`], ['Open demands', count(data.demands)]]} /><//>
        <${Panel} title="This node"><${Facts} rows=${[['Peer', html`<${Id} value=${data.peer} />`], ...data.addresses.map((address, i) => [i ? '' : 'Addresses', html`<code class="small">${address}</code>`]), ['Reachable', reachText(data.reach)], ['Carries for others', data.reach.relaying ? `${plural(c.relay_circuits, 'circuit')}, ${bytes(c.relay_bytes)} so far` : 'no'], ['Chain', `block ${count(data.block)}${data.block_at ? `, ${ago(data.block_at, data.now)}` : ''}`], ['Clock against this browser', Math.abs(skew) < 2 ? 'the same' : html`<span class="chip warn">${span(Math.abs(skew))} ${skew > 0 ? 'behind' : 'ahead'}</span>`]]} /><//>
      </div>
    </div></div>`;
}

// By coordinates where nodes have measured them; else by round trip alone, the direction meaning nothing.
function Map_({ data }) {
  const placed = data.peers.filter((peer) => peer.coordinate);
  const byPlace = data.coordinate && placed.length > 0;
  const turn = (key) => (parseInt(key.slice(0, 8), 16) / 0xffffffff) * Math.PI * 2;
  const dots = byPlace
    ? placed.map((peer) => ({ peer, x: peer.coordinate.x_ms - data.coordinate.x_ms, y: peer.coordinate.y_ms - data.coordinate.y_ms, rtt: peer.rtt_ms }))
    : data.peers.filter((peer) => peer.rtt_ms !== null).map((peer) => ({ peer, x: Math.cos(turn(peer.peer)) * peer.rtt_ms, y: Math.sin(turn(peer.peer)) * peer.rtt_ms, rtt: peer.rtt_ms }));
  if (!dots.length) return html`<${Empty} title="Nothing to draw yet"><p>Distances are known after the first round trips.</p><//>`;
  const far = Math.max(...dots.map((dot) => Math.hypot(dot.x, dot.y)), 0.1);
  const step = 10 ** Math.floor(Math.log10(far)) * (far / 10 ** Math.floor(Math.log10(far)) > 5 ? 5 : far / 10 ** Math.floor(Math.log10(far)) > 2 ? 2 : 1);
  const scale = 130 / Math.max(far, step);
  const rings = [1, 2].map((n) => n * step).filter((ring) => ring * scale <= 150);
  return html`<svg class="map" viewBox="-240 -150 480 300" role="img" aria-label=${`${plural(dots.length, 'peer')} around this node, the farthest ${far.toFixed(1)} ms away`}>
      ${rings.map((ring) => html`<g><circle class="ring" r=${ring * scale} /><text x="4" y=${-ring * scale - 3}>${ring} ms</text></g>`)}
      ${dots.map((dot) => html`<g><line x2=${dot.x * scale} y2=${dot.y * scale} /><circle cx=${dot.x * scale} cy=${dot.y * scale} r="6"><title>${short(dot.peer.peer, 8, 4)}</title></circle><text x=${dot.x * scale + 9} y=${dot.y * scale + 4}>${short(dot.peer.peer, 4, 2)}</text></g>`)}
      <circle class="me" r="7" /><text x="10" y="-8">this node</text></svg>
    <p class="soft small">${byPlace ? 'Placed by network coordinates (Vivaldi): distances are round trips.' : 'No coordinates are known yet: the distance from the middle is the measured round trip, the direction means nothing.'}</p>`;
}
