// The browser's wallet: found by EIP-6963, spoken to by raw EIP-1193. No key is ever here. The node
// prepares each transaction, says beforehand why it would be refused, and watches it until mined.
import { signal } from '../vendor/ui.js';
import { ask, news, post } from './api.js';
import { say, status } from './parts.js';

export const wallets = signal([]); // announced: {info: {uuid, name, icon, rdns}, provider}
export const account = signal(''); // the connected account, lower case
export const chain = signal(0); // the chain the wallet is on
export const chosen = signal(null);
export const session = signal(''); // the account that has signed in to the node
const ANSWER_MS = 180000;
const listened = new WeakSet();

const remembered = () => localStorage.getItem('souk.wallet');
const NATIVE = { name: 'Ether', symbol: 'ETH', decimals: 18 };

// Every way a wallet can say no, in words, and what to do.
export class WalletProblem extends Error {
  constructor(code, message, hint) { super(message); this.code = code; this.hint = hint; }
}
export function explain(error) {
  if (error instanceof WalletProblem || error.status !== undefined) return error;
  const text = `${error?.message || ''} ${error?.data?.message || ''} ${error?.data?.originalError?.message || ''}`.toLowerCase();
  const code = error?.code ?? error?.data?.originalError?.code;
  const made = (message, hint) => new WalletProblem(code, message, hint);
  if (code === 4001 || text.includes('user rejected') || text.includes('user denied')) return made('You declined the request in your wallet.', 'Nothing was sent. You can start again at any time.');
  if (code === 4100) return made('Your wallet has not given this page that account.', 'Connect again, and allow the account in your wallet.');
  if (code === 4200) return made('Your wallet does not know this kind of request.', 'Update it, or use another wallet.');
  if (code === 4900) return made('Your wallet has lost its connection.', 'Check its network settings, then try again.');
  if (code === 4901) return made('Your wallet is not connected to this node’s chain.', 'Check the chain in your wallet, then try again.');
  if (code === 4902) return made('Your wallet does not know this node’s chain, and did not add it.', 'Add it by hand: the chain is on the wallet page.');
  if (code === -32002) return made('Your wallet is already waiting for your answer.', 'Open it, and answer the question it shows.');
  if (text.includes('insufficient funds')) return made('Your account has too little of the chain’s own coin to pay for gas.', 'Send it some, then try again.');
  if (text.includes('nonce')) return made('Your wallet and the chain disagree on the transaction’s number.', 'Wait for what is pending, or reset the account in the wallet’s settings.');
  if (code === -32601) return made('Your wallet does not offer this function.', 'Use another wallet.');
  return made('Your wallet could not do it.', error?.message ? `It says: ${String(error.message).slice(0, 200)}` : 'It gave no reason.');
}

async function request(method, params) {
  if (!chosen.value) throw new WalletProblem(0, 'No wallet is connected.', 'Connect one on the wallet page.');
  let timer;
  const late = new Promise((_, fail) => { timer = setTimeout(() => fail(new WalletProblem('timeout', 'Your wallet has not answered for 3 minutes.', 'Open it: the question may still be there. Nothing is known to be sent.')), window.soukAnswerMs || ANSWER_MS); });
  try {
    return await Promise.race([chosen.value.provider.request({ method, params }), late]);
  } catch (error) {
    throw explain(error);
  } finally { clearTimeout(timer); }
}

function adopt(wallet, accounts, chainId) {
  chosen.value = wallet;
  account.value = (accounts[0] || '').toLowerCase();
  chain.value = Number(chainId);
  localStorage.setItem('souk.wallet', wallet.info.rdns || wallet.info.uuid);
  if (listened.has(wallet.provider)) return;
  listened.add(wallet.provider);
  wallet.provider.on?.('accountsChanged', (now) => {
    const next = (now[0] || '').toLowerCase();
    if (next === account.value) return;
    account.value = next;
    if (session.value) signOut();
    say('warn', next ? 'Your wallet now uses another account.' : 'Your wallet has disconnected this page.', next ? 'What you had begun with the other account was not sent.' : 'Connect again to go on.');
  });
  wallet.provider.on?.('chainChanged', (id) => { chain.value = Number(id); });
  wallet.provider.on?.('disconnect', () => { account.value = ''; say('warn', 'Your wallet has disconnected.', 'Connect again to go on.'); });
}

// After a reload: silently, by what the wallet already allows; never a prompt.
export async function resume() {
  const wallet = wallets.value.find((one) => one.info.rdns === remembered() || one.info.uuid === remembered());
  if (!wallet || chosen.value) return;
  try {
    const accounts = await wallet.provider.request({ method: 'eth_accounts' });
    if (!accounts.length) return;
    adopt(wallet, accounts, await wallet.provider.request({ method: 'eth_chainId' }));
    session.value = ((await ask('/api/session')).wallet || '').toLowerCase();
    if (session.value && session.value !== account.value) await signOut();
    keepWatching();
  } catch { /* a wallet that does not answer now is connected by hand */ }
}

export async function connect(wallet, { anyChain } = {}) {
  chosen.value = wallet;
  try {
    const accounts = await request('eth_requestAccounts');
    if (!accounts?.length) throw new WalletProblem(4100, 'Your wallet gave this page no account.', 'Unlock it and allow one.');
    adopt(wallet, accounts, await request('eth_chainId'));
    if (!anyChain) await toChain();
  } catch (error) {
    if (!account.value) chosen.value = null;
    throw explain(error);
  }
}

export function disconnect() {
  localStorage.removeItem('souk.wallet');
  account.value = '';
  chosen.value = null;
  if (session.value) signOut();
}

export async function toChain() {
  const wanted = status.value?.chain_id;
  if (!wanted || chain.value === wanted) return;
  const chainId = `0x${wanted.toString(16)}`;
  try {
    await request('wallet_switchEthereumChain', [{ chainId }]);
  } catch (error) {
    if (error.code !== 4902) throw error;
    const known = await ask('/api/chain');
    await request('wallet_addEthereumChain', [{ chainId, chainName: known.name, rpcUrls: known.rpc, nativeCurrency: NATIVE, ...(known.explorer ? { blockExplorerUrls: [known.explorer] } : {}) }]);
    await request('wallet_switchEthereumChain', [{ chainId }]);
  }
  chain.value = Number(await request('eth_chainId'));
  if (chain.value !== wanted) throw new WalletProblem('chain', `Your wallet is on chain ${chain.value}, this node trades on chain ${wanted}.`, 'Switch the chain in your wallet, then try again.');
}

const hex = (text) => `0x${[...new TextEncoder().encode(text)].map((byte) => byte.toString(16).padStart(2, '0')).join('')}`;
export async function signIn() {
  const wallet = account.value;
  const { nonce, message } = await post('/api/session/challenge', { wallet });
  const signature = await request('personal_sign', [hex(message), wallet]);
  unchanged(wallet);
  session.value = (await post('/api/session', { nonce, signature })).wallet.toLowerCase();
}
export async function signOut() {
  session.value = '';
  await ask('/api/session', { method: 'DELETE' }).catch(() => {});
}

function unchanged(wallet) {
  if (account.value !== wallet) throw new WalletProblem('account', 'Your wallet changed its account meanwhile.', 'Nothing was sent. Start again with the account you want.');
}

// One errand: prepared by the node, signed and sent by the wallet, watched by the node.
export async function send(kind, fields = {}) {
  const wallet = account.value;
  await toChain();
  unchanged(wallet);
  const call = await post('/api/wallets/call', { wallet, kind, ...fields });
  if (call.refusal) throw new WalletProblem('refused', `Not sent: ${call.refusal.message}.`, call.refusal.hint && `${call.refusal.hint[0].toUpperCase()}${call.refusal.hint.slice(1)}.`);
  const tx = await request('eth_sendTransaction', [call.transaction]);
  remember({ tx, what: call.what, wallet });
  await post('/api/transactions', { tx, what: call.what, wallet });
  return mined(tx);
}

// Deposit with one signature and one transaction where the token has a permit, else with two.
export async function deposit(amount, onStep = () => {}) {
  const wallet = account.value;
  await toChain();
  const { typed_data: data, deadline } = await post('/api/wallets/permit', { wallet, amount });
  if (data) {
    onStep('Sign the permit in your wallet');
    try {
      const signature = await request('eth_signTypedData_v4', [wallet, JSON.stringify(data)]);
      unchanged(wallet);
      onStep('Send the deposit in your wallet');
      return await send('deposit_with_permit', { amount, deadline, signature });
    } catch (error) {
      if (error.code !== 4200 && error.code !== -32601) throw error;
    }
  }
  onStep('Let the escrow take the amount');
  await send('approve', { amount });
  onStep('Send the deposit in your wallet');
  return send('deposit', { amount });
}

// What was sent survives a closed tab: kept here until the node has seen how it ended.
const sent = () => JSON.parse(localStorage.getItem('souk.sent') || '[]');
const remember = (one) => localStorage.setItem('souk.sent', JSON.stringify([one, ...sent()].slice(0, 20)));
const forget = (tx) => localStorage.setItem('souk.sent', JSON.stringify(sent().filter((one) => one.tx !== tx)));

export const transactions = signal([]);
export async function keepWatching() {
  for (const one of sent()) await post('/api/transactions', one).catch(() => {});
  await look();
}
async function look() {
  try {
    transactions.value = await ask('/api/transactions');
  } catch { return; }
  for (const one of transactions.value) {
    if (one.state === 'pending' || !sent().some((kept) => kept.tx === one.tx)) continue;
    forget(one.tx);
    if (one.state === 'mined') say('good', `${one.what}: mined in block ${one.block}.`);
    else if (one.state === 'failed') say('bad', `${one.what}: the chain refused it.`, one.problem);
    else say('bad', `${one.what}: no endpoint of the chain has seen it.`, 'It may have been dropped. Look in your wallet.');
  }
}
news.money.subscribe(() => { if (status.value) look(); });

function mined(tx) {
  return new Promise((done, fail) => {
    const stop = transactions.subscribe((all) => {
      const one = all.find((row) => row.tx === tx);
      if (!one || one.state === 'pending') return;
      queueMicrotask(() => stop());
      if (one.state === 'mined') done(one);
      else fail(new WalletProblem(one.state, one.state === 'failed' ? `The chain refused it: ${one.problem}.` : 'No endpoint of the chain has seen the transaction.', one.hint));
    });
    look();
  });
}

// Last, because a wallet may announce itself while it is asked to.
addEventListener('eip6963:announceProvider', ({ detail }) => {
  if (!detail?.info?.uuid || !detail.provider || wallets.value.some((one) => one.info.uuid === detail.info.uuid)) return;
  wallets.value = [...wallets.value, detail];
  if (remembered() === detail.info.rdns && !chosen.value) resume();
});
dispatchEvent(new Event('eip6963:requestProvider'));
