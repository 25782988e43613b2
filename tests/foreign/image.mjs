// A job's image as an archive (see `Manifest`): one tar that is an OCI image layout, with one layer
// that holds a static busybox.

import { sha256 } from './codec.mjs'

const APPLETS = ['sh', 'cat', 'echo', 'mkdir', 'sleep', 'seq']

export function imageOf (busybox) {
  const layer = tar([
    { name: 'bin', type: '5', mode: 0o755 },
    { name: 'bin/busybox', mode: 0o755, data: busybox },
    ...APPLETS.map(name => ({ name: `bin/${name}`, type: '2', link: 'busybox' }))
  ])
  const config = json({
    architecture: 'amd64',
    os: 'linux',
    config: { Env: ['PATH=/bin'] },
    rootfs: { type: 'layers', diff_ids: [named(layer)] }
  })
  const manifest = json({
    schemaVersion: 2,
    mediaType: 'application/vnd.oci.image.manifest.v1+json',
    config: { mediaType: 'application/vnd.oci.image.config.v1+json', ...described(config) },
    layers: [{ mediaType: 'application/vnd.oci.image.layer.v1.tar', ...described(layer) }]
  })
  const index = json({
    schemaVersion: 2,
    manifests: [{ mediaType: 'application/vnd.oci.image.manifest.v1+json', ...described(manifest) }]
  })
  return tar([
    { name: 'oci-layout', data: json({ imageLayoutVersion: '1.0.0' }) },
    { name: 'index.json', data: index },
    ...[layer, config, manifest].map(data => (
      { name: `blobs/sha256/${sha256(data).toString('hex')}`, data }
    ))
  ])
}

const json = value => Buffer.from(JSON.stringify(value))
const named = data => `sha256:${sha256(data).toString('hex')}`
const described = data => ({ digest: named(data), size: data.length })

/** POSIX ustar. */
function tar (entries) {
  const parts = []
  for (const { name, type = '0', mode = 0o644, link = '', data = Buffer.alloc(0) } of entries) {
    const header = Buffer.alloc(512)
    const octal = (value, at, size) => header.write(value.toString(8).padStart(size - 1, '0') + '\0', at)
    header.write(name, 0)
    octal(mode, 100, 8)
    octal(0, 108, 8)
    octal(0, 116, 8)
    octal(data.length, 124, 12)
    octal(0, 136, 12)
    header.write('        ', 148)
    header.write(type, 156)
    header.write(link, 157)
    header.write('ustar\u000000', 257)
    octal(header.reduce((sum, byte) => sum + byte, 0), 148, 7)
    parts.push(header, data, Buffer.alloc(-data.length & 511))
  }
  return Buffer.concat([...parts, Buffer.alloc(1024)])
}
