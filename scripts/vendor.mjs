// Makes node/web/static/vendor: the page's libraries as one ES module each, with a list of versions
// and hashes. Run by hand when a version changes: node scripts/vendor.mjs. Tests check the hashes.
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const out = join(root, 'node/web/static/vendor');
const pins = join(root, 'scripts/pins/vendor');
const entries = {
  'ui.js': `export { render, Fragment } from 'preact';
    export { html } from 'htm/preact';
    export { useEffect, useLayoutEffect, useMemo, useRef, useState, useCallback } from 'preact/hooks';
    export { signal, computed, effect, batch, useSignal, useComputed, useSignalEffect }
      from '@preact/signals';`,
  'uplot.js': `export { default } from 'uplot';`,
};

const work = mkdtempSync(join(tmpdir(), 'vendor-'));
try {
  for (const name of ['package.json', 'package-lock.json']) cpSync(join(pins, name), join(work, name));
  execFileSync('npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund'], { cwd: work });
  const { build } = await import(join(work, 'node_modules/esbuild/lib/main.js'));
  rmSync(out, { recursive: true, force: true });
  mkdirSync(out, { recursive: true });
  for (const [name, contents] of Object.entries(entries)) {
    await build({
      stdin: { contents, resolveDir: work }, bundle: true, minify: true, format: 'esm',
      target: 'es2022', outfile: join(out, name), legalComments: 'none',
    });
  }
  cpSync(join(work, 'node_modules/uplot/dist/uPlot.min.css'), join(out, 'uplot.css'));
  const sha256 = (path) => createHash('sha256').update(readFileSync(path)).digest('hex');
  const { dependencies, devDependencies } = JSON.parse(readFileSync(join(pins, 'package.json')));
  const files = {};
  for (const name of [...Object.keys(entries), 'uplot.css']) files[name] = sha256(join(out, name));
  const listing = { made_by: 'scripts/vendor.mjs', versions: dependencies, tools: devDependencies, files };
  writeFileSync(join(out, 'vendor.json'), `${JSON.stringify(listing, null, 2)}\n`);
} finally {
  rmSync(work, { recursive: true, force: true });
}
