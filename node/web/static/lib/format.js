// How numbers, times and names are written. Every number has its unit.
const digits = (most) => new Intl.NumberFormat('en', { maximumFractionDigits: most });
const [whole, one, two, four, six] = [0, 1, 2, 4, 6].map(digits);

export const count = (n) => whole.format(n);
export const plural = (n, word) => `${count(n)} ${word}${n === 1 ? '' : 's'}`;
export const number = (n) => one.format(n);
export function money(text, most) { // decimal text of whole tokens
  const value = Number(text);
  if (!Number.isFinite(value)) return '–';
  if (most !== undefined) return digits(most).format(value);
  const size = Math.abs(value);
  return (size === 0 || size >= 100 ? two : size >= 0.1 ? four : six).format(value);
}
const [three, five] = [3, 5].map(digits);
export const price = (value) => (value >= 10 ? two : value >= 0.1 ? three : value >= 0.01 ? four : value >= 0.001 ? five : six).format(value);
export const aligned = (value) => value.toFixed(value >= 10 ? 2 : value >= 0.001 ? 4 : 6); // in a column, point below point
export const percent = (share, most = 1) => `${digits(most).format(share * 100)} %`;
export function span(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60 ? `${s % 60} s` : ''}`.trim();
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60) || ''}${s % 3600 >= 60 ? ' min' : ''}`.trim();
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}
export function bytes(n) {
  for (const unit of ['B', 'KiB', 'MiB', 'GiB']) {
    if (n < 1024) return `${(unit === 'B' ? whole : one).format(n)} ${unit}`;
    n /= 1024;
  }
  return `${one.format(n)} TiB`;
}
export const gib = (n) => `${one.format(n)} GiB`;
export const short = (text, head = 6, tail = 4) => (text && text.length > head + tail + 1 ? `${text.slice(0, head)}…${text.slice(-tail)}` : text || '–');
const clock = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit', second: '2-digit' });
const day = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short', year: 'numeric' });
const both = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short', hour: '2-digit', minute: '2-digit', second: '2-digit' });
export const time = (at) => clock.format(at * 1000);
export const date = (at) => day.format(at * 1000);
export const when = (at) => (Date.now() / 1000 - at < 43200 ? time(at) : both.format(at * 1000));
export const ago = (at, now = Date.now() / 1000) => `${span(now - at)} ago`;
// Whole tokens as typed, to base units and back, exactly.
export function toBase(text, decimals) {
  const found = /^(\d+)(?:\.(\d*))?$/.exec(String(text).trim());
  if (!found || (found[2] || '').length > decimals) return null;
  return BigInt(found[1] + (found[2] || '').padEnd(decimals, '0'));
}
export function fromBase(units, decimals) {
  const text = units.toString().padStart(decimals + 1, '0');
  const fraction = text.slice(text.length - decimals).replace(/0+$/, '');
  return text.slice(0, text.length - decimals) + (fraction ? `.${fraction}` : '');
}
