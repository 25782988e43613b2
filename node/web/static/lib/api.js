// Talks to the node: requests whose errors say what to do next, and its stream of news.
import { signal } from '../vendor/ui.js';

export const news = {
  changed: signal(0), // a job or an agreement
  market: signal(0),
  money: signal(0),
};
export const link = signal('connecting'); // connecting, live, lost, unknown (not signed in)

export class Problem extends Error {
  constructor(status, body) {
    super(body.message || `the node answered ${status}`);
    this.status = status;
    this.code = body.code || 'error';
    this.hint = body.hint || '';
  }
}

export async function ask(path, { method = 'GET', body, headers, raw, signal: abort } = {}) {
  let answer;
  const init = { method, headers: { ...headers }, signal: abort, credentials: 'same-origin' };
  if (method !== 'GET') {
    if (body instanceof Blob) init.body = body;
    else {
      init.headers['content-type'] = 'application/json';
      init.body = JSON.stringify(body ?? {});
    }
  }
  try {
    answer = await fetch(path, init);
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Problem(0, { code: 'unreachable', message: 'The node does not answer.', hint: 'Is it still running? The page goes on by itself when it is back.' });
  }
  if (answer.status === 401) link.value = 'unknown';
  if (!answer.ok) throw new Problem(answer.status, await answer.json().catch(() => ({})));
  return raw ? answer : answer.json();
}

export const post = (path, body, headers) => ask(path, { method: 'POST', body, headers });

// News. A hidden tab gives its connection back: a browser opens only six to one host.
let source = null;
let retry = 0;
function open() {
  if (source || document.hidden || link.value === 'unknown') return;
  source = new EventSource('/api/events');
  source.onopen = () => { retry = 0; link.value = 'live'; };
  for (const name of Object.keys(news)) {
    source.addEventListener(name, (event) => { news[name].value = JSON.parse(event.data).version || 0; });
  }
  source.onerror = () => {
    close();
    link.value = 'lost';
    setTimeout(() => lookAgain(), Math.min(8000, 500 * 2 ** retry++));
  };
}
function close() {
  if (source) source.close();
  source = null;
}
async function lookAgain() {
  try {
    await ask('/api/session');
    const session = await ask('/api/status').catch((problem) => { if (problem.status === 401) return null; throw problem; });
    if (session) { wake(); open(); }
  } catch {
    if (!document.hidden) setTimeout(lookAgain, Math.min(8000, 500 * 2 ** retry++));
  }
}
function wake() { // after a restart every number counts anew: whoever listens must look again
  for (const one of Object.values(news)) one.value = -Math.random();
}
document.addEventListener('visibilitychange', () => {
  if (document.hidden) close(); else { wake(); open(); }
});
export function listen() { open(); }
