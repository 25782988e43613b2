// Wallet: connect, sign in, deposit, authorise, withdraw, stake. The key stays in the wallet.
import { html, useEffect, useState } from '../vendor/ui.js';
import { news } from '../lib/api.js';
import { date, fromBase, money, short, toBase, when } from '../lib/format.js';
import { Facts, Id, Loading, Panel, Tile, Tiles, Trouble, Tx, decimals, status, token, useAsk, useNow } from '../lib/parts.js';
import { account, chain, chosen, connect, deposit, disconnect, send, session, signIn, signOut, toChain, transactions, wallets } from '../lib/wallet.js';

// Runs one thing at a time; what went wrong stays until the next try.
export function useRun() {
  const [state, set] = useState({ busy: '', problem: null });
  const run = async (step, work) => {
    set({ busy: step, problem: null });
    try { const got = await work((text) => set({ busy: text, problem: null })); set({ busy: '', problem: null }); return got; } catch (problem) { set({ busy: '', problem }); return undefined; }
  };
  return { ...state, run };
}

export function Connect({ children }) {
  const { busy, problem, run } = useRun();
  return html`<div class="stack">${children}
    ${wallets.value.length ? html`<div class="wallets">${wallets.value.map((one) => html`<button disabled=${Boolean(busy)} onClick=${() => run(`Waiting for ${one.info.name}`, () => connect(one))}>
        ${one.info.icon?.startsWith('data:image/') && html`<img src=${one.info.icon} alt="" width="26" height="26" />`}${one.info.name}</button>`)}</div>`
    : html`<div class="note"><p><strong>No wallet was found in this browser.</strong></p><p>Install one that announces itself (EIP-6963), then reload. Everything here can also be done in the command line: <code>souk wallet</code></p></div>`}
    ${busy && html`<p class="row" role="status"><span class="spin"></span>${busy}…</p>`}<${Trouble} problem=${problem} /></div>`;
}

export function Amount({ label, max, action, onSend, busy, maxName, kind = '' }) {
  const [text, set] = useState('');
  const base = toBase(text, decimals.value);
  const most = max === undefined ? null : toBase(max, decimals.value);
  const wrong = text === '' ? '' : base === null ? `Write an amount with at most ${decimals.value} decimals.` : base === 0n ? 'Write an amount above zero.' : most !== null && base > most ? `At most ${money(max)} ${token.value}${maxName ? ` ${maxName}` : ''}.` : '';
  const id = `amount-${action.replaceAll(' ', '-')}`;
  return html`<form class="stack" onSubmit=${(event) => { event.preventDefault(); if (!wrong && base) onSend(fromBase(base, decimals.value)).then((done) => done && set('')); }}>
    <div class="field"><label for=${`${id}-in`}>${label} (${token})</label><span class="row"><input id=${`${id}-in`} class=${`grow ${wrong ? 'wrong' : ''}`} inputmode="decimal" autocomplete="off" value=${text} aria-invalid=${Boolean(wrong)} aria-describedby=${id} onInput=${(event) => set(event.target.value)} />
    ${max !== undefined && html`<button type="button" class="plain tiny" onClick=${() => set(max)}>all</button>`}
    <button class=${kind} disabled=${busy || Boolean(wrong) || !base}>${action}</button></span></div>
    <span class="error" id=${id}>${wrong}</span></form>`;
}

export default function Wallet() {
  const node = status.value;
  const address = account.value;
  const { data, problem, reload } = useAsk(address ? `/api/wallets/${address}` : `/api/wallets/${node.wallet}`, [news.money, news.changed], 2000);
  const { busy, problem: trouble, run } = useRun();
  const now = useNow(5000);
  useEffect(() => { const timer = setInterval(() => !document.hidden && reload(), 15000); return () => clearInterval(timer); }, [address]);
  const act = (kind, fields, text) => run(`${text}: answer in your wallet`, () => send(kind, fields)).then((done) => { reload(); return done; });
  const wrongChain = address && chain.value !== node.chain_id;
  const can = Boolean(address) && !wrongChain && !busy;
  const isNodes = data?.is_nodes;
  return html`<div class="head"><div class="grow"><h1>Wallet</h1><p>Your key stays in your wallet. The node’s own key may lock only what you allow it to.</p></div>
      ${address && html`<div class="row"><span class="chip accent">${chosen.value?.info.name}</span><button onClick=${disconnect}>Disconnect</button></div>`}</div>
    <div class="stack">
    <div class="stack" key="notes">${busy && html`<div class="note" role="status"><p class="row"><span class="spin"></span><strong>${busy}…</strong></p><p>You may close this tab once your wallet has sent it; the node goes on watching.</p></div>`}
    <${Trouble} problem=${trouble} /><${Trouble} problem=${problem} />
    ${wrongChain && html`<div class="note warn" role="alert"><p><strong>Your wallet is on chain ${chain}, this node trades on chain ${node.chain_id}.</strong></p><div><button onClick=${() => run('Switching the chain', () => toChain())}>Switch the chain</button></div></div>`}
    ${address && data && !isNodes && html`<div class="note warn"><p><strong>This node works for another wallet: <code>${short(data.nodes_wallet, 8, 6)}</code></strong></p><p>What you deposit with ${short(address, 8, 6)} stays yours, but this node’s jobs are not paid from it. Choose the other account in your wallet, or set <code>wallet</code> in the node’s configuration.</p></div>`}</div>
    ${data && html`<${Tiles} key="tiles">
      <${Tile} name="In the wallet">${money(data.tokens)} <small>${token}</small><//>
      <${Tile} name="Free in the escrow">${money(data.free)} <small>${token}</small><//>
      <${Tile} name="Stake, free">${money(data.stake)} <small>${token}</small><//>
      <${Tile} name="The node may still lock">${data.allowance === 'unlimited' ? 'no limit' : money(data.allowance_live ? data.allowance : 0)} <small>${data.allowance === 'unlimited' ? '' : token}</small><//>
    <//>`}
    ${!address && html`<${Panel} key="connect" title="Connect a wallet"><${Connect}><p class="soft">The page asks for your address only. ${data && html`Below is the wallet this node works for, <code>${short(data.wallet, 8, 6)}</code>.`}</p><//><//>`}
    ${data ? html`<div class="cols" key="cols"><div class="stack">
      <${Panel} title="Deposit and withdraw">
        <div class="stack"><p class="soft small">Jobs are paid from what is free in the escrow. Only your wallet can take it out.</p>
        <${Amount} label="Deposit" max=${data.tokens} maxName="is in the wallet" action="Deposit" kind="primary" busy=${!can} onSend=${(amount) => run('Preparing the deposit', (step) => deposit(amount, step)).then((done) => { reload(); return done; })} />
        <${Amount} label="Withdraw" max=${data.free} maxName="is free" action="Withdraw" busy=${!can} onSend=${(amount) => act('withdraw', { amount }, 'Withdraw')} /></div>
      <//>
      <${Panel} title="Stake">
        <div class="stack"><p class="soft small">A provider’s stake backs what it sells. On the way out it thaws before it is free.</p>
        <${Facts} rows=${[['Free', `${money(data.stake)} ${token.value}`], Number(data.locked) > 0 && ['Locked by agreements', `${money(data.locked)} ${token.value}`], ['Thawing', `${money(data.thawing)} ${token.value}${data.thaws_at && Number(data.thawing) ? `, free ${data.thaws_at > now ? `at ${when(data.thaws_at)}` : 'now'}` : ''}`]]} />
        <${Amount} label="Add stake" max=${data.free} maxName="is free in the escrow" action="Stake" busy=${!can} onSend=${(amount) => act('stake', { amount }, 'Stake')} />
        <${Amount} label="Take stake out" max=${data.stake} maxName="is not locked" action="Unstake" busy=${!can} onSend=${(amount) => act('unstake', { amount }, 'Unstake')} />
        ${Number(data.thawing) > 0 && html`<button disabled=${!can || data.thaws_at > now} onClick=${() => act('complete_unstake', {}, 'Take thawed stake back')}>Take thawed stake back</button>`}</div>
      <//>
      </div><div class="stack">
      <${Authorise} data=${data} now=${now} can=${can} act=${act} />
      <${Panel} title="Session"><div class="stack">
        <p class="soft small">Signing in proves to the node that this browser’s user holds the wallet. It moves no money, and where the owner has let wallets in it is all you need to use the node from elsewhere.</p>
        ${session.value ? html`<p class="row"><span class="chip good">signed in</span><code>${short(session.value, 8, 6)}</code></p><div><button onClick=${signOut}>Sign out</button></div>`
          : html`<div><button disabled=${!address || busy} onClick=${() => run('Sign in: answer in your wallet', signIn)}>Sign in with the wallet</button></div>`}</div><//>
      <${Panel} title="Chain and contracts"><${Facts} rows=${[
        ['Network', node.network], ['Chain', data.chain_id], ['Wallet', html`<${Id} value=${data.wallet} />`],
        ['Escrow', html`<${Id} value=${data.escrow} />`], [`Token ${data.symbol}`, html`<${Id} value=${data.token} />`],
        ['Node’s key', html`<${Id} value=${data.operator} />`], ['Its gas', `${money(fromBase(BigInt(data.operator_gas_wei), 18), 5)} ETH${data.operator_gas_wei === '0' ? ': it cannot send anything' : ''}`]]} /><//>
      </div>
    </div>` : !problem && html`<${Loading} what="the escrow" />`}
    <${Sent} />
    </div>`;
}

function Authorise({ data, now, can, act }) {
  const [days, set] = useState('30');
  const live = data.allowance_live && data.allowance !== '0';
  const left = data.allowance_expires - now;
  return html`<${Panel} title="Let the node pay for jobs" side=${live ? html`<span class="chip good">authorised</span>` : data.allowance_expires ? html`<span class="chip warn">expired or used up</span>` : html`<span class="chip">not yet</span>`}>
    <div class="stack"><p class="soft small">The node’s key may open agreements with up to this much in all, until the date. A refund does not give the allowance back. It can never withdraw.</p>
    ${live && html`<${Facts} rows=${[['Left', data.allowance === 'unlimited' ? 'no limit' : `${money(data.allowance)} ${token.value}`], ['Until', `${date(data.allowance_expires)}, ${when(data.allowance_expires)}`]]} />`}
    ${live && left < 86400 && html`<div class="note warn"><p>It ends within a day. Authorise anew before a long job.</p></div>`}
    <label class="field">For how long<select value=${days} onChange=${(event) => set(event.target.value)}>${[['1', 'a day'], ['7', 'a week'], ['30', '30 days'], ['90', '90 days'], ['364', 'a year']].map(([value, name]) => html`<option value=${value} selected=${days === value}>${name}</option>`)}</select></label>
    <${Amount} label="Up to, in all" action="Authorise" kind="primary" busy=${!can} onSend=${(allowance) => act('authorise', { allowance, expires: Math.floor(data.now) + Number(days) * 86400 - 60 }, 'Authorise')} />
    ${live && html`<button disabled=${!can} class="danger" onClick=${() => act('revoke', {}, 'Revoke')}>Take the authorisation back</button>`}</div><//>`;
}

const STATES = { pending: ['info', 'waiting to be mined'], mined: ['good', 'mined'], failed: ['bad', 'refused by the chain'], lost: ['bad', 'not seen by the chain'] };
function Sent() {
  const rows = transactions.value;
  if (!rows.length) return null;
  return html`<${Panel} flush title="Sent from this browser’s wallets"><div class="scroll" tabindex="0" role="region" aria-label="Transactions"><table><thead><tr><th>What</th><th>State</th><th>Transaction</th><th class="num">When</th></tr></thead>
    <tbody>${rows.map((one) => html`<tr key=${one.tx}><td>${one.what}${one.problem && html`<div class="error">${one.problem}</div>`}</td><td><span class=${`chip ${STATES[one.state][0]}`}>${STATES[one.state][1]}${one.block ? `, block ${one.block}` : ''}</span></td><td><${Tx} hash=${one.tx} /></td><td class="num">${when(one.since)}</td></tr>`)}</tbody></table></div><//>`;
}
