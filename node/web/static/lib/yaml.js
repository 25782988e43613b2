// Writes job files. Reading is the node's: one parser, one set of errors.
const plain = /^[A-Za-z0-9_./-][\w ./@+=-]*$/;
const words = /^(true|false|null|yes|no|on|off|~)$/i;
export const scalar = (value) => {
  const text = String(value);
  return text !== '' && plain.test(text) && !words.test(text) && text.trim() === text ? text : JSON.stringify(text);
};
const ORDER = ['name', 'image', 'kind', 'resources', 'num_nodes', 'file_mounts', 'envs', 'secrets', 'run', 'outputs', 'checkpoint', 'max_hourly_cost', 'max_duration', 'value_of_time'];
const rank = (key) => (ORDER.indexOf(key) + 1 || 99);

export function write(spec) {
  const lines = [];
  for (const key of Object.keys(spec).sort((a, b) => rank(a) - rank(b))) {
    const value = spec[key];
    if (value === undefined || value === '') continue;
    if (Array.isArray(value)) { if (value.length) lines.push(`${key}: [${value.map(scalar).join(', ')}]`); } else if (value && typeof value === 'object') {
      const inner = Object.entries(value).filter(([, one]) => one !== undefined && one !== '');
      if (!inner.length) continue;
      lines.push(`${key}:`);
      for (const [name, one] of inner) lines.push(`  ${scalar(name)}: ${Array.isArray(one) ? `[${one.map(scalar).join(', ')}]` : one === null ? 'null' : typeof one === 'object' ? JSON.stringify(one) : scalar(one)}`);
    } else if (typeof value === 'string' && value.includes('\n')) {
      lines.push(`${key}: |`, ...value.replace(/\n+$/, '').split('\n').map((line) => `  ${line}`));
    } else lines.push(`${key}: ${typeof value === 'boolean' || value === null ? value : scalar(value)}`);
  }
  return `${lines.join('\n')}\n`;
}

// Changes one value where it stands, so that comments and order stay; null where it must be rewritten.
export function edit(text, path, value) {
  if (typeof value === 'object' || String(value).includes('\n')) return null;
  const lines = text.split('\n');
  const [top, inner] = path;
  const at = lines.findIndex((line) => line.startsWith(`${top}:`));
  const replace = (i, key) => {
    const found = /^(\s*[^:#]+:)\s*("(?:[^"\\]|\\.)*"|'[^']*'|[^#\n]*?)(\s+#.*)?$/.exec(lines[i]);
    if (!found || /^[|>[{&*]/.test(found[2])) return null;
    if (!found[2] && lines[i + 1]?.startsWith('  ')) return null;
    if (value === '') lines.splice(i, 1); else lines[i] = `${key} ${scalar(value)}${found[3] || ''}`;
    return lines.join('\n');
  };
  if (!inner) {
    if (at >= 0) return replace(at, `${top}:`);
    return value === '' ? text : `${text.replace(/\n*$/, '\n')}${top}: ${scalar(value)}\n`;
  }
  if (at < 0) return value === '' ? text : `${text.replace(/\n*$/, '\n')}${top}:\n  ${inner}: ${scalar(value)}\n`;
  if (/:\s*[^\s#]/.test(lines[at])) return null;
  for (let i = at + 1; i < lines.length && (/^\s/.test(lines[i]) || !lines[i]); i++) {
    if (new RegExp(`^\\s+${inner}:`).test(lines[i])) {
      const alone = lines.slice(at + 1).findIndex((line) => line && !/^\s/.test(line));
      if (value === '' && lines.slice(at + 1, alone < 0 ? undefined : at + 1 + alone).filter((line) => line.trim()).length === 1) { lines.splice(at, 2); return lines.join('\n'); }
      return replace(i, `${/^\s+/.exec(lines[i])[0]}${inner}:`);
    }
  }
  if (value !== '') lines.splice(at + 1, 0, `  ${inner}: ${scalar(value)}`);
  return lines.join('\n');
}
